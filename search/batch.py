"""Many queries at once: encoded together, answered by one pass over all vectors."""

# Q = queries, K = rows of one query, D = embedding

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.evaluation.cutoff import NEXT
from pairloom.models.evaluation.similarity import MEASURES
from pairloom.search.embedding import query_vectors
from pairloom.search.exact import Offsets, nearest_by_product
from pairloom.search.filters import lance_filter
from pairloom.search.fitting import cutoff_for, reaching, require_cutoff
from pairloom.search.nearest import CORRECTED, SCORE_DIGITS, check_filter, corrected_order, corrects, margin_of, tied
from pairloom.search.options import MAX_K, Options
from pairloom.search.query import Query, metadata_of, results_of
from pairloom.search.release import OpenRelease, Reader
from pairloom.search.results import SearchResult, hit_of
from pairloom.storage.releases import Cutoff
from pairloom.storage.schema import HUBNESS
from pairloom.storage.sealed import MAX_SECONDS, in_time
from pairloom.storage.table.index import Floats

SPARE = 8
"""Rows that are found beyond those wanted: a tie may straddle the last place."""

Found = tuple[Offsets, npt.NDArray[np.float64]]
"""Rows of one query by their places in the table, with their scores; (K,) each, in no order."""


def answers(reader: Reader, queries: Sequence[Query], options: Options) -> list[SearchResult]:
    """What `answer` finds for each query, where the table is searched exactly; of the options `k`, `where`, `columns`,
    `target`, `metric`, `hubness` and `only_fitting` are looked at.

    Raises ValueError as `answer` does.
    """
    release = reader.current
    options.check(release.columns)
    if options.where is not None:
        check_filter(release, options.where)
    cutoffs = [cutoff_for(release, query, options.target) for query in queries]
    if options.only_fitting:
        for cutoff in cutoffs:
            require_cutoff(release, cutoff)
    correct_Q = [corrects(release, query, options.hubness, options.target) for query in queries]
    query_QD = query_vectors(release, queries)
    wanted_Q = [
        max(options.k + len(query.items), CORRECTED if correct else 0)
        for query, correct in zip(queries, correct_Q, strict=True)
    ]
    found = _found(release, query_QD, wanted_Q, options)
    margin_Q = _margins(release, query_QD, found, cutoffs, options)
    best = _best(release, queries, found, correct_Q, options.k)
    metadata = metadata_of(release, options)
    vector = [] if options.metric == "cosine" else [f"{options.target}_vector"]
    hubs = [HUBNESS] if any(cutoff and cutoff.corrected for cutoff in cutoffs) else []
    columns = dict.fromkeys(["item_id", "texts", "path", "thumbnail", *metadata, *vector, *hubs])
    rows = _rows(release, [offsets_K for offsets_K, _ in best], list(columns))
    results, result = [], results_of(release, options)
    told = zip(queries, query_QD, cutoffs, margin_Q, best, strict=True)
    for query, query_D, cutoff, margin, (offsets_K, scores_K) in told:
        own = [rows[offset] for offset in offsets_K.tolist()]
        fits: list[bool | None] = [None] * len(own)
        if cutoff:
            hubness_K = np.array([row[HUBNESS] for row in own]) if cutoff.corrected else None
            fits = reaching(scores_K, hubness_K, cutoff, margin)
        if vector and own:
            item_KD = np.stack([np.asarray(row[vector[0]], np.float32) for row in own])
            scores_K = MEASURES[options.metric](query_D[None], item_KD)[0].round(SCORE_DIGITS)
        hits = [
            hit_of(row, metadata, score=score, fits=fit)
            for row, score, fit in zip(own, scores_K.tolist(), fits, strict=True)
            if fit or not options.only_fitting
        ]
        results.append(result(query, hits))
    return results


