"""Rows of a folder of images with their texts beside them; every file in it is accounted for."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pairloom.storage.reasons import Reason
from pairloom.storage.sources.folder_walk import Listed, Skipped, walk
from pairloom.storage.sources.jsonl import json_object
from pairloom.storage.sources.raw_row import MAX_LINE, RawRow, Values, not_decoded, refuse, reject

FOLDER_COLUMNS = ("image", "text", "folder", "name")
"""Columns of a folder's rows: path below it, texts, the image's folder, its name without suffix. The keys of a `.json`
beside an image are more of them."""

IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe"}
    | {".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff"}
    | {".webp"}
)
"""Files in a folder with another suffix are no images."""

SIDECAR_SUFFIXES = (".txt", ".json")

TextFrom = Literal["sidecar", "name", "folder"]

_SEPARATORS = re.compile(r"[_\-\s]+")
_TEXT_KEYS = ("text", "texts", "caption", "captions")


class _Row(NamedTuple):
    text: str
    found: Any
    parse: Callable[[Any], Values]


class _Picture(NamedTuple):
    """An image and what lies beside it."""

    below: str
    texts: list[str]
    json: str | None
    """Text of its `.json`."""


def folder_rows(path: Path, text_from: TextFrom = "sidecar", encoding: str = "utf-8") -> Iterator[RawRow]:
    """One row per image below `path`, sorted by path, folder by folder; and one per other file, with a reason.

    Texts are the lines of the `.txt` of the same stem and what its `.json` says, or the image's or its folder's name.
    """
    for number, row in enumerate(_listed(path, text_from, encoding), start=1):
        yield RawRow(number, row.text, row.found, row.parse, None, path)


def _listed(path: Path, text_from: TextFrom, encoding: str) -> Iterator[_Row]:
    top = path.resolve()
    for found in walk(path):
        if isinstance(found, Skipped):
            yield _rejected(str(found.below), found.reason, found.message)
        else:
            yield from _rows_of(found, top, text_from, encoding)


def _rows_of(folder: Listed, top: Path, text_from: TextFrom, encoding: str) -> Iterator[_Row]:
    pictures = {_stem(name) for name in folder.files if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES}
    sidecars = {_key(name): name for name in folder.files if PurePosixPath(name).suffix.lower() in SIDECAR_SUFFIXES}
    for name in folder.files:
        below, suffix = str(folder.below / name), PurePosixPath(name).suffix.lower()
        if suffix in SIDECAR_SUFFIXES:
            if _stem(name) not in pictures:
                yield _rejected(below, Reason.TEXT_WITHOUT_IMAGE, "no picture of this name lies beside it")
            continue
        if suffix not in IMAGE_SUFFIXES:
            said = f"no picture has the suffix {suffix}" if suffix else "no picture is without a suffix"
            yield _rejected(below, Reason.NOT_AN_IMAGE, said)
            continue
        text, json = (sidecars.get((_stem(name), each)) for each in SIDECAR_SUFFIXES)
        try:
            if problem := not_decoded(below):
                raise ValueError(problem)
            lines = _content(folder.real / text, top, encoding).splitlines() if text and text_from == "sidecar" else []
            picture = _Picture(below, lines, _content(folder.real / json, top, encoding) if json else None)
        except ValueError as error:
            yield _Row(below, str(error), refuse)
        else:
            yield _Row("\n".join([below, *lines, picture.json or ""]), picture, _PARSE[text_from])


def _rejected(below: str, reason: Reason, message: str) -> _Row:
    return _Row(below, (reason, f"{below}: {message}"), reject)


def _stem(name: str) -> str:
    """What a picture and what lies beside it share, however the file system writes accents."""
    return unicodedata.normalize("NFC", PurePosixPath(name).stem)


def _key(name: str) -> tuple[str, str]:
    return _stem(name), PurePosixPath(name).suffix.lower()


def _values(picture: _Picture) -> dict[str, object]:
    below = PurePosixPath(picture.below)
    folder = "" if below.parent == PurePosixPath() else str(below.parent)
    said = dict(json_object(picture.json)) if picture.json else {}
    texts: list[object] = list(picture.texts)
    for key in _TEXT_KEYS:
        value = said.get(key)
        texts += value if isinstance(value, list) else [value]
    return {**said, "image": picture.below, "text": texts, "folder": folder, "name": below.stem}


def _named_by_file(picture: _Picture) -> dict[str, object]:
    values = _values(picture)
    return {**values, "text": _words(str(values["name"]))}


def _named_by_folder(picture: _Picture) -> dict[str, object]:
    return {**_values(picture), "text": _words(PurePosixPath(picture.below).parent.name)}


_PARSE: dict[TextFrom, Callable[[_Picture], Values]] = {
    "sidecar": _values,
    "name": _named_by_file,
    "folder": _named_by_folder,
}


def _words(name: str) -> str:
    return _SEPARATORS.sub(" ", name).strip()


def _content(path: Path, top: Path, encoding: str) -> str:
    """The text of a sidecar. Raises ValueError where there is none that may be read."""
    if path.is_symlink() and not path.resolve().is_relative_to(top):
        raise ValueError(f"{path.name} is a link to a file outside {top}")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_LINE + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(content) > MAX_LINE:
        raise ValueError(f"{path.name} is longer than {MAX_LINE} bytes")
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        looks = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin-1"
        raise ValueError(
            f"{path.name} is not {encoding} at byte {error.start}: name its encoding, such as `encoding: {looks}`"
        ) from error
