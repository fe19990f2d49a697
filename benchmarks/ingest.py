"""What a night costs over sources that have not changed, or hardly, beside the least that anybody would have to do.

    python -m benchmarks.ingest unchanged-jsonl --rows 1000000
    python -m benchmarks.ingest unchanged-parquet --rows 1000000
    python -m benchmarks.ingest one-percent --rows 100000

`unchanged-jsonl`: beside `json.loads` on each line and one `os.stat` for each image. `unchanged-parquet`, with images
inside: beside reading all other columns. `one-percent`: so many rows are new; beside the first night and an unchanged
one. Each measurement is a process of its own with one thread, ours and the peer's in turn; CPU seconds, user and
system, of the processes and their children. Rows name links to few small pictures. Only `one-percent` decodes them in
children as a night does; the others prepare their corpus by decoding each picture once.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import TypeAdapter

from pairloom.storage.corpus import Corpus
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.location import Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, decode_file
from pairloom.storage.ingest import Ingest
from pairloom.storage.ingestion.images import Decoder
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import SourceConfig

PICTURES = 1_000
ROUNDS = 5
CONFIG = IngestConfig(part_rows=5_000, min_side=4)
COLUMNS = ColumnsConfig(id="id", group="group", keep={"price": "float64"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["unchanged-jsonl", "unchanged-parquet", "one-percent"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the collection is made, and kept")
    parser.add_argument("--measure", choices=sorted(MEASURED), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(MEASURED[asked.measure], asked.folder, asked.what)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        say(f"{asked.rows:,} rows; {os.cpu_count()} cores of {processor()}, load {os.getloadavg()[0]:.1f} at the start")
        one_percent(folder, asked.rows) if asked.what == "one-percent" else unchanged(folder, asked.what, asked.rows)
        say(f"load {os.getloadavg()[0]:.1f} at the end")


def unchanged(folder: Path, what: str, rows: int) -> None:
    """A second night and its peer, in turn."""
    if not (folder / "root").exists():
        make_pictures(folder)
        write_jsonl(folder, rows) if what == "unchanged-jsonl" else write_parquet_source(folder, rows)
        counts = night(folder, what, decode_each_once())
        assert counts["new"] == rows, counts
    found: dict[str, list[dict[str, float]]] = {"ours": [], what: []}
    for _ in range(ROUNDS):
        for name, each in found.items():
            each.append(measured(name, folder, what))
    ours, peer = found.values()
    for name, each in (("ours", ours), ("peer", peer)):
        seconds = ", ".join(f"{one['seconds']:.2f}" for one in each)
        say(f"{name}: {seconds} CPU s; at most {max(one['mib'] for one in each):.0f} MiB above start-up")
    ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(ours, peer, strict=True))
    say(f"median of the ratios: {ratio:.2f}")


def one_percent(folder: Path, rows: int) -> None:
    """The first night, an unchanged one, and one with a hundredth of new rows."""
    make_pictures(folder)
    new = rows // 100
    write_jsonl(folder, rows - new)
    first = measured("ours", folder, "unchanged-jsonl")["seconds"]
    idle = measured("ours", folder, "unchanged-jsonl")["seconds"]
    write_jsonl(folder, rows)
    grown = measured("ours", folder, "unchanged-jsonl")["seconds"]
    say(f"first night {first:.2f} CPU s, unchanged {idle:.2f}, with {new:,} new rows {grown:.2f}")
    say(f"new rows cost {(grown - idle) / first:.1%} of the first night, the listing {idle / first:.1%}")


def make_pictures(folder: Path) -> None:
    """Few small pictures."""
    generator = np.random.default_rng(0)
    (folder / "made").mkdir(exist_ok=True)
    for number in range(PICTURES):
        pixels_HWC = generator.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels_HWC).resize((64, 64)).save(folder / "made" / f"{number}.png")


def row_of(number: int) -> dict[str, Any]:
    """What a row says, without its image."""
    text = f"picture {number}: a red bicycle leaning against the wall of a house, seen from far away"
    return {"id": f"item-{number}", "text": text, "group": None, "price": number / 8}


def write_jsonl(folder: Path, rows: int) -> None:
    """A captions file whose rows each name a link of their own."""
    with (folder / "captions.jsonl").open("w") as stream:
        for number in range(rows):
            image = folder / "images" / f"{number // 1_000:04d}" / f"{number}.png"
            if number % 1_000 == 0:
                image.parent.mkdir(parents=True, exist_ok=True)
            if not image.exists():
                image.hardlink_to(folder / "made" / f"{number % PICTURES}.png")
            line = {**row_of(number), "image": image.relative_to(folder).as_posix()}
            stream.write(json.dumps(line) + "\n")


def write_parquet_source(folder: Path, rows: int) -> None:
    """A Parquet file with images inside, as `datasets` writes them."""
    pictures = [(folder / "made" / f"{number}.png").read_bytes() for number in range(PICTURES)]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("id", pa.string()), ("text", pa.string()), ("group", pa.string()), ("price", pa.float64())]
    schema = pa.schema([*fields, ("image", image)])
    with pq.ParquetWriter(folder / "source.parquet", schema) as writer:
        for start in range(0, rows, 10_000):
            numbers = range(start, min(rows, start + 10_000))
            table = [
                {**row_of(number), "image": {"bytes": pictures[number % PICTURES], "path": f"{number}.png"}}
                for number in numbers
            ]
            writer.write_table(pa.Table.from_pylist(table, schema), row_group_size=1_000)


def source_of(folder: Path, what: str) -> SourceConfig:
    """The source as a pipeline names it."""
    kind, name = ("parquet", "source.parquet") if what == "unchanged-parquet" else ("jsonl", "captions.jsonl")
    made: SourceConfig = TypeAdapter(SourceConfig).validate_python({"kind": kind, "path": folder / name})
    return made


def night(folder: Path, what: str, decoder: Decoder = decode) -> dict[str, int]:
    """One night's ingest; what became of the rows."""
    ingest = Ingest(Corpus(folder / "root"), COLUMNS.types, CONFIG, decoder)
    _, counts = ingest.run([source_of(folder, what)], COLUMNS)
    return vars(counts)


