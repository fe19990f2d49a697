"""Rows of tar shards as the webdataset library and img2dataset write them: a row a sample, nothing extracted."""

import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pairloom.storage.digest import digest
from pairloom.storage.images.location import FileSlice, ImageAt, file_key, file_version
from pairloom.storage.sources.folder import IMAGE_SUFFIXES
from pairloom.storage.sources.raw_row import MAX_LINE, RawRow, Values, malformed, not_decoded
from pairloom.storage.sources.shards import shard_files, shown
from pairloom.storage.sources.tar_members import Member, check_tar, tar_members

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
"""Compressed shards are rows too: that they can't be read."""
_READ = ("txt", "caption", "cls", "json")
_MOST_MEMBERS = 256
"""Of one sample."""
_META = re.compile(r"__[^/]*__($|/)")
"""Names that the webdataset library leaves out as well."""


def webdataset_rows(path: Path, name: str) -> Iterator[RawRow]:
    """One row per sample of the shard at `path`, or of each in that folder; `name` is the image column.

    A sample is what follows one another under one name up to its first dot. One that a damaged, linked or otherwise
    unusable member belongs to is a malformed row, and so is a shard that can't be read.
    """
    numbers = itertools.count(1)
    for shard in shard_files(path, _SUFFIXES):
        at = shown(shard, path)
        try:
            check_tar(shard)
            yield from _Shard(shard, at, name).rows(numbers)
        except (OSError, ValueError) as error:
            yield malformed(next(numbers), at, f"{at}: {error}")


def webdataset_version(path: Path) -> str:
    """What changes with anything in the shard at `path`, or in those of that folder."""
    return digest([(str(shard), file_version(shard.stat())) for shard in shard_files(path, _SUFFIXES)])


def check_shards(paths: Sequence[Path]) -> None:
    """Raises ValueError where no shard can be read."""
    problem = f"there are no tar shards at {paths[0]}"
    shards = itertools.chain.from_iterable(shard_files(path, _SUFFIXES) for path in paths)
    for number, path in enumerate(shards):
        try:
            return check_tar(path)
        except (OSError, ValueError) as error:
            problem = problem if number else f"{path} can't be read: {error}"
    raise ValueError(problem)


@dataclass
class _Sample:
    key: str
    members: dict[str, Member] = field(default_factory=dict)
    """By suffix: what follows the name's first dot."""
    problem: str = ""

    def add(self, suffix: str, member: Member) -> None:
        if suffix in self.members:
            self.problem = self.problem or f"{member.name} is there twice"
        elif len(self.members) == _MOST_MEMBERS:
            self.problem = self.problem or f"{self.key} has more than {_MOST_MEMBERS} members"
        else:
            self.members[suffix] = member
        self.problem = self.problem or member.problem


class _Shard:
    """One shard as rows."""

    def __init__(self, path: Path, at: str, image_column: str) -> None:
        self._path, self._at, self._column = path, at, image_column
        self._key = file_key(path)

    def rows(self, numbers: Iterator[int]) -> Iterator[RawRow]:
        with self._path.open("rb", buffering=0) as file:
            version = file_version(os.fstat(file.fileno()))
            for sample in _samples(tar_members(self._path)):
                yield self._row(next(numbers), sample, file.fileno(), version)

    def _row(self, number: int, sample: _Sample, file: int, version: str) -> RawRow:
        texts = {suffix: each for suffix, each in sample.members.items() if suffix.rpartition(".")[2] in _READ}
        long = next((each.name for each in texts.values() if each.size > MAX_LINE), None)
        if problem := sample.problem or (long and f"{long} is longer than {MAX_LINE} bytes"):
            return malformed(number, f"{self._at}/{sample.key}", f"{self._at}: {problem}")
        contents = {
            suffix: os.pread(file, each.size, each.offset).decode(errors="surrogateescape")
            for suffix, each in texts.items()
        }
        member, image, path = self._image(sample), None, None
        if member is not None:
            image = ImageAt(
                key=f"{self._key}#{member.offset}",
                version=version,
                length=member.size,
                origin=FileSlice(self._path, member.offset, member.size),
            )
            path = f"{self._at}/{member.name}"
        told = [f"{suffix}:{len(content)}:{content}" for suffix, content in contents.items()]
        absent = "" if image else f"none of the members of {sample.key} is an image: {', '.join(sample.members)}"[:300]
        found = (sample.key, contents, self._column, path)
        return RawRow(number, "\n".join([sample.key, *told, path or ""]), found, _values, image, absent=absent)

    def _image(self, sample: _Sample) -> Member | None:
        """What the image column names, else the first member that an image's suffix ends."""
        images = (
            member for suffix, member in sample.members.items() if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES
        )
        return sample.members.get(self._column) or next(images, None)


def _samples(members: Iterator[Member]) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        stem, dot, suffix = name.partition(".")
        if not (stem and dot and suffix) or _META.match(member.name):
            # No part of a sample: hidden files, notes.
            if member.problem:
                yield _Sample(member.name, problem=member.problem)
            continue
        key = folder + slash + stem
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        sample.add(suffix.lower(), member)
    if sample is not None:
        yield sample


def _values(found: tuple[str, dict[str, str], str, str | None]) -> Values:
    key, contents, image_column, path = found
    values: dict[str, object] = {}
    for suffix, content in contents.items():
        content = content.removeprefix("\ufeff")
        if problem := not_decoded(content):
            raise ValueError(f"{key}.{suffix} is {problem}")
        match suffix:
            case "json":
                values = _json(key, content) | values
            case "txt":
                values["text"] = content
            case "cls":
                values["cls"] = int(content) if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", content) else content.strip()
            case _:
                values[suffix] = content
    return {**values, "__key__": key, **({image_column: path} if path else {})}


def _json(key: str, content: str) -> dict[str, object]:
    try:
        found = json.loads(content, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError(f"{key}.json is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{key}.json: {error}") from error
    if "\\ud" in content.lower() and not_decoded(json.dumps(found, ensure_ascii=False)):
        raise ValueError(f"{key}.json holds half of a surrogate pair")
    return found if isinstance(found, dict) else {"json": found}
