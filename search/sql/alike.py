"""Tables over all pairs of items: `near_duplicates` and `outliers`."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pairloom.models.arrays import Scores, Values
from pairloom.models.mining.likeness import PairLimitError
from pairloom.search.alike import Vectors, image_vectors
from pairloom.search.filters import bad_filter, lance_filter
from pairloom.search.nearest import SCORE_DIGITS
from pairloom.search.sql.arguments import Arguments, TableFunction
from pairloom.search.sql.limits import ANSWER
from pairloom.search.sql.session import Session


def _near_duplicates(session: Session, given: Arguments) -> pa.Table:
    threshold = given.number("threshold", 0.95)
    if not -1 <= threshold <= 1:
        raise ValueError(f"near_duplicates: its threshold is {threshold:g}, must be from -1 to 1")
    with _vectors(session, given.text_or_none("where")) as items:
        try:
            first, second, score = items.close_pairs(
                threshold, most=ANSWER.rows, progress=lambda _: session.deadline.check()
            )
        except PairLimitError as error:
            raise ValueError(f"near_duplicates: {error}: raise the threshold, which is {threshold:g}") from error
        ids = items.ids
        return pa.table({"item_id": ids.take(first), "other_id": ids.take(second), "score": _rounded(score)})


def _outliers(session: Session, given: Arguments) -> pa.Table:
    k, neighbours = given.whole("k", 20), given.whole("neighbours", 10)
    if k < 1 or neighbours < 1:
        raise ValueError(f"outliers: k is {k} and neighbours {neighbours}, both must be at least 1")
    with _vectors(session, given.text_or_none("where")) as items:
        far, score, sure = items.outliers(k, neighbours, progress=lambda _: session.deadline.check())
        return pa.table({"item_id": items.ids.take(far), "score": _rounded(score), "sure": sure})


def _rounded(score: Scores) -> Values:
    """Cosines to the digits that the order of summation leaves alone: copies have 1, no more."""
    rounded: Values = score.astype(np.float64).round(SCORE_DIGITS)
    return rounded


@contextlib.contextmanager
def _vectors(session: Session, where: str | None) -> Iterator[Vectors]:
    """Of the items that fulfil a condition."""
    release = session.release
    condition = None if where is None else lance_filter(where, release.columns, release.times)
    reading = image_vectors(release, condition, lambda _: session.deadline.check())
    with contextlib.ExitStack() as stack:
        try:
            items = stack.enter_context(reading)
        except (ValueError, OSError, RuntimeError) as error:
            if where is None:
                raise
            raise bad_filter(where, str(error), release.columns) from error
        yield items


ALIKE = (
    TableFunction("near_duplicates", ("threshold", "where"), "near_duplicates(0.95)", _near_duplicates),
    TableFunction("outliers", ("k", "neighbours", "where"), "outliers(k := 20, neighbours := 10)", _outliers),
)
