"""The search page over many items: when it is seen, how long answers take, and many clients at once.

    python -m benchmarks.web --of .pairloom/emoji --rows 1000000 --root /tmp/web-benchmark

A release of so many items is made in `--root`, where it isn't there yet: model and rows of the release in `--of` over
and over, each with an id of its own, its vectors moved a little, and made-up columns. Over that `pairloom web` is
started in a process of its own, and asked on loopback by this one. Texts of answers are all different: none is known
from before, unless it says so. Chromium (`pip install playwright`; Debian's `chromium`) opens the page with an empty
cache, and tells when it first painted something and when the first hit's picture was there.

The clients of the load share one process and one thread here, on the same cores as the service; each keeps one
connection, asks, reads the whole answer, and asks again at once: a page of 24 hits for a text, every tenth time facets
or a picture.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import lance
import numpy as np
import psutil
import pyarrow as pa

from pairloom.search.options import Options
from pairloom.search.query import Query
from pairloom.search.release import OpenRelease
from pairloom.search.web.answers import Answers, Asked
from pairloom.search.web.config import WebConfig
from pairloom.search.web.pictures import Pictures
from pairloom.search.web.ranking import rank, rows_of
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service
from pairloom.search.web.uploads import Uploads
from pairloom.storage.files import digest_files
from pairloom.storage.releases import release_log
from pairloom.storage.schema import ColumnType
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable, table_name

KEEP: dict[str, ColumnType] = {
    "subgroup": "string",
    "colour": "string",
    "price": "float64",
    "seen": "timestamp",
    "tags": "list<string>",
}
COLOURS = ["red", "green", "blue", "orange", "purple", "black", "grey", "pink"]
BATCH = 20_000
NAME = "many"


def say(line: str) -> None:
    """A line of the results."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def build(of: Path, root: Path, rows: int) -> None:
    """A release of `rows` items in the pipeline `many` below `root`."""
    source, folder = OpenRelease.open(of), root / NAME
    model_id = source.record.model_id
    shutil.copytree(of / "models" / model_id, folder / "models" / model_id)
    table = VectorTable.create(folder, model_id, dimension=source.record.dimension, keep=KEEP)
    schema = table._dataset.schema
    stored = source.dataset.to_table().drop_columns([*source.record.keep])
    reader = pa.RecordBatchReader.from_batches(schema, _batches(stored, schema, rows))
    lance.write_dataset(reader, str(table.path), mode="append", max_rows_per_file=250_000)
    table = VectorTable(table.path)
    begun = time.perf_counter()
    kind = table.build_index(IndexConfig())
    say(f"index {kind}: {time.perf_counter() - begun:.0f} s")
    table.sync({})
    model = [path for path in (folder / "models" / model_id).rglob("*") if path.is_file()]
    record = source.record.model_copy(
        update={
            "number": 1,
            "files": digest_files(folder, iter([*table.files(), *model]), {}),
            "table": table_name(model_id),
            "table_version": table.version,
            "rows": rows,
            "keep": KEEP,
            "index": kind,
        }
    )
    TableUpkeep(table.path).tag(1, table.version)
    release_log(folder).publish(record)


def _batches(stored: pa.Table, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
    draw = np.random.default_rng(0)
    vectors = {name: np.stack(stored[name].to_numpy()) for name in ("image_vector", "text_vector")}
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        chosen = draw.integers(0, len(stored), count)
        own = stored.take(pa.array(chosen))
        columns = {name: own[name].combine_chunks() for name in own.column_names}
        columns["item_id"] = pa.array([f"item-{start + at:08d}" for at in range(count)])
        for name, known in vectors.items():
            moved = known[chosen] + draw.normal(0, 0.04, (count, known.shape[1])).astype(np.float32)
            moved /= np.linalg.norm(moved, axis=1, keepdims=True)
            columns[name] = pa.array(list(moved), schema.field(name).type)
        begun = datetime(2026, 1, 1, tzinfo=UTC)
        columns["subgroup"] = pa.array([f"subgroup {each % 97}" for each in chosen.tolist()])
        columns["colour"] = pa.array([COLOURS[each] for each in draw.integers(0, 8, count).tolist()])
        columns["price"] = pa.array(draw.gamma(2.0, 20.0, count))
        columns["seen"] = pa.array(
            [begun + timedelta(minutes=each) for each in draw.integers(0, 400_000, count).tolist()]
        )
        columns["tags"] = pa.array([[f"tag {each % 50}", f"tag {each % 31}"] for each in chosen.tolist()])
        yield pa.RecordBatch.from_arrays([columns[field.name].cast(field.type) for field in schema], schema=schema)


def texts(count: int, seed: int) -> list[str]:
    """Different texts of two to four words."""
    words = [
        "red",
        "green",
        "blue",
        "happy",
        "sad",
        "heart",
        "flag",
        "car",
        "tree",
        "cat",
        "dog",
        "moon",
        "star",
        "face",
    ]
    words += ["hand", "house", "boat", "fish", "bird", "cake", "ring"]
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(draw.choices(words, k=draw.randint(2, 4))) + f" {len(found)}"] = None
    return list(found)


