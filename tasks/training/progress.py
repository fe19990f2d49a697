"""How far a training is, in words."""

from pathlib import Path

from pairloom.models.training.log import TrainingProgress, last_line
from pairloom.tasks.stage import report_progress, standing


def stage_at_hand() -> str:
    """The stage whose training this is, as people see it."""
    at = standing()
    return at.stage if at else "train"


def show(progress: TrainingProgress) -> None:
    """Pass the trainer's progress on."""
    left = (
        f"{progress.eta_seconds / 60:.0f} min left"
        if progress.eta_seconds >= 90
        else f"{progress.eta_seconds:.0f} s left"
    )
    note = f"loss {progress.loss:.3f} · {progress.samples_per_second:,.0f} samples/s · {left}"
    report_progress(stage_at_hand(), progress.fraction, 1.0, note)


def show_log(folder: Path, before: str) -> None:
    """Pass on the progress of a training in other processes; what is `before` they have said anything."""
    if last := last_line(folder):
        rates = (last["loss"], last["samples_per_second"], last["eta_seconds"])
        show(TrainingProgress(int(last["step"]), last["fraction"], *rates))
    else:
        report_progress(stage_at_hand(), 0, None, before)
