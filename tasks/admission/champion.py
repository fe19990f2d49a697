"""Whether texts and images of tonight's rows belong together, by what the champion makes of the released ones."""

# N = released items, M = new and changed rows, H = held-out items, K, G = some rows, V = values, D = embedding

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from pairloom.models.arrays import Indices, Mask
from pairloom.models.evaluation.agreement import Contrasts, contrasts, own_contrasts
from pairloom.models.evaluation.config import GateConfig
from pairloom.models.evaluation.findings import FEWEST, Finding, found, matters
from pairloom.models.evaluation.row_agreement import (
    agreeing,
    beyond,
    concentrated,
    implausible,
    poured,
    related,
    telling,
)
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.tasks.admission.evidence import Evidence, Side
from pairloom.tasks.admission.located import drawn

MOST = 5_000
"""Rows of a kind whose vectors are looked at, drawn by the gate's seed."""
MOST_HELD = 2_000
"""Held-out items that they are judged beside."""
MOST_POURED = 20
"""Values that come too often which are looked at, the commonest first."""
MOST_EQUAL = 200
"""Rows of each of them."""


class Champion:
    """The released model, as far as its stored vectors tell."""

    def __init__(self, store: EmbeddingStore, evidence: Evidence, config: GateConfig) -> None:
        self._store, self._evidence, self._config = store, evidence, config
        split = evidence.released.table["split"]
        trained_N = np.asarray(pc.equal(split, "train"), dtype=bool)
        held = drawn(np.flatnonzero(~trained_N), MOST_HELD, config.seed)
        self._held = evidence.released.vectors(store, held)
        self._own = Contrasts(own_contrasts(self._held), evidence.captions.value_N[held])
        self._unknown_H = ~np.isin(self._own.text_N, evidence.captions.value_N[trained_N])

    def judged(self) -> Iterator[Finding]:
        """All that it tells: whether it can, how far rows agree, what was poured over many."""
        able = telling(self._own, self._config)
        yield able
        if able.verdict == "passed":
            yield from self._agreements()
            yield from self._poured()

    def _agreements(self) -> Iterator[Finding]:
        evidence, config, count = self._evidence, self._config, len(self._evidence.released)
        kinds = {"new items": evidence.new_M}
        kinds |= {f"changed {side.what}": side.changed_M for side in evidence.sides}
        known_M = np.isin(evidence.captions.value_M, evidence.captions.value_N)
        known, unknown = self._beside(~self._unknown_H) or self._own, self._beside(self._unknown_H)
        for what, kind_M in kinds.items():
            told = (self._contrasts(self._told(np.flatnonzero(kind_M & known_M))), known)
            rows = np.flatnonzero(kind_M & ~known_M)
            anew = self._contrasts(rows)
            yield agreeing(what, [told, (anew, unknown)] if unknown else [told], count, config)
            if unknown or not len(rows):
                continue
            if what == "new items":
                yield beyond(what, len(rows), count, config)
            else:
                yield agreeing(f"{what} with unknown texts", [(anew, self._own)], count, config, chance=True)

    def _told(self, rows: Indices) -> Indices:
        """Those of some fresh rows whose text the champion finds in the released items that have it."""
        evidence = self._evidence
        carriers = self._few(np.flatnonzero(np.isin(evidence.captions.value_N, evidence.captions.value_M[rows])), MOST)
        value_K = contrasts(evidence.released.vectors(self._store, carriers), self._held)
        text_K = evidence.captions.value_N[carriers]
        total, count = (
            np.bincount(text_K, weights, 1 + evidence.captions.value_N.max(initial=0)) for weights in (value_K, None)
        )
        least = self._config.rows.min_agreement * self._own.value_N.mean()
        told = np.flatnonzero((count > 0) & (total >= least * count))
        return rows[np.isin(evidence.captions.value_M[rows], told)]

    def _contrasts(self, rows: Indices) -> Contrasts:
        rows = self._few(rows, MOST)
        vectors = self._evidence.fresh.vectors(self._store, rows)
        return Contrasts(contrasts(vectors, self._held), self._evidence.captions.value_M[rows])

    def _beside(self, chosen_H: Mask) -> Contrasts | None:
        own = self._own.take(np.flatnonzero(chosen_H))
        return own if own.texts >= FEWEST else None

    def _poured(self) -> Iterator[Finding]:
        evidence, released = self._evidence, len(self._evidence.released)
        for side in evidence.sides:
            commonest = int(np.bincount(side.value_N).max(initial=0))
            # Many honest new rows would hide a few changed ones of one value, and the other way round.
            kinds = [evidence.new_M | side.changed_M, side.changed_M, evidence.new_M]
            against = [said for kind_M in kinds for said in self._poured_over(side, np.flatnonzero(kind_M), commonest)]
            own = side.value_M[kinds[0]]
            tonight = f"{np.bincount(own).max(initial=0):,} of {len(own):,} rows"
            yield found(
                f"commonest of the {side.what}", f"{commonest:,} of {released:,} items", tonight, "; ".join(against[:1])
            )

    def _poured_over(self, side: Side, own: Indices, commonest: int) -> list[str]:
        """Sentences against values that come too often among some fresh rows, the commonest first."""
        config, released = self._config, len(self._evidence.released)
        values, count_V = np.unique(side.value_M[own], return_counts=True)
        often = np.flatnonzero(implausible(count_V, len(own), commonest, released, config))
        often = often[np.argsort(-count_V[often], kind="stable")][:MOST_POURED]
        return [
            poured(side.what, int(count_V[each]), len(own), commonest, released)
            for each in often
            if matters(int(count_V[each]), released, config.rows)
            and not self._related(side, own[side.value_M[own] == values[each]], own[side.value_M[own] != values[each]])
        ]

    def _few(self, rows: Indices, most: int) -> Indices:
        return drawn(rows, most, self._config.seed)

    def _related(self, side: Side, rows: Indices, rest: Indices) -> bool:
        """Whether the `rows` of one value have anything else in common, beyond held-out items and the `rest`."""
        if concentrated(self._evidence.group_M[rows], self._evidence.group_N, self._config.seed):
            return True
        # A few values alone, two new classes say, are alike within each.
        rest = rest if len(np.unique(side.value_M[rest])) >= FEWEST else rest[:0]
        image = side is self._evidence.captions
        own, other = (self._evidence.fresh.vectors(self._store, self._few(each, MOST_EQUAL)) for each in (rows, rest))
        shared_ND = own.text_ND if image else own.image_ND
        own_GD, *others = (each.image_ND if image else each.text_ND for each in (own, self._held, other))
        beyond_these = [each for each in others if len(each)]
        return related(shared_ND.mean(axis=0), own_GD, beyond_these, self._config.seed)
