"""The rows nearest to one vector, in an order that neither the processor nor the order of rows decides."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.evaluation.cutoff import NEXT, margin
from pairloom.models.evaluation.hubness import corrected
from pairloom.search.exact import Side, nearest_by_product
from pairloom.search.filters import bad_filter, lance_filter
from pairloom.search.options import MAX_K
from pairloom.search.release import OpenRelease
from pairloom.storage.schema import HUBNESS
from pairloom.storage.sealed import MAX_SECONDS, in_time
from pairloom.storage.table.index import Floats, nearest

if TYPE_CHECKING:
    from pairloom.search.query import Query

CORRECTED = 300
"""Nearest items that are ordered anew where hubs are corrected; those behind them stay as they are."""
IN_FRONT = 10
"""Of those, how many are looked for with all effort: the same for every page, so that pages go on from one another."""
SCORE_DIGITS = 6
"""Digits after which equal similarities differ by the order of summation only."""


@dataclass(frozen=True)
class Near:
    """What is nearest to a vector."""

    rows: pa.Table
    margin: float
    """How much nearer the nearest is than those behind it, `pairloom.models.evaluation.cutoff.margin`."""


def nearest_rows(
    release: OpenRelease,
    vector: Floats,
    *,
    k: int,
    where: str | None = None,
    columns: list[str],
    without: str | Collection[str] | None = None,
    target: Side = "image",
    hubness: bool = False,
) -> Near:
    """`columns` and `score` of the `k` nearest rows, best first, equal scores in the order of their item_ids.

    `score` is the cosine similarity to the items' images, or, for `target` text, to the mean of their texts. Scores
    that only their last bits could tell apart are equal. `without`: an item_id, or several, that are left out.
    With `hubness`, the first `CORRECTED` are ordered by their scores less that.
    """
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k is {k}, must be from 1 to {MAX_K}")
    left_out = {without} if isinstance(without, str) else set(without or ())
    condition = None if where is None else lance_filter(where, release.columns, release.times)
    wanted = k + len(left_out)
    wanted = max(wanted, CORRECTED) if hubness else wanted
    asked = max(wanted + 3, NEXT + 1)
    read = [*columns, HUBNESS] if hubness and HUBNESS not in columns else columns
    while True:
        try:
            rows = Asked(asked, asked - wanted, max(0, CORRECTED - IN_FRONT) if hubness else 0, condition, read)
            find = partial(_found, release, vector, rows, target)
            found = find() if where is None else in_time(find, MAX_SECONDS)
        except (ValueError, OSError, RuntimeError) as error:
            if where is None:
                raise
            raise bad_filter(where, str(error), release.columns) from error
        scores = tied(1 - found["_distance"].to_numpy().astype(np.float64))
        # Where a tie straddles the k-th place, all of it must be seen before the item_ids can decide.
        if len(found) < asked or asked >= MAX_K or scores.min() < np.partition(scores, -wanted)[-wanted]:
            break
        asked = min(asked * 4, MAX_K)
    found = found.drop_columns(["_distance"]).append_column("score", pa.array(scores))
    if left_out:
        found = found.filter(pc.invert(pc.is_in(found["item_id"], pa.array(sorted(left_out), pa.string()))))
    found = found.sort_by([("score", "descending"), ("item_id", "ascending")])
    ahead = margin_of(found["score"].to_numpy())
    if hubness:
        found = found.take(pa.array(corrected_order(found["score"].to_numpy(), found[HUBNESS].to_numpy())))
    return Near(found.slice(0, k).select([*columns, "score"]), ahead)


def margin_of(scores: npt.NDArray[np.float64]) -> float:
    """The margin of one query, for its highest scores in any order."""
    return round(float(margin(scores[None])[0]), SCORE_DIGITS) if len(scores) else 0.0


def corrects(release: OpenRelease, query: "Query", wanted: bool | None = None, target: Side = "image") -> bool:
    """Whether hits of `query` are ordered with their hubness taken off: it is of images, measured by texts.

    None as the release says. ValueError where it is wanted and the release's table doesn't hold it.
    """
    if wanted and HUBNESS not in release.columns:
        raise ValueError(f"release {release.record.number} was made without hubness: there is nothing to correct by")
    return query.of_texts and target == "image" and (release.record.hubness if wanted is None else wanted)


def corrected_order(scores: npt.NDArray[np.float64], hubness: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Places of rows that are given nearest first, of which the first `CORRECTED` are ordered by corrected scores."""
    better = corrected(scores[:CORRECTED], hubness[:CORRECTED])
    # Stable: what is equally good stays in the order of scores and item_ids.
    order = np.argsort(-tied(better), kind="stable")
    return np.concatenate([order, np.arange(len(order), len(scores))])


def check_filter(release: OpenRelease, where: str) -> None:
    """Raises ValueError, in one line, where `where` is no condition on the columns: before a model is loaded."""
    condition = lance_filter(where, release.columns, release.times)
    try:
        in_time(lambda: release.dataset.scanner(columns=["item_id"], filter=condition).explain_plan(), MAX_SECONDS)
    except (ValueError, OSError, RuntimeError) as error:
        raise bad_filter(where, str(error), release.columns) from error


def tied(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scores rounded, those of copies to the same: a score counts as the best that is no more than a unit above it.

    Rounding alone would part copies whose last bits lie on two sides of an edge.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, places = scores[order], np.arange(len(scores))
    leads = np.ones(len(scores), bool)
    leads[1:] = ranked[1:] < ranked[:-1] - 10**-SCORE_DIGITS
    while True:
        best = ranked[np.maximum.accumulate(np.where(leads, places, 0))]
        behind = ranked < best - 10**-SCORE_DIGITS
        if not behind.any():
            break
        leads[1:] |= behind[1:] & ~behind[:-1]
    tied = np.empty_like(scores)
    tied[order] = best
    return tied.round(SCORE_DIGITS)


@dataclass(frozen=True)
class Asked:
    """What is asked of the index."""

    k: int
    spare: int
    """Of the `k`, how many are only there to tell ties."""
    behind: int
    """Of those before them, how many are mostly there to be ordered anew."""
    where: str | None
    columns: list[str]


def _found(release: OpenRelease, vector: Floats, asked: Asked, target: Side) -> pa.Table:
    """`columns` and `_distance` of the nearest rows. Text vectors have no index: all of them are read."""
    if target == "image":
        return nearest(
            release.dataset,
            vector,
            k=asked.k,
            spare=asked.spare,
            behind=asked.behind,
            where=asked.where,
            columns=asked.columns,
        )
    found = nearest_by_product(release.dataset, vector[None], k=asked.k, side=target, where=asked.where)
    rows = release.dataset.take(found.offsets_QK[0].tolist(), columns=asked.columns)
    return rows.append_column("_distance", pa.array(1 - found.scores_QK[0]))
