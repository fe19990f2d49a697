"""What a person sees before a word on a challenger: its figures and answers beside those of what is served."""

import logging

from prefect.artifacts import create_markdown_artifact

from pairloom.flows.placement import placed
from pairloom.flows.show.markdown import table
from pairloom.flows.show.metrics_table import metrics_grid, probes_grid, slices_grid
from pairloom.flows.show.report import HITS, SLICES, sample_answers
from pairloom.models.fitness import UnfitModelError
from pairloom.search.query import SearchResult
from pairloom.search.release import OpenRelease
from pairloom.search.sheet import contact_picture, data_uri
from pairloom.storage.approvals import Approval
from pairloom.storage.corpus import Corpus
from pairloom.storage.escaping import markdown_text, plain
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import Release, release_log
from pairloom.tasks.embed import embed
from pairloom.tasks.index import index
from pairloom.tasks.pipeline import Pipeline

logger = logging.getLogger(__name__)


def attach_sheet(pipeline: Pipeline, challenger: Approval) -> None:
    """Attach what a person is to judge by to the flow run that this is called in."""
    create_markdown_artifact(
        sheet(pipeline, challenger, beside(pipeline, challenger)),
        key=f"approval-{pipeline.name}".replace("_", "-"),
        description=plain(f"model {challenger.model_id}: {challenger.figures}"),
    )


def sheet(pipeline: Pipeline, challenger: Approval, answers: list[tuple[str, SearchResult]]) -> str:
    """The sheet as Markdown. Everything that came from outside is escaped."""
    lines = [
        f"# {markdown_text(pipeline.name)}: a challenger waits",
        "",
        f"**Model {markdown_text(challenger.model_id)}** ({markdown_text(challenger.trained_because)}) passed the gate "
        f"and waits until {challenger.until:%Y-%m-%d %H:%M} UTC. *Resume*, on the page of this run, asks for a word on "
        f"it; `pairloom approve -p {pipeline.name}` and `pairloom refuse -p {pipeline.name}` say it, too.",
        "",
        markdown_text(challenger.figures),
        "",
        *(f"- {markdown_text(comparison)}" for comparison in challenger.comparisons),
        "",
    ]
    for grid in (
        metrics_grid(challenger.metrics, challenger.intervals),
        probes_grid(challenger.metrics, challenger.intervals),
        slices_grid(challenger.metrics, limit=SLICES),
    ):
        lines += table(grid.columns[0], grid.columns[1:], grid.rows)
    if answers:
        picture = data_uri(contact_picture(answers, columns=HITS, rows=len(answers)))
        lines += ["## What it finds", "", f"![The nearest images of each text]({picture})", ""]
    return "\n".join(lines)


def beside(pipeline: Pipeline, challenger: Approval) -> list[tuple[str, SearchResult]]:
    """A few validation texts, each with what is served for it and what the challenger would answer.

    None where its model or table is damaged: who approves it then is told so, and may refuse it.
    """
    opened = [OpenRelease.open(pipeline.folder)] if release_log(pipeline.folder).current() else []
    try:
        own = [sample_answers(pipeline, release) for release in (*opened, candidate(pipeline, challenger))]
    except (ValueError, DamagedError, UnfitModelError) as error:
        logger.warning("what model %s finds can't be shown: %s", challenger.model_id, error)
        return []
    names = [*(f"release {release.record.number}" for release in opened), "challenger"]
    return [
        (f"{name} · {text}", result)
        for answers in zip(*own, strict=True)
        for name, (text, result) in zip(names, answers, strict=True)
    ]


def candidate(pipeline: Pipeline, challenger: Approval) -> OpenRelease:
    """The challenger's table, searched as a release of it would be. No record names it."""
    served = release_log(pipeline.folder).current()
    snapshot = Corpus(pipeline.folder).log.read(served.snapshot) if served else Corpus(pipeline.folder).current()
    built = index(pipeline, placed(embed, pipeline)(pipeline, snapshot.number, challenger.model_id))
    record = Release(
        number=served.number + 1 if served else 1,
        files={},
        created_at=challenger.since,
        snapshot=snapshot.number,
        snapshot_digest=snapshot.digest,
        model_id=challenger.model_id,
        table=built.path,
        table_version=built.version,
        rows=built.rows,
        dimension=built.dimension,
        max_side=pipeline.ingest.max_side,
        trim=snapshot.trim,
        keep=pipeline.columns.types,
        index=built.index,
        metrics=challenger.metrics,
        training=challenger.training,
        reason=challenger.trained_because,
    )
    return OpenRelease(pipeline.folder, record)
