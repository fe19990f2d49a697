"""Progress on standard error: a bar for each stage, or lines where there is no terminal."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from pairloom.flows.interrupt import watch
from pairloom.tasks.stage import listen, standing

err = Console(stderr=True)

COLUMNS = (
    SpinnerColumn(),
    # A long note is cut where the terminal is narrow, not the stage's name.
    TextColumn("{task.description:<9}", markup=False),
    BarColumn(bar_width=12),
    TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
    TimeElapsedColumn(),
)


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, moved by calling it with what is done and the total."""
    with Progress(*COLUMNS, console=err, expand=True) as progress:
        shown = progress.add_task(title, total=None, note="")
        yield lambda done, total: progress.update(shown, completed=done, total=total, note=f"{done:,} of {total:,}")


@contextmanager
def stage_bars(*, quiet: bool) -> Iterator[None]:
    """A bar for every stage that runs inside; where `quiet`, or where there is no terminal, lines in the log."""
    watch.stage = _stage
    if quiet or not err.is_terminal:
        logging.getLogger("pairloom.tasks").setLevel(logging.INFO)
        yield
        return
    with Progress(*COLUMNS, console=err, expand=True) as progress:
        bars: dict[str, TaskID] = {}

        def hear(stage: str, done: float, total: float | None, note: str) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total, note=note)
            counted = f"{done:,.0f}" if total is None else f"{done / total if total else 1:.0%}"
            progress.update(bars[stage], completed=done, total=total, note=note or (counted if done else ""))

        listen(hear)
        try:
            yield
        finally:
            # The next night of this process, or a stage in between, has no bars, or others.
            listen(None)


def _stage() -> str | None:
    now = standing()
    return now.stage if now else None
