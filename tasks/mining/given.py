"""What people gave as pairs, as mining takes it: positives as edges, the rest as rows of the pairs' Parquet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pairloom.models.arrays import Indices
from pairloom.models.batches.relations import KINDS, Edges, Relations
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.schema import PAIRS
from pairloom.storage.sources.config import GivenPairsConfig
from pairloom.storage.sources.given_pairs import GivenPair, RejectedPair, read_given_pairs

KIND = "given"
EXAMPLES = 20


@dataclass(frozen=True)
class Given:
    """The rows of all files: those that can be used and those that can't."""

    pairs: tuple[GivenPair, ...]
    rejected: tuple[RejectedPair, ...]

    @property
    def report(self) -> dict[str, Any]:
        """For `audit.json`: every row is counted, under its relation or under the reason why it isn't used."""
        return {
            "rows": len(self.pairs) + len(self.rejected),
            "used": dict(sorted(Counter(pair.relation for pair in self.pairs).items())),
            "rejected": dict(sorted(Counter(each.reason for each in self.rejected).items())),
            "examples": [
                {"file": each.file, "row": each.row, "reason": each.reason, "message": each.message}
                for each in self.rejected[:EXAMPLES]
            ],
        }


def read_given(configs: Sequence[GivenPairsConfig], corpus: Corpus, snapshot: Snapshot) -> Given:
    """Every row of the files, checked against the items of a snapshot."""
    if not configs:
        return Given((), ())
    items = corpus.table(snapshot, ["item_id", "split"])
    splits = dict(zip(items["item_id"].to_pylist(), items["split"].to_pylist(), strict=True))
    rows = list(read_given_pairs(configs, splits))
    return Given(
        tuple(row for row in rows if isinstance(row, GivenPair)),
        tuple(row for row in rows if isinstance(row, RejectedPair)),
    )


def given_edges(given: Given, item_ids: Sequence[str]) -> Edges:
    """The given positives by row numbers of `item_ids`."""
    positives = [pair for pair in given.pairs if pair.relation == "positive"]
    firsts_M, seconds_M = _ends(positives, item_ids)
    kinds_M = np.full(len(positives), KINDS.index(KIND), dtype=np.int8)
    return Edges(firsts_M, seconds_M, kinds_M, np.array([pair.weight for pair in positives], dtype=np.float32))


def without_contradictions(given: Given, relations: Relations) -> Given:
    """Without the negatives that are known positives: the positive wins, and the row is rejected."""
    negatives = [pair for pair in given.pairs if pair.relation == "negative"]
    wrong_M = relations.are_positives(*_ends(negatives, relations.item_ids))
    wrong = {pair for pair, is_wrong in zip(negatives, wrong_M, strict=True) if is_wrong}
    rejected = tuple(
        RejectedPair(pair.file, pair.row, "contradiction", f"{pair.anchor} and {pair.other} are known positives")
        for pair in negatives
        if pair in wrong
    )
    return Given(tuple(pair for pair in given.pairs if pair not in wrong), given.rejected + rejected)


def given_rows(given: Given) -> pa.Table:
    """All that are not positives, as rows of the pairs' Parquet, in their order."""
    rows = [
        {
            "anchor": pair.anchor,
            "other": pair.other,
            "relation": pair.relation,
            "kind": KIND,
            "target": pair.target,
            "weight": pair.weight,
        }
        for pair in given.pairs
        if pair.relation != "positive"
    ]
    return pa.Table.from_pylist(rows, PAIRS)


def _ends(pairs: Sequence[GivenPair], item_ids: Sequence[str]) -> tuple[Indices, Indices]:
    row = {item_id: number for number, item_id in enumerate(item_ids)}
    ends = [[row[each] for each in side] for side in ([p.anchor for p in pairs], [p.other for p in pairs])]
    return np.array(ends[0], dtype=np.int64), np.array(ends[1], dtype=np.int64)
