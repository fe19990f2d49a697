"""What a run of a deployment is of: what its form says, or the file of pipelines as it is now; on this machine."""

import logging
import os
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pairloom.flows.config import located, pipeline_names, written_pipeline
from pairloom.flows.stamp import Stamp, differing
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.prefect_task import log_to_prefect
from pairloom.tasks.stage import flow_run_context

logger = logging.getLogger(__name__)

FILE = "PAIRLOOM_FILE"
"""Environment variable of a worker: where the file of pipelines is on its machine."""
ROOT = "PAIRLOOM_ROOT"
"""Environment variable of a worker: what stands for the file's `root` on its machine."""
KEYS = 3

_sent: ContextVar[dict[str, Any] | None] = ContextVar("sent", default=None)
_older: ContextVar[str] = ContextVar("older", default="")


def tonight(pipeline: Pipeline, file: Path | None) -> Pipeline:
    """The pipeline that the current flow run is of, with its paths as they are on this machine.

    A run whose form nobody edited follows the file, where that is at hand, even if it was edited after it was
    deployed: the log says so. In a run of no deployment it is `pipeline` itself. Raises ValueError where the file can't
    be followed.
    """
    # Of an earlier run in this process nothing holds.
    _sent.set(None)
    _older.set("")
    context = flow_run_context()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None:
        return pipeline
    log_to_prefect()
    place = Path(os.environ[FILE]) if os.environ.get(FILE) else file
    # What a night has another worker do is the night's, whatever the file says by now.
    written = pipeline if of_a_night() else _followed(pipeline, place, Stamp.parse(run.deployment_version))
    _sent.set({**written.parameters, "file": str(file) if file else None})
    root = Path(os.environ[ROOT]) if os.environ.get(ROOT) else None
    return located(written, place.parent if place else Path.cwd(), root=root)


def of_a_night() -> bool:
    """Whether the current flow run does a stage for a night that waits for it."""
    context = flow_run_context()
    return bool(context and context.flow_run and context.flow_run.parent_task_run_id)


def sent(pipeline: Pipeline) -> dict[str, Any]:
    """Tonight's pipeline as parameters of a run on another machine, which may have other paths."""
    return _sent.get() or pipeline.parameters


def older() -> str:
    """How the deployment of this run differs from the file; empty where it does not."""
    return _older.get()


def _followed(pipeline: Pipeline, file: Path | None, deployed: Stamp | None) -> Pipeline:
    """What this run is of: the form's values where somebody edited it, else what the file says now."""
    if file is None or deployed is None or not file.is_file():
        return pipeline
    if pipeline.name not in pipeline_names(file):
        raise ValueError(
            f"{file} has no pipeline {pipeline.name!r} any more: `pairloom deploy --prune` deletes its deployments"
        )
    now, form = written_pipeline(file, pipeline.name), Stamp.of(pipeline)
    if Stamp.of(now) == deployed:
        return pipeline
    # A root that was named beside the file stays.
    if form.root != deployed.root:
        now = now.model_copy(update={"root": pipeline.root})
    changed, edited = differing(pipeline, now), form.config not in (deployed.config, Stamp.of(now).config)
    keys = ", ".join([*changed[:KEYS], *(["…"] if len(changed) > KEYS else [])]) or "nothing that a run reads"
    whose = "form's values, not the file's" if edited else "file's values"
    said = f"the deployment is older than {file} ({keys}), and this run is of the {whose}"
    _older.set(said)
    logger.warning("%s: `pairloom deploy` brings form, schedule and work pools up to date", said)
    # When and on which pools it runs is what was deployed.
    return pipeline if edited else now.model_copy(update={"workers": pipeline.workers, "schedule": pipeline.schedule})
