"""Images of a web server to Parquet, beside img2dataset: images a second of processor time.

`python -m benchmarks.fetch --peer PYTHON` generates JPEGs of about 0.8 megapixels, serves them on this machine from a
process of its own, and has both sides fetch them in turn, round by round, each in processes of its own: 32 requests at
once, 2 decoding processes, longest side 256, JPEG quality 90, SHA-256 of the bytes, captions kept, Parquet out.
`PYTHON` is one that has img2dataset, whose pinned packages fit into no environment with ours. Processor time is user
and system time of all of a side's processes, start-up included, the server's excluded; both sides' results are checked.
"""

import argparse
import csv
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from pairloom.storage.corpus import Corpus
from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.ingest import Ingest
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import CsvSource

SHAPES = ((1_024, 768), (768, 1_024), (1_095, 730), (730, 1_095), (1_192, 671), (894, 894))
"""Widths and heights in turn: 4:3, 3:2 and 16:9, a few upright, one square; 0.79 to 0.80 megapixels."""
PROCESSES = 2
REQUESTS = 32
SIDE = 256

PEER = """
import sys
from img2dataset import download
download(
    url_list=sys.argv[1], output_folder=sys.argv[2], input_format="csv", url_col="image", caption_col="text",
    output_format="parquet", image_size=256, resize_mode="keep_ratio_largest", resize_only_if_bigger=True,
    encode_quality=90, processes_count=2, thread_count=16, number_sample_per_shard=int(sys.argv[3]),
    extract_exif=False, compute_hash="sha256",
)
"""
VERSIONS = """
import json
from importlib.metadata import version
print(json.dumps({name: version(name) for name in ("img2dataset", "opencv-python-headless", "albumentations")}))
"""


def main() -> None:
    """Print a row for each round, and the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", help="a Python that has img2dataset")
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=Path, default=Path(tempfile.gettempdir()) / "pairloom-fetch-pictures")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ours", type=Path, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        _serve(asked.serve)
    elif asked.ours:
        _ours(*asked.ours)
    elif asked.peer:
        _compare(asked.peer, _generated(asked.pictures, asked.images), asked.rounds)
    else:
        parser.error("name a Python that has img2dataset: --peer PYTHON")


def _compare(peer: str, pictures: list[Path], rounds: int) -> None:
    itself = [sys.executable, "-m", "benchmarks.fetch"]
    server = subprocess.Popen([*itself, "--serve", str(pictures[0].parent)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as work:
            all_rows, few_rows = (Path(work) / name for name in ("rows.csv", "few.csv"))
            _write_rows(all_rows, port, pictures)
            _write_rows(few_rows, port, pictures[:100])
            out = Path(work) / "out"
            rates: dict[str, list[float]] = {"ours": [], "img2dataset": []}
            for number in range(rounds + 1):
                # The first round compiles.
                rows, images = (all_rows, len(pictures)) if number else (few_rows, 100)
                sides = {
                    "ours": [*itself, "--ours", str(rows), str(out)],
                    "img2dataset": [peer, "-c", PEER, str(rows), str(out), str(-(-images // PROCESSES))],
                }
                for name, command in sides.items():
                    shutil.rmtree(out, ignore_errors=True)
                    load, (busy, wall) = os.getloadavg()[0], _seconds(command)
                    _check(name, out, images)
                    _say(f"round {number}, {name}: {busy:.1f} s of processor time, {wall:.1f} s, load {load:.1f}")
                    if number:
                        rates[name].append(images / busy)
    finally:
        server.terminate()
        server.wait()
    ours, theirs = (statistics.median(each) for each in rates.values())
    ratios = [mine / other for mine, other in zip(*rates.values(), strict=True)]
    found = subprocess.run([peer, "-c", VERSIONS], capture_output=True, text=True, check=True).stdout
    size = sum(path.stat().st_size for path in pictures) / len(pictures) / 1_000
    _say(f"images a second of processor time: ours {ours:.0f}, img2dataset {theirs:.0f}")
    _say(f"ratio: {statistics.median(ratios):.2f} of {[round(ratio, 2) for ratio in ratios]}")
    _say(f"{len(pictures)} images of {size:.0f} kB each")
    _say(f"the peer's packages: {json.loads(found)}")


def _write_rows(path: Path, port: int, pictures: list[Path]) -> None:
    with path.open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["image", "text"])
        for each in pictures:
            lines.writerow([f"http://127.0.0.1:{port}/{each.name}", f"picture {each.stem} of them all"])


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _seconds(command: list[str]) -> tuple[float, float]:
    """Processor and wall seconds of a command and its children."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # The peer's packages would ask the internet for newer versions of themselves.
    environment |= {"NO_ALBUMENTATIONS_UPDATE": "1"}
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, os.times()
    assert done.returncode == 0, done.stderr[-2_000:]
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


def _ours(rows: Path, out: Path) -> None:
    settings = FetchConfig(allow=("127.0.0.1",), concurrency=REQUESTS, per_host=REQUESTS)
    config = IngestConfig(workers=PROCESSES, max_side=SIDE)
    columns = ColumnsConfig()
    Ingest(Corpus(out), columns.types, config).run([CsvSource(path=rows, fetch=settings)], columns)


def _check(side: str, out: Path, images: int) -> None:
    """That all images are there, in the size that was asked for."""
    files = sorted(out.glob("corpus/*.parquet" if side == "ours" else "*.parquet"))
    stored: list[bytes] = []
    texts: list[Any] = []
    for file in files:
        columns = ["image", "texts"] if side == "ours" else ["jpg", "caption"]
        for row in pq.read_table(file, columns=columns).to_pylist():
            content = row["image"]["bytes"] if side == "ours" else row["jpg"]
            stored.append(content)
            texts.append(row[columns[1]])
    assert len(stored) == images, f"{side}: {len(stored)} of {images}"
    assert all(texts)
    sizes = [Image.open(io.BytesIO(content)).size for content in stored[:100]]
    assert {max(size) for size in sizes} == {SIDE}, sizes


def _generated(folder: Path, number: int) -> list[Path]:
    """Photograph-like pictures, which are made once."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{place:05}.jpg" for place in range(number)]
    random = np.random.default_rng(0)
    scene: Image.Image | None = None
    for place, path in enumerate(paths):
        if place % 100 == 0:
            scene = None
        width, height = SHAPES[place % len(SHAPES)]
        left, top = (int(each) for each in random.integers(0, 800, size=2))
        if path.exists():
            continue
        scene = scene or _scene(place)
        scene.crop((left, top, left + width, top + height)).save(path, "JPEG", quality=88)
    return paths


def _scene(seed: int) -> Image.Image:
    """2,000 x 2,000 pixels with detail of every size, as photographs have."""
    random = np.random.default_rng(seed)
    light = np.zeros((2_000, 2_000, 3), dtype=np.float32)
    for cells in (4, 16, 64, 256, 1_000, 2_000):
        small = Image.fromarray(random.integers(0, 256, size=(cells, cells, 3), dtype=np.uint8))
        light += np.asarray(small.resize((2_000, 2_000), Image.Resampling.BICUBIC), dtype=np.float32) / cells**0.35
    return Image.fromarray(((light - light.min()) * (255 / np.ptp(light))).astype(np.uint8))


def _serve(folder: Path) -> None:
    paths = {f"/{path.name}": path for path in folder.iterdir()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content = paths[self.path].read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "image/jpeg")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        _say(str(server.server_port))
        server.serve_forever()


if __name__ == "__main__":
    main()
