"""All that is found of a night's rows, and the word on them."""

from collections.abc import Iterator

from pairloom.models.evaluation.findings import Finding
from pairloom.models.evaluation.row_shares import shrunk
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import kept_releases, release_log
from pairloom.tasks.admission.champion import Champion
from pairloom.tasks.admission.evidence import gathered
from pairloom.tasks.admission.sharing import judged_columns, judged_shares
from pairloom.tasks.admission.validation import judged_recall
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import Admission, Plan


def judged(pipeline: Pipeline, plan: Plan) -> Admission:
    """What tonight's rows are like, and whether they are believed."""
    try:
        findings = tuple(_found(pipeline, plan))
    except DamagedError as error:
        said = f"what is released can't be read ({error}), so there is nothing to judge the rows by"
        findings = (Finding("the release", "", "", "unsure", said),)
    against = [each.reason for each in findings if each.verdict == "held"]
    if pipeline.gate.when_unsure == "hold":
        against += [each.reason for each in findings if each.verdict == "unsure"]
    accepted = pipeline.gate.rows.accept
    return Admission(passed=accepted or not against, reasons=tuple(against), findings=findings)


def _found(pipeline: Pipeline, plan: Plan) -> Iterator[Finding]:
    corpus, log, config = Corpus(pipeline.folder), release_log(pipeline.folder).as_listed(), pipeline.gate
    assert plan.champion is not None, "rows are judged beside a release"
    release = log.read(plan.champion)
    try:
        released = corpus.log.read(release.snapshot)
    except ValueError as error:
        raise DamagedError(str(error)) from error
    tonight = corpus.log.read(plan.snapshot)
    evidence = gathered(corpus, released, tonight)
    # Large JPEG files are shrunk as they are decoded, so another size gives other pixels.
    resized = {"changed pictures"} if release.max_side != pipeline.ingest.max_side else set()
    yield from (each for each in judged_shares(evidence, config.rows) if each.measure not in resized)
    yield from judged_columns(corpus, released, evidence, config.rows)
    yield shrunk(tonight.rows, [each.rows for each in kept_releases(log, pipeline.retention.releases)], config.rows)
    # Of one that had learned from them, held-out items would be no measure.
    store = EmbeddingStore(pipeline.folder, release.measured)
    yield from Champion(store, evidence, config).judged()
    yield from judged_recall(store, evidence, config)
