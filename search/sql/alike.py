"""Tables over all pairs of items: `near_duplicates` and `outliers`."""

import numpy as np
import pyarrow as pa

from pairloom.models.mining.likeness import PairLimitError, neighbour_means, similar_pairs
from pairloom.search.filters import bad_filter, lance_filter
from pairloom.search.sql.arguments import Arguments, TableFunction
from pairloom.search.sql.limits import ANSWER
from pairloom.search.sql.session import Session
from pairloom.storage.table.index import COLUMN, Floats


def _near_duplicates(session: Session, given: Arguments) -> pa.Table:
    threshold = given.number("threshold", 0.95)
    if not -1 <= threshold <= 1:
        raise ValueError(f"near_duplicates: its threshold is {threshold:g}, must be from -1 to 1")
    ids, vector_ND = _vectors(session, given.text_or_none("where"))
    try:
        first, second, score = similar_pairs(vector_ND, threshold, most=ANSWER.rows, check=session.deadline.check)
    except PairLimitError as error:
        raise ValueError(f"near_duplicates: {error}: raise the threshold, which is {threshold:g}") from error
    return pa.table({"item_id": ids.take(pa.array(first)), "other_id": ids.take(pa.array(second)), "score": score})


def _outliers(session: Session, given: Arguments) -> pa.Table:
    k, neighbours = given.whole("k", 20), given.whole("neighbours", 10)
    if k < 1 or neighbours < 1:
        raise ValueError(f"outliers: k is {k} and neighbours {neighbours}, both must be at least 1")
    ids, vector_ND = _vectors(session, given.text_or_none("where"))
    mean_N = neighbour_means(vector_ND, neighbours, check=session.deadline.check)
    far = np.argsort(mean_N, kind="stable")[:k]
    return pa.table({"item_id": ids.take(pa.array(far)), "score": mean_N[far].astype(np.float64)})


def _vectors(session: Session, where: str | None) -> tuple[pa.Array, Floats]:
    """Ids and image vectors (N, D) of the items that fulfil a condition, in the order of their ids."""
    release = session.release
    condition = None if where is None else lance_filter(where, release.columns, release.times)
    try:
        found = release.dataset.to_table(columns=["item_id", COLUMN], filter=condition)
    except (ValueError, OSError, RuntimeError) as error:
        if where is None:
            raise
        raise bad_filter(where, str(error), release.columns) from error
    found = found.sort_by("item_id").combine_chunks()
    flat = found[COLUMN].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return found["item_id"].combine_chunks(), flat.reshape(len(found), release.record.dimension)


ALIKE = (
    TableFunction("near_duplicates", ("threshold", "where"), "near_duplicates(0.95)", _near_duplicates),
    TableFunction("outliers", ("k", "neighbours", "where"), "outliers(k := 20, neighbours := 10)", _outliers),
)
