"""Rows of tonight that are no items, and why."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from pairloom.storage.images.config import IngestConfig
from pairloom.storage.ingestion.chunk import Became, Chunk
from pairloom.storage.ingestion.known_rows import KnownRows
from pairloom.storage.ingestion.quarantine import REJECTED
from pairloom.storage.ingestion.settling import misfit
from pairloom.storage.reasons import Reason
from pairloom.storage.secrets import redacted


def rejections(known: KnownRows, chunks: Sequence[Chunk], config: IngestConfig) -> pa.Table:
    """All rows that are none, in their order, in the columns of REJECTED."""
    starts = [0, *accumulate(len(chunk.known) for chunk in chunks)][:-1]
    twins = _twins(known, chunks, starts)
    tables = [_rejections(known, *each, config, twins) for each in zip(chunks, starts, strict=True)]
    return pa.concat_tables([REJECTED.empty_table(), *tables])


class _Twins:
    """Rows that have the id or the content of one that came later, items but for caps and near-duplicates."""

    def __init__(self) -> None:
        self.by_id: dict[int, tuple[int, int]] = {}
        """Its place among all rows, and what it says."""
        self.by_content: dict[int, str] = {}
        """Its id."""

    def reason(self, place: int, item_id: str, id_digest: int, said: int, same: int) -> tuple[Reason, str]:
        """Reason and message for the row at `place` that repeats an earlier one."""
        # What repeats the content of one may have the id of another that came later: no fault of its own.
        earlier, said_there = self.by_id.get(id_digest, (place, said))
        if earlier < place:
            if said_there == said:
                return Reason.SAME_ITEM, f"same content as item {item_id}"
            message = f"an earlier row has the id {item_id}: make the id column unique"
            return Reason.ID_REPEATED, message
        return Reason.SAME_IMAGE_AND_TEXTS, f"duplicate of {self.by_content[same]}"


def _twins(known: KnownRows, chunks: Sequence[Chunk], starts: Sequence[int]) -> _Twins:
    twins = _Twins()
    repeated = [chunk.became == Became.REPEATED for chunk in chunks]
    asked = {}
    for name in ("id_digest", "same"):
        empty = np.zeros(0, np.uint64)
        found = [
            chunk.numbers_of(known, name, where) for chunk, where in zip(chunks, repeated, strict=True) if where.any()
        ]
        asked[name] = np.unique(np.concatenate([empty, *found]))
    if not len(asked["same"]):
        return twins
    for chunk, start in zip(chunks, starts, strict=True):
        items = chunk.claims
        ids, sames = (chunk.numbers_of(known, name, items) for name in ("id_digest", "same"))
        wanted = np.zeros(len(items), bool)
        wanted[items] = np.isin(ids, asked["id_digest"]) | np.isin(sames, asked["same"])
        if wanted.any():
            columns = [chunk.take(known, name, wanted).to_pylist() for name in ("id_digest", "said", "same", "item_id")]
            places = (start + np.flatnonzero(wanted)).tolist()
            for place, id_digest, said, same, item_id in zip(places, *columns, strict=True):
                twins.by_id[id_digest] = (place, said)
                twins.by_content[same] = item_id
    return twins


def _rejections(known: KnownRows, chunk: Chunk, start: int, config: IngestConfig, twins: _Twins) -> pa.Table:
    where = chunk.became != Became.ITEM
    if not where.any():
        return REJECTED.empty_table()
    became, places = chunk.became[where], np.flatnonzero(where)

    def column(name: str) -> list[Any]:
        return list(chunk.take(known, name, where).to_pylist())

    reason, message, file = column("reason"), column("message"), column("file")
    item_id, attempts, made_id = column("item_id"), column("attempts"), column("made_id")
    width, height = column("width"), column("height")
    ids, saids, sames = column("id_digest"), column("said"), column("same")
    for place in np.flatnonzero(became == Became.MISFIT).tolist():
        unfit = misfit(width[place], height[place], config.limits)
        assert unfit is not None
        reason[place], message[place] = unfit.reason, unfit.message
        # An id that is made of the picture is none without it.
        item_id[place] = None if made_id[place] else item_id[place]
    for place in np.flatnonzero(became == Became.REPEATED).tolist():
        said = (item_id[place], ids[place], saids[place], sames[place])
        reason[place], message[place] = twins.reason(start + int(places[place]), *said)
    for place in np.flatnonzero(became == Became.TEXT_REPEATED).tolist():
        reason[place] = Reason.TEXT_REPEATED
        message[place] = f"earlier items with the same first text: {config.max_per_text}"
    for place in np.flatnonzero(became == Became.DOMAIN_REPEATED).tolist():
        reason[place] = Reason.DOMAIN_REPEATED
        message[place] = f"earlier items with images of the same domain: {config.max_per_domain}"
    near = np.flatnonzero(became == Became.NEAR_DUPLICATE).tolist()
    for place, twin in zip(near, chunk.twins, strict=True):
        reason[place], message[place] = Reason.NEAR_DUPLICATE, f"resembles item {twin}"
    columns = {
        "fingerprint": [each.hex() for each in column("fingerprint")],
        "source": [chunk.source] * len(became),
        "row": chunk.numbers[where],
        "item_id": item_id,
        "image_path": [path and redacted(path) for path in column("image_path")],
        "outcome": [Reason(each).outcome for each in reason],
        "reason": reason,
        "message": [redacted(f"{of}: {said}" if of else said) for of, said in zip(file, message, strict=True)],
        "attempts": attempts,
    }
    return pa.Table.from_pydict(columns, REJECTED)
