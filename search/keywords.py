"""Items by the words that their texts hold: what the model never met is found all the same."""

from collections.abc import Collection
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.search.filters import bad_filter, lance_filter
from pairloom.search.options import MAX_K
from pairloom.search.release import OpenRelease
from pairloom.storage.sealed import MAX_SECONDS, in_time
from pairloom.storage.table.words import holding

SCORE_DIGITS = 4
MAX_CHARACTERS = 2_000
"""Of a query's texts: longer ones hold no words that anybody looks for."""


def keyword_rows(
    release: OpenRelease,
    words: str,
    *,
    k: int,
    where: str | None = None,
    columns: list[str],
    without: Collection[str] = (),
) -> pa.Table:
    """`columns` and `keyword_score` (BM25) of the `k` rows whose texts hold words of `words` best, best first.

    A text has no syntax: quotes, signs and operators are read over. Equal scores come in the order of their item_ids.
    Raises ValueError, in one line, where there are no words, or too many.
    """
    if not words.strip():
        raise ValueError("hybrid search looks for words: give a text")
    if len(words) > MAX_CHARACTERS:
        raise ValueError(f"hybrid search takes at most {MAX_CHARACTERS} characters of text, not {len(words)}")
    condition = None if where is None else lance_filter(where, release.columns, release.times)
    wanted = k + len(without)
    asked = wanted + 8
    while True:
        try:
            found = in_time(partial(holding, release.worded, words, k=asked, where=condition), MAX_SECONDS)
        except (ValueError, OSError, RuntimeError) as error:
            if where is None:
                raise
            raise bad_filter(where, str(error), release.columns) from error
        scores = found["_score"].to_numpy().astype(np.float64).round(SCORE_DIGITS)
        # As of the nearest: a tie may straddle the last place.
        if len(found) < asked or asked >= MAX_K or scores.min() < np.partition(scores, -wanted)[-wanted]:
            break
        asked = min(asked * 4, MAX_K)
    found = found.append_column("keyword_score", pa.array(scores))
    found = found.filter(pc.invert(pc.is_in(found["item_id"], pa.array(sorted(without), pa.string()))))
    found = found.sort_by([("keyword_score", "descending"), ("item_id", "ascending")]).slice(0, k)
    rows = release.dataset.take(found["_rowoffset"].to_pylist(), columns=columns)
    return rows.append_column("keyword_score", found["keyword_score"])
