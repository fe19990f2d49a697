"""Classes that people added to a pipeline from a few example images: user data, so the pictures are kept, not vectors.

    classes/examples/000003.json          one addition or removal: numbered, immutable, with its own digest
    classes/vectors/<model_id>.parquet    embeddings of the examples by one model: a cache, made again where it is gone

Additions don't disturb one another, so a writer that loses the race for a number takes the next.
"""

import base64
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BeforeValidator, PlainSerializer

from pairloom.storage.files import DamagedError, make_writable, sync
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.records import Record, RecordLog, StaleWriterError
from pairloom.storage.schema import example_schema

logger = logging.getLogger(__name__)

LONGEST_NAME = 200

Vectors = dict[str, npt.NDArray[np.float32]]
"""Embeddings by the digest of the example's content."""


def _from_base64(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


Picture = Annotated[bytes, BeforeValidator(_from_base64), PlainSerializer(_to_base64, when_used="json")]


class Change(Record, frozen=True):
    """Examples added to one class of one column, or all of them taken back."""

    created_at: datetime
    action: Literal["add", "remove"]
    column: str
    """The column of the release whose values are the other classes."""
    name: str
    images: tuple[Picture, ...] = ()
    """As ingest stores them: upright, RGB on white, shrunk once."""


class ClassStore:
    """The added classes of the pipeline in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "classes"
        self._log = RecordLog(self.folder, "example", Change)

    def examples(self, column: str) -> dict[str, dict[str, bytes]]:
        """Images of every added class of `column`, by their digest, in the order they were added.

        Raises DamagedError where a record is not what was written.
        """
        found: dict[str, dict[str, bytes]] = {}
        for change in self._changes():
            if change.column != column:
                continue
            if change.action == "remove":
                found.pop(change.name, None)
            else:
                found.setdefault(change.name, {}).update({content_digest(image): image for image in change.images})
        return found

    def add(self, column: str, name: str, images: Sequence[bytes]) -> int:
        """Add examples to a class, new or not; the number of those that it did not have yet."""
        name = checked_name(name)
        known = self.examples(column).get(name, {})
        fresh = {content_digest(image): image for image in images}
        fresh = {digest: image for digest, image in fresh.items() if digest not in known}
        if fresh:
            self._publish("add", column, name, tuple(fresh.values()))
        return len(fresh)

    def remove(self, column: str, name: str) -> int:
        """Take back an added class, its pictures included; the number of examples it had. ValueError without any."""
        name = checked_name(name)
        examples = self.examples(column)
        if name not in examples:
            known = ", ".join(repr(each) for each in sorted(examples)[:20]) or "none"
            raise ValueError(f"no class {name!r} was added to column {column!r}: there are {known}")
        number = self._publish("remove", column, name, ())
        for change in self._changes():
            if change.number < number and (change.column, change.name) == (column, name):
                self._log.path(change.number).unlink(missing_ok=True)
        self._drop_vectors(but=None)
        sync(self._log.path(number).parent)
        return len(examples[name])

    def vectors(self, model_id: str) -> Vectors:
        """Embeddings of examples by `model_id` that were kept; empty where none were, or where they are damaged."""
        path = self._vectors_path(model_id)
        if not path.is_file():
            return {}
        try:
            table = pa.Table.from_batches(read_parquet(path))
        except DamagedError as error:
            logger.warning("%s; the examples are embedded again", error)
            return {}
        vectors = [np.asarray(vector, np.float32) for vector in table["vector"].to_numpy()]
        return dict(zip(table["content_digest"].to_pylist(), vectors, strict=True))

    def keep_vectors(self, model_id: str, vectors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Keep the embeddings of one model, in the place of those of all others."""
        dimension = len(next(iter(vectors.values())))
        columns = [list(vectors), list(vectors.values())]
        write_parquet(pa.table(columns, schema=example_schema(dimension)), self._vectors_path(model_id))
        self._drop_vectors(but=model_id)

    def records(self) -> Iterator[tuple[Path, Callable[[], object]]]:
        """The file of every addition and removal, with what raises DamagedError where it isn't what was written."""
        for number in sorted(self._log.numbers()):
            yield self._log.path(number), partial(self._log.read, number)

    def _changes(self) -> list[Change]:
        """All additions and removals, oldest first."""
        found = []
        for number in sorted(self._log.numbers()):
            try:
                found.append(self._log.read(number))
            except (ValueError, FileNotFoundError):
                # A removal has deleted it since its name was read; the removal itself comes later in the list.
                continue
            except DamagedError as error:
                raise DamagedError(f"{error}; remove that file and add its images again") from error
        return found

    def _publish(self, action: Literal["add", "remove"], column: str, name: str, images: tuple[bytes, ...]) -> int:
        make_writable(self.folder)
        while True:
            change = Change(
                number=self._log.next_number(),
                files={},
                created_at=datetime.now(UTC),
                action=action,
                column=column,
                name=name,
                images=images,
            )
            try:
                self._log.publish(change)
            except StaleWriterError:
                continue
            return change.number

    def _vectors_path(self, model_id: str) -> Path:
        return self.folder / "vectors" / f"{model_id}.parquet"

    def _drop_vectors(self, *, but: str | None) -> None:
        for path in (self.folder / "vectors").glob("*.parquet"):
            if path.stem != but:
                path.unlink(missing_ok=True)


def content_digest(image: bytes) -> str:
    """What an example is known by."""
    return hashlib.sha256(image).hexdigest()


def checked_name(name: str) -> str:
    """A class's name without blanks around it. Raises ValueError for one that can't be shown in a line."""
    stripped = name.strip()
    if not stripped or len(stripped) > LONGEST_NAME or not stripped.isprintable():
        raise ValueError(f"{name[:60]!r} is no name for a class: 1 to {LONGEST_NAME} printable characters on one line")
    return stripped
