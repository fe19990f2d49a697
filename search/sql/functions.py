"""Functions of a statement that are values: embeddings of texts and images, measures, the mean of vectors."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pairloom.search.sql.limits import checked_text
from pairloom.search.sql.session import Database, Session
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode, open_query_image, open_stored
from pairloom.storage.images.stored_image import RejectedImage

TEXTS_AT_ONCE = 64
"""Texts or images that are encoded between two looks at the clock."""
MEAN = "mean_of_vectors"
_FAR = " " * 2**16
"""Errors inside a macro name a place in the text that defined it: so far off, none is taken for one in a statement."""

_MEASURES = {
    "similarity": "array_cosine_similarity",
    "inner_product": "array_inner_product",
    "euclidean_distance": "array_distance",
}

T = TypeVar("T", str, bytes)


def define_functions(database: Database) -> None:
    """Define them all; those of constants are folded into the plan and computed once, however many rows there are."""
    if database.has_functions:
        return
    database.has_functions = True
    connection, vector = database.connection, f"FLOAT[{database.busy.release.record.dimension}]"
    embeddings = (
        ("embed_text", "VARCHAR", _text_vectors),
        ("embed_image_file", "VARCHAR", _file_vectors),
        ("embed_image_bytes", "BLOB", _byte_vectors),
    )
    for name, given, embed in embeddings:
        connection.create_function(name, _Embedding(database, embed), [given], vector, type="arrow")
    connection.create_function(MEAN, _means, [f"{vector}[]"], vector, type="arrow")
    # Overloads of a macro by type would know nothing of the type of an aggregate. Of constants both branches of a CASE
    # are computed beforehand: the inner one sees to it that nothing is encoded there.
    connection.execute(
        f"{_FAR}CREATE MACRO embed_image(i) AS CASE typeof(i) "
        f"WHEN 'BLOB' THEN embed_image_bytes({_if_type('i', 'BLOB')}) "
        f"WHEN 'VARCHAR' THEN embed_image_file({_if_type('i', 'VARCHAR')}) "
        f"ELSE i::{vector} END"
    )
    other = f"CASE typeof(t) WHEN 'VARCHAR' THEN embed_text({_if_type('t', 'VARCHAR')}) ELSE t::{vector} END"
    for name, function in _MEASURES.items():
        connection.execute(f"{_FAR}CREATE MACRO {name}(v, t) AS {function}(v::{vector}, {other})")


def _if_type(name: str, kind: str) -> str:
    return f"CASE typeof({name}) WHEN '{kind}' THEN {name}::{kind} END"


class _Embedding:
    """A DuckDB function that embeds each different value of a statement once."""

    def __init__(self, database: Database, embed: Any) -> None:
        self._database = database
        self._embed = embed

    def __call__(self, values: pa.ChunkedArray) -> pa.Array:
        session = self._database.busy
        known = session.embedded.setdefault(self._embed, {})
        rows = values.to_pylist()
        fresh = sorted({value for value in rows if value is not None} - known.keys())
        for start in range(0, len(fresh), TEXTS_AT_ONCE):
            session.deadline.check()
            some = fresh[start : start + TEXTS_AT_ONCE]
            known.update(zip(some, self._embed(session, some), strict=True))
        vectors = [None if value is None else known[value] for value in rows]
        return pa.array(vectors, type=pa.list_(pa.float32(), session.release.record.dimension))


def _text_vectors(session: Session, texts: Sequence[str]) -> Any:
    return session.release.embed_texts([checked_text(text) for text in texts])


def _file_vectors(session: Session, names: Sequence[str]) -> Any:
    config = _image_config(session)
    images = [open_query_image(session.attached.image(name), config) for name in names]
    return session.release.encoder.embed_images(images)


def _byte_vectors(session: Session, contents: Sequence[bytes]) -> Any:
    return session.release.encoder.embed_images(images_of(session, contents))


def images_of(session: Session, contents: Sequence[bytes]) -> list[Any]:
    """Encoded images of whoever's, decoded in a child process. ValueError for one that can't be."""
    config = _image_config(session).model_copy(update={"workers": 1})
    found = []
    for number, decoded in decode(((n, _reading(each)) for n, each in enumerate(contents)), config):
        if isinstance(decoded, RejectedImage):
            raise ValueError(f"{len(contents[number]):,} bytes that should be an image: {decoded.message}")
        found.append(open_stored(decoded.content))
    return found


def _reading(content: bytes) -> Any:
    return BytesIO(content).read


def _image_config(session: Session) -> IngestConfig:
    return IngestConfig(max_side=session.release.record.max_side, min_side=1)


def _means(lists: pa.ChunkedArray) -> pa.Array:
    """The mean of each list of vectors, null for a list of none."""
    means: list[Any] = []
    for each in lists.combine_chunks() if lists.num_chunks != 1 else lists.chunk(0):
        vectors = each.values
        if vectors is None or len(vectors) == vectors.null_count:
            means.append(None)
            continue
        whole = vectors.drop_null()
        flat = whole.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), -1)
        means.append(flat.mean(axis=0, dtype=np.float64).astype(np.float32))
    return pa.array(means, type=lists.type.value_type)
