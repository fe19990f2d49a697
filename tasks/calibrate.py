"""Calibrate: the scores below which nothing fits, once for every model that is released."""

from pairloom.storage.releases import release_log
from pairloom.tasks.calibration.known import Known
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import CutoffsRef, TableRef
from pairloom.tasks.stage import stage


@stage()
def calibrate(pipeline: Pipeline, table: TableRef, measured: str) -> CutoffsRef:
    """Those of the release before where its model is the same and they were made for the same share; others measured.

    With the vectors of the model `measured`, which may be another one than the table's: it has not learned from the
    validation items. Where that release had too few validation queries, and tonight brings too few more, nothing is
    read to measure them.
    """
    most, champion = pipeline.search.max_false_finds, release_log(pipeline.folder).current()
    if most is None:
        return CutoffsRef(cutoffs={})
    known = Known()
    if champion and champion.model_id == table.model_id:
        known = Known.of(pipeline, champion, table, most)
    if known.whole:
        return CutoffsRef(cutoffs=known.cutoffs, too_few=known.too_few)
    # torch, for a night that releases a model.
    from pairloom.tasks.calibration.measured import measured_cutoffs

    return measured_cutoffs(pipeline, table, measured, most, known)