def _found(release: OpenRelease, query_QD: Floats, wanted_Q: Sequence[int], options: Options) -> list[Found]:
    """As many of the nearest rows as are wanted of each query, and all that are as near as the last of them."""
    condition = None if options.where is None else lance_filter(options.where, release.columns, release.times)
    found: list[Found] = [(np.empty(0, np.int64), np.empty(0))] * len(query_QD)
    open_Q, asked = np.arange(len(query_QD)), max(NEXT + 1, max(wanted_Q, default=0) + SPARE)
    while len(open_Q):
        search = partial(
            nearest_by_product, release.dataset, query_QD[open_Q], k=asked, side=options.target, where=condition
        )
        nearest = search() if condition is None else in_time(search, MAX_SECONDS)
        unsettled = []
        for place, offsets_K, scores_K in zip(open_Q.tolist(), nearest.offsets_QK, nearest.scores_QK, strict=True):
            scores = tied(scores_K.astype(np.float64))
            found[place] = (offsets_K, scores)
            wanted = wanted_Q[place]
            if len(scores) >= asked and asked < MAX_K and scores[-1] >= scores[wanted - 1]:
                unsettled.append(place)
        open_Q, asked = np.array(unsettled, np.int64), min(asked * 4, MAX_K)
    return found


def _margins(
    release: OpenRelease,
    query_QD: Floats,
    found: Sequence[Found],
    cutoffs: Sequence[Cutoff | None],
    options: Options,
) -> list[float]:
    """Each query's margin among all items; 0 where its cut-off doesn't weigh it."""
    weigh_Q = [cutoff is not None and cutoff.margin_weight != 0 for cutoff in cutoffs]
    scores = [scores_K for _, scores_K in found]
    if options.where is not None and any(weigh_Q):
        nearest = nearest_by_product(release.dataset, query_QD, k=NEXT + 1)
        scores = [tied(scores_K.astype(np.float64)) for scores_K in nearest.scores_QK]
    return [margin_of(own) if weigh else 0.0 for own, weigh in zip(scores, weigh_Q, strict=True)]


def _best(
    release: OpenRelease, queries: Sequence[Query], found: Sequence[Found], correct_Q: Sequence[bool], k: int
) -> list[Found]:
    """The `k` best of what was found for each query, best first, equal scores in the order of their item_ids.

    Of queries that are to be corrected, the first `CORRECTED` are ordered with their hubness taken off.
    """
    places_N = np.unique(np.concatenate([np.empty(0, np.int64), *(each for each, _ in found)]))
    columns = ["item_id", *([HUBNESS] if any(correct_Q) else [])]
    rows = release.dataset.take(places_N.tolist(), columns=columns)
    name_N = rows["item_id"].combine_chunks()
    rank_N = np.argsort(pc.sort_indices(name_N).to_numpy())
    hubness_N = rows[HUBNESS].to_numpy() if any(correct_Q) else None
    best = []
    for query, correct, (offsets_K, scores_K) in zip(queries, correct_Q, found, strict=True):
        row_K = np.searchsorted(places_N, offsets_K)
        order_K = np.lexsort((rank_N[row_K], -scores_K))
        if query.items:
            left_out = pc.is_in(name_N.take(row_K[order_K]), pa.array(sorted(query.items), pa.string()))
            order_K = order_K[~left_out.to_numpy(zero_copy_only=False)]
        if correct and hubness_N is not None:
            order_K = order_K[corrected_order(scores_K[order_K], hubness_N[row_K[order_K]])]
        best.append((offsets_K[order_K[:k]], scores_K[order_K[:k]]))
    return best


def _rows(release: OpenRelease, offsets: Sequence[Offsets], columns: list[str]) -> dict[int, dict[str, Any]]:
    """Some rows of the table by their places; each is read once."""
    places = np.unique(np.concatenate([np.empty(0, np.int64), *offsets]))
    if not len(places):
        return {}
    table: pa.Table = release.dataset.take(places.tolist(), columns=columns)
    return dict(zip(places.tolist(), table.to_pylist(), strict=True))
