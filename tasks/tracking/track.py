"""Tell the trackers of a night, in a process that can neither end nor hold it up."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from pairloom.storage.local_copies import beside
from pairloom.storage.secrets import redacted
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import Plan, ReleaseRef, Verdict
from pairloom.tasks.stage import report_end, report_progress, timed

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "pairloom.tasks.tracking.send")
QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Else an address that nobody listens at takes minutes to be given up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
LAST_WORDS = 500
"""Characters of what the process said last."""


def track(pipeline: Pipeline, plan: Plan, verdict: Verdict | None, release: ReleaseRef | None) -> None:
    """Log the night where it measured a challenger and a tracker is named. Nothing that goes wrong is an error."""
    if verdict is None or not (pipeline.tracking.mlflow or pipeline.tracking.wandb):
        return
    from pairloom.tasks.tracking.night import tracked_night

    # Where `pairloom` was found, as the rehearsal does.
    here = str(Path(str(sys.modules["pairloom"].__file__)).parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    told = " and ".join(name for name in ("mlflow", "wandb") if getattr(pipeline.tracking, name))
    report_progress("track", 0, None, f"telling {told}")
    started = time.monotonic()
    with timed("track"):
        try:
            subprocess.run(
                COMMAND,
                input=tracked_night(pipeline, plan, verdict, release).model_dump_json().encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=beside(pipeline.root),
                env={**QUIET, **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                process_group=0,  # a terminal's Ctrl-C is for us alone
                timeout=pipeline.tracking.max_seconds,
                check=True,
            )
        except subprocess.TimeoutExpired:
            logger.warning("tracking: given up after %g seconds", pipeline.tracking.max_seconds)
        except subprocess.CalledProcessError as error:
            said = redacted(" ".join(error.stderr.decode(errors="replace").split()))
            logger.warning("tracking: %s", said[-LAST_WORDS:] or f"ended with status {error.returncode}")
        except OSError as error:
            logger.warning("tracking: %s", error)
        else:
            report_end("track", f"told {told}", time.monotonic() - started)
