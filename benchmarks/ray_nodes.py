"""A real Ray cluster of several nodes on this machine, one CPU each, of which any but the first can be lost.

    python -m benchmarks.ray_nodes 2 1 FOLDER      until its standard input ends

A process of its own starts the nodes: however whoever asked for them ends, that one hears of it, and ends them.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

FILE = "nodes.json"
OBJECT_STORE = 80 * 2**20
END_SECONDS = 60
SETTINGS = {
    # Of its own accord Ray tells its makers of every cluster, and gives all other programs the way.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # On a machine that is busy otherwise all takes its time; a process that ends is missed at once all the same.
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_health_check_failure_threshold": "60",
}


@dataclass(frozen=True)
class Nodes:
    """The nodes of a cluster that is up."""

    address: str
    """`host:port` of the head."""
    raylets: tuple[int, ...]
    """The process of each node that started all others there."""
    host: int
    """The process that started the nodes."""

    def lose(self, number: int) -> None:
        """End all processes of a node by SIGKILL at once, as a power cut would; the head is number 0."""
        raylet = psutil.Process(self.raylets[number])
        for each in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()

    def busiest(self) -> int:
        """The node whose worker has computed most."""
        spent = {number: self._spent(pid) for number, pid in enumerate(self.raylets)}
        return max(spent, key=lambda number: spent[number])

    def _spent(self, raylet: int) -> float:
        spent = 0.0
        for each in psutil.Process(raylet).children():
            with contextlib.suppress(psutil.Error):
                if "ray::Worker" in " ".join(each.cmdline()):
                    spent += each.cpu_times().user
        return spent

    def processes(self) -> list[psutil.Process]:
        """All processes of all nodes."""
        found: list[psutil.Process] = psutil.Process(self.host).children(recursive=True)
        return found


@contextlib.contextmanager
def ray_nodes(count: int, head_cpus: int = 1) -> Iterator[Nodes]:
    """So many nodes. They end with this block."""
    # A socket's path may have some hundred bytes only.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "benchmarks.ray_nodes", str(count), str(head_cpus), folder]
        host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        assert host.stdin is not None
        try:
            started = Path(folder) / FILE
            while not started.exists():
                if host.poll() is not None:
                    raise RuntimeError(f"the Ray nodes did not start: exit status {host.returncode}")
                time.sleep(0.05)
            found = json.loads(started.read_text("utf-8"))
            yield Nodes(found["address"], tuple(found["raylets"]), host.pid)
        finally:
            family = psutil.Process(host.pid).children(recursive=True) if host.poll() is None else []
            host.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.wait(END_SECONDS)
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            host.kill()
            host.wait()


def main() -> None:
    """Start the nodes, write down where they are, and end them when nobody wants them any more."""
    count, head_cpus, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    # Where it notes the cluster that was started last: a developer's own stays the one that `auto` means to him.
    os.environ |= SETTINGS | {"RAY_TMPDIR": str(folder)}
    (folder / "ray").mkdir()
    from ray.cluster_utils import Cluster

    common = {
        "num_cpus": 1,
        "object_store_memory": OBJECT_STORE,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "temp_dir": str(folder / "ray"),
    }
    cluster = Cluster(initialize_head=True, head_node_args={**common, "num_cpus": head_cpus})
    nodes = [cluster.head_node, *(cluster.add_node(**common) for _ in range(count - 1))]
    raylets = [each.process.pid for node in nodes for each in node.all_processes["raylet"]]
    aside = folder / f"{FILE}.partial"
    aside.write_text(json.dumps({"address": cluster.address, "raylets": raylets}), encoding="utf-8")
    aside.replace(folder / FILE)
    try:
        sys.stdin.buffer.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
