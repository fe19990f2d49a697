"""A proposal opened and searched by a fresh process, before it is published."""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from pairloom.search.rehearsal import Rehearsal, Script
from pairloom.storage.files import DamagedError
from pairloom.storage.secrets import redacted
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.publish import forget
from pairloom.tasks.refs import Proposal
from pairloom.tasks.stage import stage

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "pairloom.search.rehearsal")
MINUTES = 30
"""How long the process may take; it takes seconds."""
LAST_WORDS = 500
"""Characters of what the process said last."""


@stage()
def rehearse(pipeline: Pipeline, proposal: Proposal) -> Rehearsal:
    """Open and search a proposal as its readers will, in a process that shares nothing with this one.

    Raises DamagedError, naming what is wrong, where that can't be done; the next night then makes it anew. Raises
    RuntimeError where the process fails.
    """
    release = proposal.release
    script = Script(folder=pipeline.folder, release=release, before=proposal.before, golden=pipeline.evaluation.golden)
    found = in_fresh_process(script)
    for warning in found.warnings:
        logger.warning("%s", warning)
    forget(pipeline, proposal, found.unlike)
    if found.faults:
        raise DamagedError(
            f"release {release.number} is not published, since a fresh process can't serve it as it is: "
            f"{'; '.join(found.faults[:3])}. {found.remedy}"
        )
    return found


def in_fresh_process(script: Script) -> Rehearsal:
    """What a new Python finds. Raises RuntimeError where it takes longer than `MINUTES`, or ends without an answer."""
    what = f"the rehearsal of release {script.release.number}"
    # Where `pairloom` was found, not where this file lies: in a checkout without links that is elsewhere.
    here = str(Path(str(sys.modules["pairloom"].__file__)).parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    with tempfile.TemporaryDirectory(prefix="pairloom-") as folder, tempfile.TemporaryFile() as said:
        asked, answer = Path(folder) / "script.json", Path(folder) / "answer.json"
        asked.write_text(script.model_dump_json(), encoding="utf-8")
        # The process ends with this pipe, so however this one ends.
        process = subprocess.Popen(
            [*COMMAND, str(asked), str(answer)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            process_group=0,  # a terminal's Ctrl-C is for us alone
        )
        try:
            status = process.wait(60 * MINUTES)
            return Rehearsal.model_validate_json(answer.read_bytes())
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{what} was not done within {MINUTES} minutes{_last_words(said)}") from error
        except (OSError, ValidationError) as error:
            raise RuntimeError(f"{what} ended with status {status} and without an answer{_last_words(said)}") from error
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def _last_words(said: IO[bytes]) -> str:
    said.seek(0)
    words = redacted(" ".join(said.read().decode(errors="replace").split()))
    return f": … {words[-LAST_WORDS:]}" if words else ""
