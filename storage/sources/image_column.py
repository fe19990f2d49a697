"""The image column of a table: what it holds, which columns to list without its bytes, and rows made of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pyarrow as pa

from pairloom.storage.images.location import ImageAt
from pairloom.storage.sources.arrow_batch import ArrowBatch, is_bytes, is_text
from pairloom.storage.sources.raw_row import MAX_LINE, RawRow, Values, malformed


@dataclass(frozen=True)
class ImageColumn:
    """How a table holds its images: as bytes, as structs of bytes and perhaps a path, or not at all but by name."""

    name: str
    form: Literal["bytes", "struct", "name"]
    has_path: bool
    """Whether its structs have paths."""
    columns: tuple[str, ...]
    """All columns of the table that hold no images."""


class Picture(NamedTuple):
    """What a row has for an image."""

    path: str | None
    """As people are shown it."""
    image: ImageAt | None
    """None where `path` names a file of its own, or where there is none."""
    absent: str = ""
    """Why there is none."""


def image_column(schema: pa.Schema, name: str) -> ImageColumn:
    """How a table of this schema holds the images of its column `name`.

    Raises ValueError for a column that can hold none, and for a schema that names a column twice.
    """
    twice = {each for each in schema.names if schema.names.count(each) > 1}
    if twice:
        raise ValueError(f"names {', '.join(sorted(twice))} more than once")
    if name not in schema.names:
        return ImageColumn(name, "name", False, tuple(schema.names))
    others = tuple(each for each in schema.names if each != name)
    kind = schema.field(name).type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name.startswith("lance.blob"):
            return ImageColumn(name, "bytes", False, others)
        kind = kind.storage_type
    if is_text(kind) or pa.types.is_null(kind):
        return ImageColumn(name, "name", False, tuple(schema.names))
    if is_bytes(kind):
        return ImageColumn(name, "bytes", False, others)
    if pa.types.is_struct(kind):
        fields = {each.name: each.type for each in kind}
        if "bytes" in fields and is_bytes(fields["bytes"]):
            return ImageColumn(name, "struct", "path" in fields and is_text(fields["path"]), others)
    raise ValueError(f"column {name} holds {kind}: neither bytes, nor structs of bytes and path, nor paths")


def table_rows(
    batch: pa.RecordBatch, column: ImageColumn, pictures: Iterable[Picture] | None, numbers: Iterator[int]
) -> Iterator[RawRow]:
    """The rows of a batch of the other columns, each with its picture; `pictures` is None where they are named."""
    others = ArrowBatch({name: batch[name] for name in column.columns}, batch.num_rows)
    texts = others.texts()
    if pictures is None:
        for row, text in enumerate(texts):
            yield _row(next(numbers), text, others, row, None, None)
        return
    for row, (text, picture) in enumerate(zip(texts, pictures, strict=True)):
        yield _row(next(numbers), f"{text} {picture.path or ''}", others, row, column.name, picture)


_Found = tuple[ArrowBatch, int, str | None, str | None]
"""The batch, the place in it, the image column where it isn't in the batch, and the image's path."""


def _row(number: int, text: str, batch: ArrowBatch, row: int, name: str | None, picture: Picture | None) -> RawRow:
    if len(text) > MAX_LINE:
        return malformed(number, text, f"longer than {MAX_LINE} characters")
    path, image, absent = picture or (None, None, "")
    return RawRow(number, text, (batch, row, name, path), _values, image, absent=absent)


def _values(found: _Found) -> Values:
    batch, row, name, path = found
    values = batch.values(row)
    return values if name is None else {**values, name: path}
