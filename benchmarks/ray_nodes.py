"""A real Ray cluster of several nodes on this machine: a head, and nodes that can be lost at any moment."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import psutil

OBJECT_STORE = 80 * 2**20


class Nodes:
    """The nodes of a cluster, one CPU each."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._lost: list[Any] = []

    @property
    def address(self) -> str:
        """`host:port` of the head."""
        return str(self._cluster.address)

    def add(self) -> Any:
        """One more node, up and known to the head."""
        return self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)

    def lose(self, node: Any) -> None:
        """End all processes of a node by SIGKILL at once, as a power cut would."""
        raylets = [each.process.pid for each in node.all_processes["raylet"]]
        with contextlib.suppress(psutil.NoSuchProcess):
            doomed = [psutil.Process(pid) for pid in raylets]
            for each in [*doomed, *(child for own in doomed for child in own.children(recursive=True))]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self._cluster.remove_node(node, allow_graceful=False)


@contextlib.contextmanager
def ray_nodes(count: int) -> Iterator[Nodes]:
    """So many nodes, the head included; they end with this block, and with this process, however that ends."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = Nodes(cluster)
    try:
        for _ in range(count - 1):
            nodes.add()
        yield nodes
    finally:
        cluster.shutdown()
