"""Verify: all that is kept read through, every so many nights; and a table made anew where it is damaged."""

import logging
import shutil
from datetime import UTC, date, datetime
from itertools import chain
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pairloom.storage.corpus import Corpus
from pairloom.storage.files import DamagedError, FileDigest, digest_files, set_aside, written_aside
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import Release, release_log
from pairloom.storage.schema import HUBNESS
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable
from pairloom.storage.verify import Verification
from pairloom.storage.verify import verify as read_through
from pairloom.tasks.decide import require_released_model
from pairloom.tasks.embed import embed
from pairloom.tasks.index import index
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import VerifiedRef
from pairloom.tasks.stage import report_progress, stage

logger = logging.getLogger(__name__)


class _Verified(BaseModel, frozen=True):
    """When all was read through and whole; kept in `verified.json`, which can be deleted."""

    on: date


def verify_when_due(pipeline: Pipeline) -> VerifiedRef | None:
    """What is damaged, on a night on which all that is kept is read; None on the others.

    Raises DamagedError where the release that is served is not whole.
    """
    path, tonight = pipeline.folder / "verified.json", datetime.now(UTC).date()
    last = _last(path)
    if last is None:
        # What a first night leaves was read a moment ago.
        _write(path, tonight)
        return None
    # Both ways: a clock that was set back shall not put it off.
    if abs((tonight - last).days) < pipeline.retention.verify_every_nights:
        return None
    found = verify(pipeline)
    if not found.damaged:
        _write(path, tonight)
    return found


@stage()
def verify(pipeline: Pipeline) -> VerifiedRef:
    """Read all through. Raises DamagedError where the release that is served is not whole."""
    found = verified(pipeline)
    if found.served_damage:
        raise DamagedError(
            f"release {found.newest} is damaged: {'; '.join(found.served_damage[:3])}. "
            "`pairloom verify` says what can be done, and `pairloom verify --repair` does it"
        )
    return VerifiedRef(files=found.files, bytes=found.bytes, damaged=() if found.whole else (found.summary,))


def verified(pipeline: Pipeline) -> Verification:
    """All that a pipeline keeps, read through."""
    return read_through(
        pipeline.folder,
        pipeline.retention.releases,
        lambda done, total: report_progress("verify", done, total),
    )


def rebuild(pipeline: Pipeline, found: Verification) -> Release | None:
    """Build the newest release's table anew where `found` says that this helps, and release it; None where not.

    The damaged files are set aside. Raises DamagedError where the model is not the one released.
    """
    damaged = [each.path for each in found.findings if each.repair == "rebuild"]
    if not damaged or found.newest is None:
        return None
    folder, log = pipeline.folder, release_log(pipeline.folder)
    release = log.stored(found.newest)
    require_released_model(pipeline, release)
    snapshot = Corpus(folder).log.read(release.snapshot)
    vectors = embed(pipeline, snapshot.number, release.model_id)
    for name in damaged:
        if (folder / name).exists():
            set_aside(folder, name)
    VectorTable.create(folder, release.model_id, dimension=vectors.dimension, keep=pipeline.columns.types)
    table = index(pipeline, vectors)
    rows = VectorTable(folder / table.path)
    rows.sync({})
    anew = release.model_copy(
        update={
            "number": log.next_number(),
            "files": digest_files(
                folder,
                chain(*map(ModelStore(folder).files, sorted({table.model_id, release.measured})), rows.files()),
                {},
            ),
            "created_at": datetime.now(UTC),
            "table_version": table.version,
            "rows": table.rows,
            "keep": pipeline.columns.types,
            "hubness": release.hubness and HUBNESS in rows.schema.names,
            "index": table.index,
            "reason": f"the table of release {release.number} was damaged, and is made anew",
        }
    )
    TableUpkeep(rows.path).tag(anew.number, anew.table_version)
    log.publish(anew)
    return anew


def export_again(pipeline: Pipeline, found: Verification) -> list[str]:
    """Export models again where `found` says that this helps; returns the files that are what was recorded again.

    Another version of torch may export a model with other bytes: queries then go on loading torch, and it is said so.
    """
    wanted = [each for each in found.findings if each.repair == "export"]
    if not wanted:
        return []
    # torch, for what is damaged.
    from pairloom.tasks.training.exporting import exported_again

    log, mended = release_log(pipeline.folder), list[str]()
    for model_id in dict.fromkeys(each.path.split("/")[1] for each in wanted):
        own = {each.path: each for each in wanted if each.path.split("/")[1] == model_id}
        with exported_again(ModelStore(pipeline.folder).path(model_id)) as made:
            for name, each in own.items():
                recorded = log.stored(each.releases[-1]).files[name]
                again = made / Path(name).name
                if again.is_file() and FileDigest.of(again) == recorded:
                    with written_aside(pipeline.folder / name) as aside:
                        shutil.copyfile(again, aside)
                    mended.append(name)
                else:
                    logger.warning("%s: exported again it has other bytes than recorded, so queries load torch", name)
    return mended


def _last(path: Path) -> date | None:
    try:
        return _Verified.model_validate_json(path.read_bytes()).on
    except (OSError, ValidationError):
        return None


def _write(path: Path, on: date) -> None:
    try:
        with written_aside(path) as aside:
            aside.write_text(_Verified(on=on).model_dump_json(), encoding="utf-8")
    except OSError as error:
        # The night has ended: all is only read once more than need be.
        logger.warning("that all was read through is not remembered: %s", error)
