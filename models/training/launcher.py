"""Starts the processes that train together on this machine, and watches over them."""

import contextlib
import contextvars
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch

from pairloom.models.child_process import follow_parent, unheard_by_children
from pairloom.models.ranks import first_rank, launched
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.rank_log import RankLog

RESTARTS = 2
"""After a process died or hung, all start again from the last checkpoint this often."""


def processes_wanted(config: TrainingConfig) -> int:
    """How many processes to start here: one for each GPU, or as configured; 1 where torchrun has started them."""
    if launched():
        return 1
    return max(torch.cuda.device_count(), 1) if config.processes == "auto" else config.processes


def launch(
    function: Callable[..., object], arguments: tuple[Any, ...], processes: int, *, watch: Callable[[], None]
) -> None:
    """Runs `function` in as many processes, each a rank, through PyTorch's elastic agent; calls `watch` once a second.

    The agent ends all where one dies, and starts them again. RuntimeError, with the first one's reason, where that
    doesn't help. What the first rank logs is logged here.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=RESTARTS,
        monitor_interval=0.5,
        shutdown_timeout=5,
        # An interrupt and SIGTERM are left to the program: if it ends, its ranks do.
        signals_to_handle="SIGHUP,SIGQUIT",
    )
    with tempfile.TemporaryDirectory() as folder:
        log = RankLog(Path(folder) / "log.jsonl")
        try:
            with _watched(log, watch), unheard_by_children():
                elastic_launch(config, _rank)(log, function, *arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            # What a process wrote of its end is a document, what the agent saw of it a sentence.
            reason = failure.message["message"] if isinstance(failure.message, dict) else failure.message
            raise RuntimeError(
                f"training in {processes} processes failed {RESTARTS + 1} times; rank {rank} said: {reason}"
            ) from error


def _rank(log: RankLog, function: Callable[..., object], *arguments: Any) -> None:
    follow_parent()
    if first_rank():
        log.keep()
    function(*arguments)


@contextlib.contextmanager
def _watched(log: RankLog, watch: Callable[[], None]) -> Iterator[None]:
    over: SimpleQueue[None] = SimpleQueue()
    # Who hears of the progress is a context variable.
    within = contextvars.copy_context().run
    watcher = threading.Thread(target=within, args=(_watch, log, watch, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.put(None)
        watcher.join()


def _watch(log: RankLog, watch: Callable[[], None], over: "SimpleQueue[None]") -> None:
    ended = False
    while not ended:
        with contextlib.suppress(Empty):
            over.get(timeout=1.0)
            ended = True
        log.say()
        # Between two lines of the log there may be nothing to show.
        with contextlib.suppress(OSError):
            watch()
