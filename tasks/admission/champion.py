"""What the champion makes of tonight's rows beside the released ones, by the vectors that are stored of both."""

# N = released items, M = new and changed rows, H = held-out items, F = validation items of the release

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.arrays import Indices, Mask, Values
from pairloom.models.batches.relations import Relations
from pairloom.models.evaluation.agreement import Contrasts, Vectors, contrasts, own_contrasts
from pairloom.models.evaluation.config import DIRECTIONS, GateConfig
from pairloom.models.evaluation.findings import FEWEST, Finding, found, matters
from pairloom.models.evaluation.ranking import answered, on_grid
from pairloom.models.evaluation.row_agreement import agreeing, beyond, implausible, kept, poured, related, telling
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.tasks.admission.evidence import Evidence, Side

MOST = 5_000
"""Rows of a kind whose vectors are looked at, drawn by the gate's seed."""
MOST_HELD = 2_000
"""Held-out items, and validation items, that they are judged beside."""
MOST_POURED = 20
"""Values that come too often which are looked at, the commonest first."""
MOST_EQUAL = 200
"""Rows of each of them."""
K = 10


class Champion:
    """The released model, as far as its stored vectors tell."""

    def __init__(self, store: EmbeddingStore, evidence: Evidence, config: GateConfig) -> None:
        self._store, self._evidence, self._config = store, evidence, config
        split = evidence.released.table["split"]
        trained_N = np.asarray(pc.equal(split, "train"), dtype=bool)
        held = self._drawn(np.flatnonzero(~trained_N), MOST_HELD)
        self._held = evidence.released.vectors(store, held)
        self._own = Contrasts(own_contrasts(self._held), evidence.captions.value_N[held])
        self._unknown_H = ~np.isin(self._own.text_N, evidence.captions.value_N[trained_N])
        self._val = self._drawn(np.flatnonzero(np.asarray(pc.equal(split, "val"), dtype=bool)), MOST_HELD)

    def judged(self) -> Iterator[Finding]:
        """All that it tells: whether it can, how far rows agree, what was poured over many, what it still finds."""
        able = telling(self._own, self._config)
        yield able
        if able.verdict == "passed":
            yield from self._agreements()
            yield from self._poured()
        yield from self._kept()

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
        carriers = self._drawn(
            np.flatnonzero(np.isin(evidence.captions.value_N, evidence.captions.value_M[rows])), MOST
        )
        value_K = contrasts(evidence.released.vectors(self._store, carriers), self._held)
        text_K = evidence.captions.value_N[carriers]
        total, count = (
            np.bincount(text_K, weights, 1 + evidence.captions.value_N.max(initial=0)) for weights in (value_K, None)
        )
        least = self._config.rows.min_agreement * self._own.value_N.mean()
        told = np.flatnonzero((count > 0) & (total >= least * count))
        return rows[np.isin(evidence.captions.value_M[rows], told)]

    def _contrasts(self, rows: Indices) -> Contrasts:
        rows = self._drawn(rows, MOST)
        vectors = self._evidence.fresh.vectors(self._store, rows)
        return Contrasts(contrasts(vectors, self._held), self._evidence.captions.value_M[rows])

    def _beside(self, chosen_H: Mask) -> Contrasts | None:
        own = self._own.take(np.flatnonzero(chosen_H))
        return own if own.texts >= FEWEST else None

    def _poured(self) -> Iterator[Finding]:
        evidence, config, released = self._evidence, self._config, len(self._evidence.released)
        for side in evidence.sides:
            own = np.flatnonzero(evidence.new_M | side.changed_M)
            values, count_V = np.unique(side.value_M[own], return_counts=True)
            commonest = int(np.bincount(side.value_N).max(initial=0))
            often = np.flatnonzero(implausible(count_V, len(own), commonest, released, config))
            often = often[np.argsort(-count_V[often], kind="stable")][:MOST_POURED]
            against = [
                poured(side.what, int(count_V[each]), len(own), commonest, released)
                for each in often
                if matters(int(count_V[each]), released, config.rows)
                and not self._related(side, own[side.value_M[own] == values[each]])
            ]
            tonight = f"{count_V.max(initial=0):,} of {len(own):,} rows"
            yield found(
                f"commonest of the {side.what}", f"{commonest:,} of {released:,} items", tonight, "; ".join(against[:1])
            )

    def _related(self, side: Side, rows: Indices) -> bool:
        vectors = self._evidence.fresh.vectors(self._store, self._drawn(rows, MOST_EQUAL))
        if side is self._evidence.captions:
            return related(vectors.text_ND.mean(axis=0), vectors.image_ND, self._held.image_ND, self._config.seed)
        return related(vectors.image_ND.mean(axis=0), vectors.text_ND, self._held.text_ND, self._config.seed)

    def _kept(self) -> Iterator[Finding]:
        """How well the release's validation items are found among one another, as they were and as they are tonight."""
        evidence = self._evidence
        stayed_N = ~evidence.released.are(evidence.changes.removed)
        val = self._val[stayed_N[self._val]]
        if not len(val):
            return
        rows = evidence.released.table.take(pa.array(val)).to_pylist()
        item_ids = [row["item_id"] for row in rows]
        relations = Relations.build(
            item_ids,
            [row["group"] for row in rows],
            [row["texts"] for row in rows],
            [row["pixel_hash"] for row in rows],
        )
        before = evidence.released.vectors(self._store, val)
        place_F = np.asarray(
            pc.fill_null(pc.index_in(pa.array(item_ids), evidence.fresh.table["item_id"].combine_chunks()), -1)
        )
        changed_F = place_F >= 0
        after = Vectors(before.image_ND.copy(), before.text_ND.copy())
        tonight = evidence.fresh.vectors(self._store, place_F[changed_F].astype(np.int64))
        if changed_F.any():
            after.image_ND[changed_F], after.text_ND[changed_F] = tonight.image_ND, tonight.text_ND
        for direction in DIRECTIONS:
            found_F, found_now_F = (recall(direction, each, relations) for each in (before, after))
            yield kept(f"{direction}_recall@{K}", found_F, found_now_F, changed_F, self._config)

    def _drawn(self, rows: Indices, most: int) -> Indices:
        """At most so many of some rows, in their order."""
        if len(rows) <= most:
            return rows
        return np.sort(np.random.default_rng(self._config.seed).permutation(rows)[:most])


def recall(direction: str, vectors: Vectors, relations: Relations) -> Values:
    """(F,): what each item adds to recall@10, asked with all of its texts at once or with its image."""
    sides = [on_grid(vectors.text_ND), on_grid(vectors.image_ND)]
    query_FD, candidate_FD = sides if direction == DIRECTIONS[0] else sides[::-1]
    keys = relations.item_keys_NF
    answers = answered(query_FD, candidate_FD, np.arange(len(vectors)), lambda rows: keys[rows] @ keys.T, (K,))
    found_F: Values = answers.recall_QR[:, 0]
    return found_F
