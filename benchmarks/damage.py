"""Rows of every kind of source, a part of them damaged: no night dies, no good row is lost, every row is accounted for.

    python -m benchmarks.damage --rows 20000

Each kind of source gets its share of the rows, with every kind of damage that its format can hold spread among them.
What has to become of a row is decided when it is written. One night reads all sources at once; the corpus, the counts
and the quarantine are compared with that, row for row, and so is what a second night finds: nothing to do.
"""

import argparse
import csv
import io
import json
import os
import random
import struct
import sys
import tarfile
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pairloom.storage.corpus import Corpus
from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.ingest import Ingest
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import (
    CsvSource,
    FolderSource,
    JsonlSource,
    LanceSource,
    ParquetSource,
    SourceConfig,
    WebDatasetSource,
)
from pairloom.storage.sources.raw_row import MAX_LINE

COLUMNS = ColumnsConfig(id="id", split="split", keep={"price": "float64"})
DAMAGED = 0.4
"""Share of the rows that are damaged."""


@dataclass(frozen=True)
class Row:
    """One row as it is to be written, and what has to become of it."""

    item_id: str
    text: str
    picture: bytes
    price: object = 1.5
    split: str | None = None
    path: str | None = None
    """What its image column says, where that isn't its own file's name."""
    line: str | None = None
    """What is done to its line, where the format has lines."""
    reason: str | None = None
    """Why it becomes no item; None where it does."""


Damage = Callable[[Row, Row], Row]
"""From a good row, and an earlier one that stayed good."""


