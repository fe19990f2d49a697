"""The cut-offs of a model, measured on the table that is to be released."""

# Q = queries, N = rows of a batch, D = embedding

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pairloom.models.arrays import Embeddings, Mask
from pairloom.models.batches.relations import normalize_text
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.cutoff import Calibration, Candidates, calibrated
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import Cutoff
from pairloom.storage.schema import HUBNESS
from pairloom.storage.table.vectors import VectorTable
from pairloom.tasks.calibration.embedded import EmbeddedRows, Rows
from pairloom.tasks.calibration.known import DIRECTIONS, Known
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import CutoffsRef, TableRef

MOST = 1_000
"""Queries of a direction: of more, a sample."""
LEARNED = 500
"""Texts of training items beside them, which help to weigh the margin: of more, a sample."""


@dataclass(frozen=True)
class Row:
    """What tells which items are of one concept."""

    item_id: str
    group: str | None
    texts: dict[str, str]
    """As they are written, by how they are compared."""
    split: str


def measured_cutoffs(pipeline: Pipeline, ref: TableRef, model_id: str, most: float, known: Known) -> CutoffsRef:
    """What is known, and the others measured: with at most `most` false finds, as far as there are queries to tell.

    Measured with the vectors of `model_id`: those of the table, or of the model that it was before it learned from the
    validation items as well.
    """
    table: Rows = VectorTable(pipeline.folder / ref.path, ref.version)
    if model_id != ref.model_id:
        table = EmbeddedRows(pipeline.folder, ref.snapshot, model_id, hubness=HUBNESS in table.schema.names)
    rows = [row for batch in table.batches(["item_id", "group", "texts", "split"]) for row in _rows(batch)]
    corrected = HUBNESS in table.schema.names
    cutoffs, too_few = dict(known.cutoffs), dict(known.too_few)
    for direction in DIRECTIONS:
        if direction in cutoffs or direction in too_few:
            continue
        texts = direction == "text_to_image"
        measured = (
            _texts(pipeline, model_id, table, rows, most, corrected=corrected) if texts else _images(table, rows, most)
        )
        if isinstance(measured, int):
            too_few[direction] = measured
            continue
        cutoffs[direction] = Cutoff(
            score=measured.score,
            corrected=corrected and texts,
            margin_weight=measured.margin_weight,
            max_false_finds=most,
            queries=measured.queries,
            true_finds=measured.true_finds,
            false_finds=measured.false_finds,
        )
    return CutoffsRef(cutoffs=cutoffs, too_few=too_few)


def _texts(
    pipeline: Pipeline, model_id: str, table: Rows, rows: list[Row], most: float, *, corrected: bool
) -> Calibration | int:
    """Texts of validation items, and of training items; own are the items with the text, and those of a group with one.

    Where they are too few, how many there are.
    """
    ordered = sorted(rows, key=lambda row: row.item_id)
    written, learned = (
        {key: text for row in ordered if row.split == split for key, text in row.texts.items()}
        for split in ("val", "train")
    )
    texts = _drawn(sorted(written), MOST)
    held = len(texts)
    if held * most < 1:
        return held
    texts += _drawn(sorted({*learned} - {*written}), LEARNED)
    encoder = Encoder.load(ModelStore(pipeline.folder).path(model_id))
    query_QD = encoder.embed_texts([(learned | written)[text] for text in texts])
    place = {text: number for number, text in enumerate(texts)}
    asked: dict[str, set[int]] = {}
    for row in rows:
        if row.group is not None:
            asked.setdefault(row.group, set()).update(place[text] for text in row.texts if text in place)

    def candidates() -> Iterator[Candidates]:
        for batch in table.batches(["item_id", "group", "texts", "split", "image_vector", *([HUBNESS] * corrected)]):
            own = ({place[text] for text in row.texts if text in place} | _of(row.group, asked) for row in _rows(batch))
            hubness_N = batch[HUBNESS].to_numpy(zero_copy_only=False) if corrected else None
            yield Candidates(_vectors(batch), _mask(own, len(texts), len(batch)), hubness_N=hubness_N)

    return calibrated(query_QD, candidates(), most, learned_Q=np.arange(len(texts)) >= held)


def _images(table: Rows, rows: list[Row], most: float) -> Calibration | int:
    """Images of validation items; own are the others of the group, but for copies, which are no candidates.

    Where they are too few, how many there are.
    """
    groups = {row.item_id: row.group for row in rows}
    named = sorted(row.item_id for row in rows if row.split == "val" and row.group is not None)
    chosen = set(_drawn(named, MOST))
    if len(chosen) * most < 1:
        return len(chosen)
    ids, vectors, asked, same = list[str](), list[np.ndarray](), dict[str, set[int]](), dict[bytes, set[int]]()
    for batch in table.batches(["item_id", "image_vector"]):
        for item_id, vector_D in zip(batch["item_id"].to_pylist(), _vectors(batch), strict=True):
            if item_id in chosen:
                asked.setdefault(str(groups[item_id]), set()).add(len(ids))
                same.setdefault(vector_D.tobytes(), set()).add(len(ids))
                ids.append(item_id)
                vectors.append(vector_D)

    def candidates() -> Iterator[Candidates]:
        for batch in table.batches(["item_id", "group", "texts", "split", "image_vector"]):
            image_ND = _vectors(batch)
            own = (_of(row.group, asked) for row in _rows(batch))
            copies = (same.get(vector_D.tobytes(), set()) for vector_D in image_ND)
            yield Candidates(image_ND, _mask(own, len(ids), len(batch)), out_QN=_mask(copies, len(ids), len(batch)))

    return calibrated(np.stack(vectors), candidates(), most)


def _rows(batch: pa.RecordBatch) -> Iterator[Row]:
    for row in batch.select(["item_id", "group", "texts", "split"]).to_pylist():
        texts = {normalize_text(text): text for text in row["texts"]}
        yield Row(row["item_id"], row["group"], texts, row["split"])


def _of(group: str | None, asked: dict[str, set[int]]) -> set[int]:
    return set() if group is None else asked.get(group, set())


def _drawn(names: list[str], most: int) -> list[str]:
    """At most so many of some names, in their order."""
    if len(names) <= most:
        return names
    return [names[place] for place in sorted(np.random.default_rng(0).choice(len(names), most, replace=False))]


def _mask(queries: Iterator[set[int]], count: int, rows: int) -> Mask:
    """(Q, N): which of the queries are named for each row."""
    mask_QN = np.zeros((count, rows), bool)
    for row, own in enumerate(queries):
        mask_QN[list(own), row] = True
    return mask_QN


def _vectors(batch: pa.RecordBatch) -> Embeddings:
    flat: Embeddings = np.asarray(batch["image_vector"].flatten(), np.float32)
    return flat.reshape(len(batch), -1)
