"""A process that tells the trackers of one night: `python -m pairloom.tasks.tracking.send`, with the night as JSON on
standard input. It ends with 0, or with what went wrong on standard error."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pairloom.tasks.tracking.night import TrackedNight

PACKAGES = {"mlflow": "'pairloom[mlflow]'", "wandb": "wandb"}
AT_ONCE = 100
"""No tracker takes more settings in one call; of metrics MLflow takes ten times as many."""
LONGEST = 500
"""Characters of a setting or tag that every version of MLflow takes."""
_ODD = re.compile(r"[^\w\-. :/]")


def to_mlflow(night: TrackedNight) -> None:
    """One run of an experiment that is made where it is missing; `@` in a metric's name becomes `_at_`."""
    from mlflow.entities import Metric, Param, RunStatus
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=night.tracking.mlflow)
    name = night.tracking.experiment or night.pipeline
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    tags = {f"pairloom.{tag}": value[:LONGEST] for tag, value in night.tags.items()}
    run = client.create_run(number, run_name=night.name, tags=tags).info.run_id
    now = int(time.time() * 1000)
    measured = [Metric(_plain(key), value, now, 0) for key, value in night.metrics.items()]
    learned = [
        Metric(_plain(f"training/{key}"), value, now, int(line["step"]))
        for line in night.training
        for key, value in line.items()
        if key != "step"
    ]
    settings = [Param(_plain(key), value[:LONGEST]) for key, value in night.settings.items()]
    figures = [*measured, *learned]
    for start in range(0, max(len(settings), len(figures)), AT_ONCE):
        own = slice(start, start + AT_ONCE)
        client.log_batch(run, params=settings[own], metrics=figures[own])
    client.set_terminated(run, RunStatus.to_string(RunStatus.FINISHED))


def to_wandb(night: TrackedNight) -> None:
    """One run of a project; the figures of the evaluation are its summary."""
    import wandb

    config, folder = night.tracking.wandb, Path(night.folder) / ".tracking"
    assert config is not None, "it is asked for"
    folder.mkdir(parents=True, exist_ok=True)
    with wandb.init(
        project=config.project,
        entity=config.entity,
        mode=config.mode,
        dir=str(folder),
        name=night.name,
        config={**night.settings, **{f"pairloom.{tag}": value for tag, value in night.tags.items()}},
        tags=[night.tags["verdict"], *(["released"] if night.tags["released"] == "true" else [])],
    ) as run:
        for line in night.training:
            run.log({f"training/{key}": value for key, value in line.items()}, step=int(line["step"]))
        run.summary.update(night.metrics)


def _plain(name: str) -> str:
    return _ODD.sub("_", name.replace("@", "_at_"))[:250]


def main() -> None:
    """Tell every tracker that the night names; the first fault is told in the end."""
    night = TrackedNight.model_validate_json(sys.stdin.buffer.read())
    trackers: dict[str, Callable[[TrackedNight], None]] = {}
    trackers |= {"mlflow": to_mlflow} if night.tracking.mlflow else {}
    trackers |= {"wandb": to_wandb} if night.tracking.wandb else {}
    faults = []
    for name, tell in trackers.items():
        try:
            tell(night)
        except ImportError as error:
            faults.append(f"{name} is not installed: pip install {PACKAGES[name]} ({error})")
        except Exception as error:  # whatever a tracker raises is a warning of the night
            faults.append(f"{name}: {type(error).__name__}: {error}")
    if faults:
        sys.exit("; ".join(faults))


if __name__ == "__main__":
    main()
