"""How far a training is, in words."""

from pathlib import Path

from pairloom.models.training.log import TrainingProgress, read_log
from pairloom.tasks.stage import report_progress, standing


def show(progress: TrainingProgress) -> None:
    """Pass the trainer's progress on."""
    left = (
        f"{progress.eta_seconds / 60:.0f} min left"
        if progress.eta_seconds >= 90
        else f"{progress.eta_seconds:.0f} s left"
    )
    note = f"loss {progress.loss:.3f} · {progress.samples_per_second:,.0f} samples/s · {left}"
    at = standing()
    report_progress(at.stage if at else "train", progress.fraction, 1.0, note)


def show_log(folder: Path) -> None:
    """Pass on the progress of a training in other processes."""
    if lines := read_log(folder):
        last = lines[-1]
        rates = (last["loss"], last["samples_per_second"], last["eta_seconds"])
        show(TrainingProgress(int(last["step"]), last["fraction"], *rates))
