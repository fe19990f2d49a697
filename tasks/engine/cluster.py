"""The Ray cluster that a night has: connecting to it, and the room that its nodes have for workers."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from math import floor

from pairloom.tasks.engine.config import EngineConfig, RayWorkerConfig

ANSWER_SECONDS = 5.0
_MIB = 2**20


def require_engine(engine: EngineConfig) -> None:
    """Raises ValueError where Ray is asked for and not installed, ConnectionError where its cluster doesn't answer."""
    if engine.kind == "ray":
        with connected(engine):
            pass


@contextmanager
def connected(engine: EngineConfig) -> Iterator[None]:
    """This process is a driver of the cluster inside. No longer: what stays connected ends when the cluster does.

    A connection that the program has already is used, and left.
    """
    if find_spec("ray") is None:
        raise ValueError("engine.kind: ray needs Ray, which isn't installed: pip install 'pairloom[ray]'")
    import ray

    if ray.is_initialized():
        yield
        return
    _require_answer(engine.address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        # What workers log stays on their nodes: standard output is the command's own.
        ray.init(address=engine.address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _unreachable(engine.address, str(error)) from error
    finally:
        # Ray takes it for itself; a night's end is not Ray's.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    try:
        yield
    finally:
        ray.shutdown()


def room(wanted: RayWorkerConfig) -> int:
    """How many workers the nodes that are up have room for, one beside the other."""
    import ray

    taken = {"CPU": wanted.num_cpus, "GPU": wanted.num_gpus, "memory": (wanted.memory_mb or 0) * _MIB}
    return sum(
        min(floor(node["Resources"].get(name, 0) / amount) for name, amount in taken.items() if amount)
        for node in ray.nodes()
        if node["Alive"]
    )


def _require_answer(address: str) -> None:
    """Ask at an address that is known before Ray does, which would try for minutes."""
    known = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = known.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(known, str(error)) from error


def _unreachable(address: str, said: str) -> ConnectionError:
    reason = said.strip().partition("\n")[0] or "it doesn't answer"
    return ConnectionError(
        f"engine.address: no Ray cluster can be reached at {address} ({reason}): start one (`ray start --head`), run "
        "the night on one of its machines, or set engine.kind to local"
    )
