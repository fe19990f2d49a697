"""Tables of nearest items: `search`, `search_image` and `search_like`."""

import numpy as np
import pyarrow as pa

from pairloom.search.fitting import cutoff_for, fitting, margin_for
from pairloom.search.query import Query, corrects, nearest_rows, query_vector
from pairloom.search.sql.arguments import Arguments, TableFunction
from pairloom.search.sql.functions import images_of
from pairloom.search.sql.session import Session
from pairloom.storage.releases import Cutoff
from pairloom.storage.table.index import Floats


def _search(session: Session, given: Arguments) -> pa.Table:
    text = given.any_of("text", str, list)
    if isinstance(text, list):
        return _nearest(session, given, _unit(session, text))
    return _answer(session, given, Query(text=text))


def _search_image(session: Session, given: Arguments) -> pa.Table:
    image = given.any_of("image", str, bytes)
    picture = session.attached.image(image) if isinstance(image, str) else images_of(session, [image])[0]
    return _answer(session, given, Query(image=picture))


def _search_like(session: Session, given: Arguments) -> pa.Table:
    item_id = given.any_of("item_id", str)
    return _answer(session, given, Query(like=item_id), without=item_id)


def _answer(session: Session, given: Arguments, query: Query, *, without: str | None = None) -> pa.Table:
    release = session.release
    vector, correct = query_vector(release, query), corrects(release, query)
    return _nearest(session, given, vector, without=without, hubness=correct, cutoff=cutoff_for(release, query))


def _nearest(
    session: Session,
    given: Arguments,
    vector: Floats,
    *,
    without: str | None = None,
    hubness: bool = False,
    cutoff: Cutoff | None = None,
) -> pa.Table:
    session.deadline.check()
    where, k, columns = given.text_or_none("where"), given.whole("k", 10), session.release.columns
    near = nearest_rows(session.release, vector, k=k, where=where, columns=columns, without=without, hubness=hubness)
    margin = margin_for(session.release, vector, near, where, cutoff)
    return near.rows.append_column("fits", pa.array(fitting(near.rows, cutoff, margin), pa.bool_()))


def _unit(session: Session, numbers: list[float]) -> Floats:
    """A vector that a statement computed, made a query of."""
    vector, dimension = np.asarray(numbers, dtype=np.float32), session.release.record.dimension
    length = float(np.linalg.norm(vector))
    if vector.shape != (dimension,) or not np.isfinite(length) or length <= 1e-6:
        raise ValueError(f"a vector to search for has {dimension} finite numbers that aren't all 0")
    return np.asarray(vector / length, dtype=np.float32)


SEARCHES = (
    TableFunction("search", ("text", "k", "where"), "search('red apple', k := 10, where := 'a condition')", _search),
    TableFunction("search_image", ("image", "k", "where"), "search_image('photo.jpg', k := 10)", _search_image),
    TableFunction("search_like", ("item_id", "k", "where"), "search_like('an item_id', k := 10)", _search_like),
)