def started(root: Path, port: int) -> "tuple[subprocess.Popen[bytes], float]":
    """The service, and the seconds until it answered."""
    file = root / "pipelines.yaml"
    file.write_text(
        json.dumps({"root": str(root), "pipelines": {NAME: {"sources": [{"kind": "folder", "path": "."}]}}})
    )
    command = [sys.executable, "-c", "from pairloom.flows.start import main; main()", "web", "--port", str(port)]
    begun = time.perf_counter()
    process = subprocess.Popen([*command, "--file", str(file)], stderr=subprocess.DEVNULL)
    while True:
        try:
            asked(port, "/health")
            return process, time.perf_counter() - begun
        except OSError:
            assert process.poll() is None, "the service has ended"
            time.sleep(0.1)


def asked(port: int, path: str) -> float:
    """Milliseconds until a whole answer was there."""
    begun = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=120) as answer:
        answer.read()
    return 1_000 * (time.perf_counter() - begun)


def told(name: str, times: list[float]) -> None:
    """A line of quantiles."""
    p50, p95, most = np.percentile(times, [50, 95, 100])
    say(f"| {name} | {len(times)} | {p50:.0f} | {p95:.0f} | {most:.0f} |")


def spent(service: psutil.Process) -> float:
    """Milliseconds of processor time that the service has used."""
    times = service.cpu_times()
    return 1_000 * float(times.user + times.system)