def _picture(rng: random.Random) -> bytes:
    colours = [(rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(4)]
    image = Image.new("RGB", (2, 2))
    image.putdata(colours)
    stream = io.BytesIO()
    # Large blocks of noise-like colours: no two are alike, and a cut file is noticed.
    image.resize((48, 40), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _promising(width: int, height: int) -> bytes:
    """A PNG whose header promises more than there is."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def _small() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 3), "red").save(stream, "PNG")
    return stream.getvalue()


def _spoilt(content: Callable[[bytes], bytes], reason: str) -> Damage:
    return lambda row, _: replace(row, picture=content(row.picture), reason=reason)


OF_PICTURES: dict[str, Damage] = {
    "cut JPEG": _spoilt(lambda picture: picture[: len(picture) // 2], "image-unreadable"),
    "empty picture": _spoilt(lambda _: b"", "image-unreadable"),
    "a web page for a picture": _spoilt(lambda _: b"<!doctype html><p>404</p>" * 9, "image-unreadable"),
    "vector graphics": _spoilt(lambda _: b'<svg xmlns="http://www.w3.org/2000/svg"/>' * 9, "image-unreadable"),
    "header that promises 3.6 gigapixels": _spoilt(lambda _: _promising(60_000, 60_000), "image-too-large"),
    "header that promises more than there is": _spoilt(lambda _: _promising(640, 480), "image-unreadable"),
    "picture of 3 x 3": _spoilt(lambda _: _small(), "image-too-small"),
}
OF_ROWS: dict[str, Damage] = {
    "no text": lambda row, _: replace(row, text="  ", reason="text-empty"),
    "no id": lambda row, _: replace(row, item_id="", reason="id-missing"),
    "an id again": lambda row, twin: replace(row, item_id=twin.item_id, reason="id-repeated"),
    "a row again": lambda _, twin: replace(twin, reason="same-item"),
    "content again": lambda row, twin: replace(twin, item_id=row.item_id, reason="same-image-and-texts"),
    "unknown split": lambda row, _: replace(row, split="odd", reason="split-unknown"),
    "a cell that is no number": lambda row, _: replace(row, price="N/A"),
    "a number that is a word": lambda row, _: replace(row, price="dear"),
    "control characters": lambda row, _: replace(row, text=row.text + "\x1b[2J\x07"),
}
OF_PATHS: dict[str, Damage] = {
    "no such file": lambda row, _: replace(row, path="gone/away.jpg", reason="image-not-found"),
    "outside of the base": lambda row, _: replace(row, path="../outside.jpg", reason="image-outside-base"),
    "a link that leads outside": lambda row, _: replace(row, path="link.jpg", reason="image-outside-base"),
    "a folder for a picture": lambda row, _: replace(row, path="pictures", reason="image-not-found"),
    "no path": lambda row, _: replace(row, path="", reason="image-missing"),
    "an address nobody asked for": lambda row, _: replace(row, path="http://a.example/a.jpg", reason="image-not-found"),
}
OF_LINES: dict[str, Damage] = {
    "half a line": lambda row, _: replace(row, line="half", reason="malformed-row"),
    "bytes that are no UTF-8": lambda row, _: replace(row, line="bytes", reason="malformed-row"),
    "a line beyond 4 MiB": lambda row, _: replace(row, line="long", reason="malformed-row"),
}
RARE = frozenset({"a line beyond 4 MiB"})
NO_PICTURE = b"none"
OF_TABLES: dict[str, Damage] = {
    "no picture": lambda row, _: replace(row, picture=NO_PICTURE, reason="image-missing"),
}
OF_ADDRESSES: dict[str, Damage] = {
    "not found": lambda row, _: replace(row, path="/404", reason="image-not-fetched"),
    "gone": lambda row, _: replace(row, path="/410", reason="image-not-fetched"),
    "a server that fails": lambda row, _: replace(row, path="/500", reason="image-not-fetched"),
    "a redirect to this machine": lambda row, _: replace(row, path="/inside", reason="address-refused"),
    "a private address": lambda row, _: replace(row, path="http://10.0.0.1/a.jpg", reason="address-refused"),
    "another scheme": lambda row, _: replace(row, path="ftp://a.example/a.jpg", reason="address-refused"),
    "refused to machines": lambda row, _: replace(row, path="/noai", reason="robots-refused"),
}


@dataclass
class Written:
    """A source of one kind with its rows, and how they were damaged."""

    source: SourceConfig
    rows: list[Row]
    damages: Counter[str] = field(default_factory=Counter)


Writer = Callable[[Path, Sequence[Row]], SourceConfig]


def _cells(folder: Path, row: Row, place: int) -> dict[str, object]:
    """A row that names its image's file, which is written here."""
    path = row.path
    if path is None:
        path = f"pictures/{place}.jpg"
        (folder / path).write_bytes(row.picture)
    return _values(row) | {"image": path}


def _values(row: Row) -> dict[str, object]:
    return {"id": row.item_id, "image": None, "text": row.text, "price": row.price, "split": row.split}


def _with_pictures(folder: Path) -> None:
    (folder / "pictures").mkdir()
    (folder.parent / "outside.jpg").write_bytes(_small())
    (folder / "link.jpg").symlink_to(folder.parent / "outside.jpg")


def _damaged_line(line: bytes, how: str | None) -> bytes:
    match how:
        case "half":
            return line[: len(line) // 2]
        case "bytes":
            return line[:-2] + b"\xff\xfe" + line[-2:]
        case "long":
            return line[:-2] + b" " * MAX_LINE + line[-2:]
        case _:
            return line


def jsonl(folder: Path, rows: Sequence[Row]) -> SourceConfig:
    """JSON lines beside their pictures."""
    _with_pictures(folder)
    path = folder / "captions.jsonl"
    lines = [_damaged_line(json.dumps(_cells(folder, row, place)).encode(), row.line) for place, row in enumerate(rows)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return JsonlSource(path=path)


def delimited(folder: Path, rows: Sequence[Row], delimiter: str = ",") -> SourceConfig:
    """Comma-separated lines beside their pictures."""
    _with_pictures(folder)
    path = folder / "captions.csv"
    lines = []
    for place, row in enumerate([None, *rows]):
        stream = io.StringIO()
        cells = ["id", "image", "text", "price", "split"] if row is None else _cells(folder, row, place).values()
        csv.writer(stream, delimiter=delimiter, lineterminator="", quoting=csv.QUOTE_ALL).writerow(cells)
        lines.append(_damaged_line(stream.getvalue().encode(), row.line if row else None))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return CsvSource(path=path, delimiter=delimiter)


def _tabs(folder: Path, rows: Sequence[Row]) -> SourceConfig:
    return delimited(folder, rows, "\t")


def pictures_in_folders(folder: Path, rows: Sequence[Row]) -> SourceConfig:
    """Pictures, each with what is said of it in a `.json` beside it."""
    for place, row in enumerate(rows):
        picture = folder / f"{place // 100:04}" / f"{place:06}.jpg"  # rows come in the order of their paths
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes(row.picture)
        said = {"id": row.item_id, "text": row.text, "price": row.price, "split": row.split}
        picture.with_suffix(".json").write_bytes(_damaged_line(json.dumps(said).encode(), row.line))
    return FolderSource(path=folder)


def _columns(rows: Sequence[Row]) -> dict[str, pa.Array]:
    def texts(values: Iterable[object]) -> pa.Array:
        return pa.array([None if value is None else str(value) for value in values], pa.string())

    return {
        "id": texts(row.item_id for row in rows),
        "image": pa.array([None if row.picture == NO_PICTURE else row.picture for row in rows], pa.binary()),
        "text": texts(row.text for row in rows),
        "price": texts(row.price for row in rows),
        "split": texts(row.split for row in rows),
    }


def parquet(folder: Path, rows: Sequence[Row]) -> SourceConfig:
    """A Parquet file with its pictures inside."""
    pq.write_table(pa.table(_columns(rows)), folder / "pictures.parquet", row_group_size=500)
    return ParquetSource(path=folder / "pictures.parquet")


def tables(folder: Path, rows: Sequence[Row]) -> SourceConfig:
    """A LanceDB table with its pictures inside."""
    lancedb.connect(folder).create_table("pictures", pa.table(_columns(rows)))
    return LanceSource(path=folder, table="pictures")


def shards(folder: Path, rows: Sequence[Row]) -> SourceConfig:
    """Tar shards with pictures, texts and what else is said."""
    for number, start in enumerate(range(0, len(rows), 1_000)):
        with tarfile.open(folder / f"{number:04}.tar", "w") as archive:
            for place, row in enumerate(rows[start : start + 1_000], start):
                said = {"id": row.item_id, "price": row.price, "split": row.split}
                line = _damaged_line(json.dumps(said).encode(), row.line)
                members = {"jpg": row.picture, "txt": row.text.encode(), "json": line}
                for suffix, content in members.items():
                    if content != NO_PICTURE:
                        header = tarfile.TarInfo(f"{place:06}.{suffix}")
                        header.size = len(content)
                        archive.addfile(header, io.BytesIO(content))
    return WebDatasetSource(path=folder)


class _Pictures(BaseHTTPRequestHandler):
    """Answers as the paths say; `served` holds the pictures by path."""

    protocol_version = "HTTP/1.1"
    served: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        picture = self.served.get(self.path)
        headers: dict[str, str] = {}
        match self.path:
            case "/404" | "/410" | "/500":
                status = int(self.path[1:])
            case "/inside":
                status, headers = 302, {"Location": "http://127.0.0.2:80/secret.jpg"}
            case "/noai":
                status, headers = 200, {"X-Robots-Tag": "noai"}
            case _:
                status = 404 if picture is None else 200
        self.send_response(status)
        for name, value in {"Content-Length": str(len(picture or b"")), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(picture or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def addresses(folder: Path, rows: Sequence[Row]) -> SourceConfig:
    """JSON lines whose pictures are on a web server of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lines = []
    for place, row in enumerate(rows):
        path = row.path or f"/{place}.jpg"
        if row.path is None:
            _Pictures.served[path] = row.picture
        at = path if "://" in path else f"http://127.0.0.1:{server.server_port}{path}"
        lines.append(json.dumps(_values(row) | {"image": at}))
    (folder / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    fetch = FetchConfig(allow=("127.0.0.1",), per_host=16, attempts=1, backoff_seconds=0, give_up_after=1_000)
    return JsonlSource(path=folder / "captions.jsonl", fetch=fetch)


KINDS: dict[str, tuple[Writer, dict[str, Damage]]] = {
    "jsonl": (jsonl, OF_PICTURES | OF_ROWS | OF_PATHS | OF_LINES),
    "csv": (delimited, OF_PICTURES | OF_ROWS | OF_PATHS | OF_LINES),
    "csv with tabs": (_tabs, OF_PICTURES | OF_ROWS | OF_PATHS | OF_LINES),
    "folder": (pictures_in_folders, OF_PICTURES | OF_ROWS | OF_LINES),
    "parquet": (parquet, OF_PICTURES | OF_ROWS | OF_TABLES),
    "webdataset": (shards, OF_PICTURES | OF_ROWS | OF_LINES | OF_TABLES),
    "lance": (tables, OF_PICTURES | OF_ROWS | OF_TABLES),
    "addresses": (addresses, OF_PICTURES | OF_ROWS | OF_ADDRESSES),
}


def rows_of(kind: str, count: int, damages: dict[str, Damage], rng: random.Random) -> tuple[list[Row], Counter[str]]:
    """Rows of which every kind of damage spoils its share, and how many each one has."""
    rows: list[Row] = []
    good: list[Row] = []
    done: Counter[str] = Counter()
    names = list(damages)
    for place in range(count):
        row = Row(f"{kind}-{place}", f"{kind} picture {place}", _picture(rng))
        if good and rng.random() < DAMAGED:
            name = names[place % len(names)]
            if name not in RARE or done[name] < 2:
                row = damages[name](row, rng.choice(good))
                done[name] += 1
        elif row.reason is None:
            good.append(row)
        rows.append(row)
    return rows, done


def compared(written: Sequence[Written], folder: Path) -> Iterator[str]:
    """What is not as it has to be after one night, and after a second one."""
    config = IngestConfig(max_side=64, min_side=16)
    corpus, sources = Corpus(folder / "root"), [each.source for each in written]
    snapshot, counts = Ingest(corpus, COLUMNS.types, config).run(sources, COLUMNS)
    expected = {row.item_id for each in written for row in each.rows if row.reason is None}
    found = set(corpus.table(snapshot, ["item_id"])["item_id"].to_pylist())
    if lost := expected - found:
        yield f"{len(lost)} good rows lost, such as {min(lost)}"
    if strange := found - expected:
        yield f"{len(strange)} items that should be none, such as {min(strange)}"
    total = sum(len(each.rows) for each in written)
    accounted = counts.new + counts.duplicate + counts.filtered + counts.quarantined
    if (counts.seen, accounted) != (total, total):
        yield f"{total} rows were written, {counts.seen} seen, {accounted} accounted for"
    rejected = [row for batch in corpus.rejected(snapshot, ["source", "reason"]) for row in batch.to_pylist()]
    for each in written:
        wanted = Counter(row.reason for row in each.rows if row.reason is not None)
        got = Counter(row["reason"] for row in rejected if row["source"] == each.source.label)
        for reason in sorted(wanted.keys() | got.keys()):
            if wanted[reason] != got[reason]:
                yield f"{each.source.label}: {got[reason]} rows rejected as {reason}, not {wanted[reason]}"
    again, counts = Ingest(corpus, COLUMNS.types, config).run(sources, COLUMNS)
    # What a server refused is asked for again, and counted.
    if again.digest != snapshot.digest or counts.unchanged != len(expected):
        yield f"a second night changed the corpus: {counts}"


def main() -> int:
    """Write, read, compare; the exit status is 1 where anything is not as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        written = []
        for kind, (write, damages) in KINDS.items():
            folder = Path(name, kind)
            folder.mkdir()
            rows, done = rows_of(kind, options.rows // len(KINDS), damages, rng)
            written.append(Written(write(folder, rows), rows, done))
        started, cpu = time.perf_counter(), sum(os.times()[:4])
        faults = list(compared(written, Path(name)))
        seconds, cpu = time.perf_counter() - started, sum(os.times()[:4]) - cpu
    print("| source | rows | damaged | kinds of damage |\n| --- | --- | --- | --- |")  # noqa: T201 # its output
    for kind, each in zip(KINDS, written, strict=True):
        print(f"| {kind} | {len(each.rows)} | {each.damages.total()} | {len(each.damages)} |")  # noqa: T201
    kinds = len({name for each in written for name in each.damages})
    print(f"\n{kinds} kinds of damage, {len(faults)} faults; {seconds:.0f} s, of them CPU {cpu:.0f}")  # noqa: T201
    for fault in faults:
        print(fault)  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
