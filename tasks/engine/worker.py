"""One worker of a stage, in a process of its own on some node of a Ray cluster."""

import importlib.metadata
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pairloom.models.arrays import take_cpus
from pairloom.tasks.engine.config import RayWorkerConfig

PACKAGES = ("numpy", "open_clip_torch", "pillow", "pyarrow", "torch")
"""What decides, beside Pairloom itself, what is made of images and texts."""


class Worker:
    """Opened once, then given one job after another."""

    def open(
        self, opened: Callable[[], Callable[[Any], Any]], share: RayWorkerConfig, versions: Mapping[str, str]
    ) -> str:
        """Get ready: load the model, say. Returns the machine's name.

        Raises ValueError where this node has other versions of what decides the results.
        """
        require_versions(versions)
        if not share.num_gpus:
            # Ray leaves them all in sight of those who asked for none.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        take_cpus(max(int(share.num_cpus), 1))
        self._work = opened()
        return socket.gethostname()

    def answer(self) -> None:
        """Show that it is there."""

    def do(self, job: Any) -> Any:
        """What is made of a job."""
        return self._work(job)


def package_versions() -> dict[str, str]:
    """The versions, here, of what decides the results."""
    package = sys.modules["pairloom"]
    return {"pairloom": str(package.__version__), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def require_versions(wanted: Mapping[str, str]) -> None:
    """Raises ValueError where they differ here from those of the night's machine."""
    for name, here in package_versions().items():
        if here != wanted[name]:
            raise ValueError(
                f"node {socket.gethostname()} of the Ray cluster has {name} {here}, and the machine of the night "
                f"{wanted[name]}: install the same versions on all of them"
            )