def one_by_one(port: int, rows: int, service: psutil.Process) -> None:
    """Answers to one client."""
    say("\n| one client, ms | answers | p50 | p95 | most | CPU an answer |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    some = [f"&f.colour={COLOURS[at % 8]}&f.price={at}..{at + 20}" for at in range(48)]
    asks = {
        "a text, 36 hits": [f"/api/search?k=36&text={quote(text)}" for text in texts(200, 1)],
        "the same text again": ["/api/search?k=36&text=red%20heart"] * 50,
        "its further pages, to the 1,800th hit": [
            f"/api/search?k=36&text=red%20heart&offset={at}" for at in range(36, 1_800, 36)
        ],
        "a text among one colour and a range of prices": [
            f"/api/search?k=36&text={quote(text)}{own}" for text, own in zip(texts(48, 2), some, strict=True)
        ],
        "what is like an item": [f"/api/search?k=36&like=item-{at * 19_997 % rows:08d}" for at in range(50)],
        "counts of all facets as two are chosen": [f"/api/facets?{own[1:]}" for own in some],
        "one item with its origin": [f"/api/items/item-{at * 29_989 % rows:08d}" for at in range(30)],
        "everything, a page in the middle": [f"/api/search?k=36&offset={at}" for at in range(0, 9_000, 450)],
    }
    for name, paths in asks.items():
        before = spent(service)
        times = [asked(port, path) for path in paths]
        cpu = (spent(service) - before) / len(times)
        p50, p95, most = np.percentile(times, [50, 95, 100])
        say(f"| {name} | {len(times)} | {p50:.0f} | {p95:.0f} | {most:.0f} | {cpu:.0f} |")


def parts(root: Path) -> None:
    """Where the processor time of an answer goes, in this process."""
    release = ServedRelease.open(root / NAME)
    asked_for, keep = texts(60, 4), list(release.record.keep)
    found = {text: rank(release, Query(text=text), Options(), 37).row_ids[:36].tolist() for text in asked_for}
    service = Service(root / NAME, WebConfig())
    answers = Answers(service, Pictures(2**27), Uploads(service))
    page = answers.page(release, _asked(asked_for[0]), None, 0, 36)

    def milliseconds(work: Callable[[str], object]) -> float:
        begun = time.process_time()
        for text in asked_for:
            work(text)
        return 1_000 * (time.process_time() - begun) / len(asked_for)

    columns = ["item_id", "texts", "path", "group", "thumbnail", *keep]
    told_parts = {
        "the text, encoded": lambda text: release.embed_texts([f"{text} again"]),
        "its neighbours, 37": lambda text: rank(release, Query(text=text), Options(), 37),
        "36 rows, read": lambda text: rows_of(release, found[text], columns),
        "as JSON": lambda _: page.model_dump_json(),
        "all of it": lambda text: answers.page(release, _asked(f"{text} once more"), None, 0, 36).model_dump_json(),
    }
    say("\n| part of an answer | CPU ms |\n| --- | ---: |")
    for name, work in told_parts.items():
        say(f"| {name} | {milliseconds(work):.1f} |")


def _asked(text: str) -> Asked:
    return Asked(text=text, plus=(), minus=(), like=(), image=None)


def report(port: int, service: psutil.Process) -> None:
    """The data report, and answers while it is made."""
    begun, before, held = time.perf_counter(), spent(service), service.memory_info().rss
    times, most = list[float](), held
    for text in texts(10_000, 5):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/report") as answer:
            if "done" not in json.loads(answer.read()):
                break
        times.append(asked(port, f"/api/search?k=36&text={quote(text)}"))
        most = max(most, service.memory_info().rss)
        time.sleep(0.5)
    took, cpu = time.perf_counter() - begun, (spent(service) - before) / 1_000
    say(f"\ndata report: {took:.0f} s, {cpu:.0f} CPU s with the answers meanwhile")
    say(f"memory before {held / 2**20:.0f} MiB, at most {most / 2**20:.0f}, files that are mapped included")
    say("| ms | answers | p50 | p95 | most |\n| --- | ---: | ---: | ---: | ---: |")
    told("a text while it is made", times)


def first_paint(port: int) -> None:
    """When Chromium shows something, and the first picture of a hit."""
    from playwright.sync_api import sync_playwright

    found: list[tuple[float, float]] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for text in texts(9, 3):
            context = browser.new_context()
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/?text={quote(text)}")
            page.wait_for_function("() => [...document.querySelectorAll('.hit img')].some((each) => each.naturalWidth)")
            shown = page.evaluate("performance.now()")
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            found.append((paint, shown))
            context.close()
        browser.close()
    say("\n| Chromium, empty cache, ms | pages | p50 | p95 | most |\n| --- | ---: | ---: | ---: | ---: |")
    told("first contentful paint", [paint for paint, _ in found])
    told("first picture of a hit", [shown for _, shown in found])


async def load(port: int, clients: int, seconds: float) -> tuple[dict[str, list[float]], list[str]]:
    """Milliseconds of the answers by kind, and what went wrong."""
    times: dict[str, list[float]] = {"a text": [], "facets": [], "a picture": []}
    errors: list[str] = []
    ends = time.perf_counter() + seconds
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/search?text=heart&k=60") as first:
        pictures = [hit["picture"] for hit in json.loads(first.read())["hits"]]

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        draw, own = random.Random(number), iter(texts(20_000, 100 + number))
        while time.perf_counter() < ends:
            kind, path = "a text", f"/api/search?k=24&text={quote(f'{next(own)} {number}')}"
            if draw.random() < 0.1:
                kind, path = "a picture", draw.choice(pictures)
                if draw.random() < 0.5:
                    kind, path = "facets", f"/api/facets?f.colour={draw.choice(COLOURS)}&f.price={draw.randrange(60)}.."
            begun = time.perf_counter()
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:"))
            await reader.readexactly(length)
            times[kind].append(1_000 * (time.perf_counter() - begun))
            if " 200 " not in head.split("\r\n", 1)[0]:
                errors.append(head.split("\r\n", 1)[0])
        writer.close()

    ended = await asyncio.gather(*(client(number) for number in range(clients)), return_exceptions=True)
    errors += [repr(each) for each in ended if isinstance(each, BaseException)]
    return times, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", type=Path, required=True, help="a pipeline's folder with a release")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--port", type=int, default=8688)
    options = parser.parse_args()
    if not release_log(options.root / NAME).numbers():
        build(options.of, options.root, options.rows)
    say(f"load average at the start: {os.getloadavg()}; {os.cpu_count()} cores")
    parts(options.root)
    process, seconds = started(options.root, options.port)
    memory = psutil.Process(process.pid)
    try:
        say(f"first answer {seconds:.1f} s after the command; {memory.memory_info().rss / 2**20:.0f} MiB")
        say(f"facets for the first time: {asked(options.port, '/api/facets'):.0f} ms")
        one_by_one(options.port, options.rows, memory)
        report(options.port, memory)
        first_paint(options.port)
        before, used = memory.memory_info().rss, spent(memory)
        say(f"\n{options.clients} clients for {options.seconds:g} s; load average {os.getloadavg()}")
        times, errors = asyncio.run(load(options.port, options.clients, options.seconds))
        say("| what, ms | answers | p50 | p95 | most |\n| --- | ---: | ---: | ---: | ---: |")
        for kind, own in times.items():
            told(kind, own)
        whole = [each for own in times.values() for each in own]
        p50, p95 = np.percentile(whole, [50, 95])
        say(
            f"errors: {len(errors)} {errors[:3]}; {len(whole) / options.seconds:.0f} answers/s; p95/p50 {p95 / p50:.1f}"
        )
        say(f"processor time of the service an answer: {(spent(memory) - used) / len(whole):.0f} ms")
        with urllib.request.urlopen(f"http://127.0.0.1:{options.port}/metrics") as told_metrics:
            lines = [line for line in told_metrics.read().decode().splitlines() if "text" in line and line[0] != "#"]
        say("; ".join(lines))
        say(f"memory before {before / 2**20:.0f} MiB, after {memory.memory_info().rss / 2**20:.0f} MiB")
        say(f"load average at the end: {os.getloadavg()}")
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main()
