"""How much tonight's rows change, and what they have otherwise than the released items: without any model."""

# N = released items, M = new and changed rows

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from pairloom.models.arrays import Indices
from pairloom.models.evaluation.config import RowsGateConfig
from pairloom.models.evaluation.findings import Finding, matters
from pairloom.models.evaluation.row_shares import Equals, changed, emptied, equal
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.tasks.admission.evidence import Evidence


def judged_shares(evidence: Evidence, config: RowsGateConfig) -> Iterator[Finding]:
    """How many captions and pictures changed, and how many of the new and changed ones are another's."""
    for side in evidence.sides:
        yield changed(side.what, int(side.changed_M.sum()), len(evidence.released), config)
    for side in evidence.sides:
        own_M = side.value_M[evidence.new_M | side.changed_M]
        among_M = counts(own_M, own_M) > 1
        anywhere_M = among_M | (counts(own_M, side.value_N) > 0)
        share = float((counts(side.value_N, side.value_N) > 1).mean())
        equals = Equals(share, *(float(each_M.mean()) if len(own_M) else 0.0 for each_M in (among_M, anywhere_M)))
        yield equal(side.what, equals, len(own_M), len(evidence.released), config)


def judged_columns(corpus: Corpus, released: Snapshot, evidence: Evidence, config: RowsGateConfig) -> Iterator[Finding]:
    """The columns that most new and changed rows of a source, or most of its released items, have lost their value in.

    Of others nothing is read or said.
    """
    count = len(evidence.released)
    for source in evidence.rewritten["source"].unique().to_pylist():
        rewritten, own = (
            each.filter(pc.equal(each["source"], source)) for each in (evidence.rewritten, evidence.fresh.table)
        )
        for column in ("group", *(name for name in released.keep or {} if name in rewritten.column_names)):
            nulls = [(each[column].null_count, len(each)) for each in (own, rewritten)]
            if any(matters(empty, count, config) and empty > config.max_changed * rows for empty, rows in nulls):
                before = corpus.table(released, ["source", column])
                before = before.filter(pc.equal(before["source"], source))
                share = before[column].null_count / len(before) if len(before) else 1.0
                name, items = f"{column} of {source}", max(len(before), len(rewritten))
                found = emptied(name, share, *nulls[0], config)
                among_all = emptied(name, share, nulls[1][0], items, config, of="released items")
                yield among_all if found.verdict == "passed" else found


def counts(value_M: Indices, among_N: Indices) -> Indices:
    """(M,): how often each value is among others."""
    size = 1 + max(int(value_M.max(initial=0)), int(among_N.max(initial=0)))
    found: Indices = np.bincount(among_N, minlength=size)[value_M]
    return found
