"""How good tonight's pairs are, in figures that are counted from the pairs as they are written."""

# M = pairs, N = items

from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.batches.relations import normalize_text
from pairloom.models.mining.negatives import Negatives
from pairloom.tasks.items import Items

HARDEST = 20
"""Pairs that are shown."""
BINS = np.linspace(-1, 1, 41)
"""Edges of the bins of scores."""


def audit(pairs: pa.Table, items: Items, negatives: Mapping[str, Negatives]) -> dict[str, Any]:
    """Counts, coverage, what was skipped by which rule, false negatives, histograms of scores, the hardest pairs."""
    positive, negative = (pairs.filter(pc.equal(pairs["relation"], each)) for each in ("positive", "negative"))
    return {
        "anchors": len(items.item_ids),
        "positives": _counts(positive["kind"]),
        "negatives": dict.fromkeys(negatives, 0) | _counts(negative["kind"]),
        "coverage": {direction: _coverage(each) for direction, each in negatives.items()},
        "skipped": {direction: each.skipped for direction, each in negatives.items()},
        "false_negatives": false_negatives(positive, negative, items),
        "histograms": {"edges": BINS.round(2).tolist()}
        | {direction: _histograms(each) for direction, each in negatives.items()},
        "hardest": hardest(negatives, items),
    }


def false_negatives(positive: pa.Table, negative: pa.Table, items: Items) -> dict[str, float]:
    """How many negatives are known positives, by what they share, and their share of all. All must be 0.

    Told from the items' own columns and the written positives, without the code that mined them.
    """
    ids = pa.array(items.item_ids, pa.string())
    anchors_M, others_M = (pc.index_in(negative[side], ids).to_numpy() for side in ("anchor", "other"))
    texts = [{normalize_text(text) for text in own} for own in items.texts]
    number = {group: place for place, group in enumerate(dict.fromkeys(items.groups))}
    groups = np.array([-1 - row if group is None else number[group] for row, group in enumerate(items.groups)])
    near = positive.filter(pc.equal(positive["kind"], "near_duplicate"))
    found = {
        "item": anchors_M == others_M,
        "group": groups[anchors_M] == groups[others_M],
        "text": np.array([not texts[a].isdisjoint(texts[o]) for a, o in zip(anchors_M, others_M, strict=True)], bool),
        "near_duplicate": np.isin(_keys(negative, ids), _keys(near, ids)),
        "known_positive": np.isin(_keys(negative, ids), _keys(positive, ids)),
    }
    any_M = np.logical_or.reduce(list(found.values()))
    return {name: int(each.sum()) for name, each in found.items()} | {"share": float(any_M.mean()) if len(any_M) else 0}


def hardest(negatives: Mapping[str, Negatives], items: Items) -> list[dict[str, Any]]:
    """The pairs that score highest, those of one direction and of the next in turn, each item in one of them."""
    chosen: list[dict[str, Any]] = []
    shown: set[int] = set()
    ranked = [_ranked(direction, each) for direction, each in negatives.items()]
    for direction, anchor, place in filter(None, chain.from_iterable(zip_longest(*ranked))):
        found = negatives[direction]
        other = int(found.indices_NK[anchor, place])
        if not shown.isdisjoint((anchor, other)) or len(chosen) == HARDEST:
            continue
        shown |= {anchor, other}
        chosen.append(
            {
                "direction": direction,
                "anchor": items.item_ids[anchor],
                "other": items.item_ids[other],
                "anchor_text": next(iter(items.texts[anchor]), ""),
                "other_text": next(iter(items.texts[other]), ""),
                "score": round(float(found.scores_NK[anchor, place]), 4),
                "positive_score": round(float(found.positive_N[anchor]), 4),
            },
        )
    return chosen


def _ranked(direction: str, negatives: Negatives) -> list[tuple[str, int, int]]:
    """Anchors and places of the highest scores; more than are shown, since items may come again and again."""
    anchors, places = np.nonzero(negatives.indices_NK >= 0)
    order = np.argsort(-negatives.scores_NK[anchors, places], kind="stable")[: 100 * HARDEST]
    return [(direction, int(anchor), int(place)) for anchor, place in zip(anchors[order], places[order], strict=True)]


def _coverage(negatives: Negatives) -> dict[str, float]:
    """Shares of anchors with a negative, and with as many as were asked for."""
    found_NK = negatives.indices_NK >= 0
    return {"some": round(float(found_NK.any(axis=1).mean()), 4), "all": round(float(found_NK.all(axis=1).mean()), 4)}


def _histograms(negatives: Negatives) -> dict[str, list[int]]:
    scores = {
        "positives": negatives.positive_N,
        "negatives": negatives.scores_NK[negatives.indices_NK >= 0],
    }
    return {name: np.histogram(np.clip(each, -1, 1), BINS)[0].tolist() for name, each in scores.items()}


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {each["values"]: each["counts"] for each in pc.value_counts(column).to_pylist()}


def _keys(pairs: pa.Table, ids: pa.StringArray) -> np.ndarray:
    """A number for each ordered pair of items."""
    anchors, others = (pc.index_in(pairs[side], ids).to_numpy().astype(np.int64) for side in ("anchor", "other"))
    keys: np.ndarray = anchors * len(ids) + others
    return keys
