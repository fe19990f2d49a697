"""Immutable, numbered JSON records created with put-if-absent: the one primitive under snapshots and releases."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from pairloom.storage.files import DAMAGED, DamagedError, FileDigests, damage, put_if_absent, read_unchanging

logger = logging.getLogger(__name__)


class StaleWriterError(RuntimeError):
    """Another writer took this number first; what this one built is not visible."""


class FormatError(RuntimeError):
    """A record is whole, and of a later version of Pairloom than this one."""


FORMAT = 2
"""Of the records that are written, and of what they name. 1 is that of version 0.1.0, whose records don't say it."""


class Record(BaseModel, frozen=True, extra="forbid"):
    """What every record holds: its number and the digests of all files it names."""

    number: int
    files: FileDigests

    @property
    def needed(self) -> FileDigests:
        """The files without which the record is not whole."""
        return self.files


R = TypeVar("R", bound=Record)


class RecordLog(Generic[R]):
    """The records of one kind below one pipeline's folder; the current one is the highest that validates."""

    def __init__(self, folder: Path, kind: str, model: type[R]) -> None:
        self.folder = folder
        self.kind = kind
        self.model = model
        self._there: dict[int, Path] | None = None

    def as_listed(self) -> Self:
        """The same log, of the records that there are now alone: it is listed this once."""
        found = copy(self)
        found._there = self.paths()
        return found

    def current(self) -> R | None:
        """The highest valid record, or None where there is none. Damaged ones above it are skipped with a warning."""
        for number in sorted(self.numbers(), reverse=True):
            try:
                return self.read(number)
            except DamagedError as error:
                logger.warning("%s", error)
        return None

    def newest_first(self) -> Iterator[R]:
        """All valid records, newest first."""
        for number in sorted(self.numbers(), reverse=True):
            with contextlib.suppress(DamagedError):
                yield self.read(number)

    def written(self) -> Iterator[R]:
        """All records that can be read, newest first, whatever has become of the files they name."""
        for number in sorted(self.numbers(), reverse=True):
            with contextlib.suppress(DamagedError):
                yield self.stored(number)

    def read(self, number: int) -> R:
        """One record.

        Raises ValueError where there is none, DamagedError where it or a file it needs is not whole, FormatError where
        a later version wrote it: who took that for damage would serve, or build on, what is older.
        """
        record = self.stored(number)
        wrong = damage(self.folder, record.needed)
        if wrong:
            raise DamagedError(f"{self.kind} {number} is not whole: {'; '.join(wrong[:3])}")
        return record

    def stored(self, number: int) -> R:
        """One record, whatever has become of the files it names. Raises what `read` does."""
        document = self.content(number)
        try:
            record = self._understood(document)
        except ValidationError as error:
            # It is what was written, so a name that means nothing here is one that came later.
            if unknown := [fault["loc"] for fault in error.errors() if fault["type"] == "extra_forbidden"]:
                raise FormatError(self._later(number, f"says {'.'.join(map(str, unknown[0]))!r}")) from error
            raise DamagedError(f"{self.kind} record {self.path(number)} is damaged: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, DamagedError) as error:
            raise DamagedError(f"{self.kind} record {self.path(number)} is damaged: {error}") from error
        if record.number != number:
            raise DamagedError(f"{self.kind} record {self.path(number)} is damaged: it says it is {record.number}")
        return record

    def content(self, number: int) -> dict[str, Any]:
        """What stands in the file of a record, but for digest and format. Raises what `read` does, where it isn't what
        was written."""
        path = self.path(number)
        try:
            content = read_unchanging(path)
        except (FileNotFoundError, IsADirectoryError):
            known = ", ".join(str(each) for each in sorted(self.numbers())) or "none"
            raise ValueError(f"no {self.kind} {number}: there are {known}") from None
        try:
            document: dict[str, Any] = json.loads(content)
            sha256 = document.pop("sha256")
            found = _digest(document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{self.kind} record {path} is damaged: {error}") from error
        if found != sha256:
            raise DamagedError(f"{self.kind} record {path} is damaged: its content does not match its digest")
        if (written := document.pop("format", 1)) not in range(1, FORMAT + 1):
            raise FormatError(self._later(number, f"is of format {written}"))
        return document

    def _later(self, number: int, what: str) -> str:
        """What is to be said of a record that only a later version understands."""
        return (
            f"{self.kind} record {self.path(number)} {what}, which this version of Pairloom doesn't know (it reads "
            f"formats 1 to {FORMAT}): a later one wrote it. Upgrade Pairloom here; nothing was changed"
        )

    def next_number(self) -> int:
        """One more than the highest name, valid or not, set aside or not: no number stands for two records."""
        return max([*self.numbers(), *_numbered(self.set_aside)], default=0) + 1

    @property
    def set_aside(self) -> Path:
        """The folder of damaged records that were moved out of the way."""
        return self.folder / DAMAGED / f"{self.kind}s"

    def publish(self, record: R) -> None:
        """Make `record` visible, whole. Raises StaleWriterError where its number is taken, FormatError where it would
        come after one of a later version."""
        path = self.path(record.number)
        if before := max(self.numbers(), default=None):
            with contextlib.suppress(DamagedError, ValueError):
                self.stored(before)
        document = {"format": FORMAT, **self._document(record)}
        content = json.dumps({**document, "sha256": _digest(document)}, indent=1, ensure_ascii=False)
        if not put_if_absent(path, content.encode()):
            raise StaleWriterError(
                f"{self.kind} {record.number} was published by another run in the meantime; "
                "run again to build on top of it"
            )

    def _document(self, record: R) -> dict[str, Any]:
        """What stands in the file of a record."""
        return record.model_dump(mode="json")

    def _understood(self, document: dict[str, Any]) -> R:
        """The record that such a file is."""
        return self.model.model_validate(document)

    def path(self, number: int) -> Path:
        """Where a record is, or would be."""
        return self.folder / f"{self.kind}s" / f"{number:06d}.json"

    def numbers(self) -> list[int]:
        """Numbers of all records, valid or not."""
        return [*self.paths()]

    def paths(self) -> dict[int, Path]:
        """Where they are, by number."""
        return _numbered(self.folder / f"{self.kind}s") if self._there is None else self._there


def _numbered(folder: Path) -> dict[int, Path]:
    return {int(path.stem): path for path in folder.glob("*.json") if path.stem.isdigit()}


def _digest(document: dict[str, Any]) -> str:
    """Of what is written, not of the record made from it, so that a field added later leaves older records valid.

    In the form that the records of every version have, which is not that of `storage.digest`.
    """
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
