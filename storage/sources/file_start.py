"""What the first bytes of a caption file say it is, so that another kind of file is one clear line, not many rows."""

import codecs
import gzip
import re
import zlib
from pathlib import Path

SAMPLE = 2**20
"""Bytes that are looked at."""
FEWEST_LINES = 10
"""So many lines that aren't UTF-8, and more than those beyond ASCII that are, are an encoding, not bad lines."""

_GZIP = b"\x1f\x8b"
_OTHER_FILES = {
    b"PAR1": "a Parquet file: say `kind: parquet`",
    b"ARROW1": "an Arrow file: write it as Parquet and say `kind: parquet`",
    b"PK\x03\x04": "a zip archive or a workbook: unpack it, or save the sheet as CSV",
    b"BZh": "compressed by bzip2: unpack it, or compress it by gzip",
    b"\xfd7zXZ\0": "compressed by xz: unpack it, or compress it by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it, or compress it by gzip",
    b"SQLite format 3\0": "a SQLite database: export its rows as CSV",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF": "a PDF document",
}
_UTF_16 = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
_JSON_ARRAY = re.compile(r"\s*\[\s*(\{|$)")
_JSON_DOCUMENT = re.compile(r"\s*\{\s*\n\s*\"")


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed by gzip, whatever its name says."""
    with path.open("rb") as stream:
        return stream.read(2) == _GZIP


def check_start(path: Path, encoding: str, *, json_lines: bool) -> None:
    """Raises ValueError, which names the remedy, for a file that is no text in `encoding`, or no JSON lines."""
    start = _start(path)
    for magic, what in _OTHER_FILES.items():
        if start.startswith(magic):
            raise ValueError(f"{path} is {what}")
    if start[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar file: say `kind: webdataset`")
    codec = codecs.lookup(encoding).name
    if codec not in _UTF_16 and (looks := _utf_16(start)):
        raise ValueError(f"{path} looks like UTF-16: say `encoding: {looks}`")
    if codec == "utf-8" and (line := _line_in_another_encoding(start)):
        looks = "cp1252" if re.search(rb"[\x80-\x9f]", line) else "latin-1"
        raise ValueError(f"{path} is not UTF-8 ({line[:60]!r}, say): name its encoding, such as `encoding: {looks}`")
    if json_lines:
        text = start[:4_096].decode(encoding, errors="replace").removeprefix("\ufeff")
        if _JSON_ARRAY.match(text):
            raise ValueError(f"{path} must hold one object a line; this is a JSON array: `jq -c '.[]'` takes it apart")
        if _JSON_DOCUMENT.match(text):
            raise ValueError(f"{path} must hold one object a line; this is one JSON document over many lines")


def _start(path: Path) -> bytes:
    try:
        if is_gzip(path):
            with gzip.open(path) as stream:
                return stream.read(SAMPLE)
        with path.open("rb") as plain:
            return plain.read(SAMPLE)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}") from error


def _utf_16(start: bytes) -> str | None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    start = start[:4_096]
    half = max(1, len(start) // 2)
    # Every second byte of mostly Western text is NUL.
    if start[1::2].count(0) > 0.4 * half:
        return "utf-16-le"
    return "utf-16-be" if start[::2].count(0) > 0.4 * half else None


def _line_in_another_encoding(start: bytes) -> bytes | None:
    lines = start.splitlines()
    if len(start) == SAMPLE:
        del lines[-1:]  # cut off, perhaps in the middle of a character
    beyond = [line for line in lines if not line.isascii()]
    wrong = [line for line in beyond if not _is_utf_8(line)]
    return wrong[0] if len(wrong) >= FEWEST_LINES and 2 * len(wrong) > len(beyond) else None


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