def decode_each_once() -> Decoder:
    """Decodes in this process; equal files once."""
    known: dict[object, DecodedImage | RejectedImage] = {}

    def decoded(
        items: Iterable[tuple[Any, Origin]], config: IngestConfig
    ) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
        for key, origin in items:
            if isinstance(origin, Path):
                content: object = origin.stat().st_ino
                path = origin
            else:
                assert callable(origin)
                content = origin()
                path = Path(tempfile.gettempdir()) / f"benchmark-{os.getpid()}.png"
                if content not in known:
                    path.write_bytes(content)
            if content not in known:
                known[content] = decode_file(path, config.limits)
            yield key, known[content]

    return decoded


def ours(folder: Path, what: str) -> None:
    night(folder, what)


def lines_and_stats(folder: Path, _what: str) -> None:
    """The least that listing such a file takes."""
    with (folder / "captions.jsonl").open(encoding="utf-8") as stream:
        for line in stream:
            os.stat(f"{folder}/{json.loads(line)['image']}")  # noqa: PTH116 # the fastest there is


def other_columns(folder: Path, _what: str) -> None:
    """All but the images, a batch at a time."""
    with pq.ParquetFile(folder / "source.parquet") as file:
        for _ in file.iter_batches(columns=["id", "text", "group", "price", "image.path"], use_threads=False):
            pass


MEASURED: dict[str, Callable[[Path, str], None]] = {
    "ours": ours,
    "unchanged-jsonl": lines_and_stats,
    "unchanged-parquet": other_columns,
}


def measure(run: Callable[[Path, str], None], folder: Path, what: str) -> None:
    """What a run takes, as JSON."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    before, start = cpu_seconds(), peak_kib()
    run(folder, what)
    say(json.dumps({"seconds": cpu_seconds() - before, "mib": (peak_kib() - start) / 1024}))


def measured(name: str, folder: Path, what: str) -> dict[str, float]:
    """The same of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ingest", what, "--folder", str(folder), "--measure", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def cpu_seconds() -> float:
    """Of this process and its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak_kib() -> int:
    """Most memory that this process ever had; `getrusage` counts that of its parent, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def processor() -> str:
    """Its name, where the system tells."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown kind")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
