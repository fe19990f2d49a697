"""What SQL over a release costs beside the least there is: Lance's own scan, and a self join in SQL.

`count`: a release of many rows is asked `SELECT count(*) FROM items WHERE price < 5`, through `index.sql` and by the
statement alone in an open database, in turn with Lance's scan of the filter's column and its `count_rows`.
`pairs`: a release of fewer is asked for `near_duplicates` and `outliers`, in turn with self joins that say the same;
the answers must agree. Vectors are random, every fiftieth nearly its neighbour's copy; no model is needed.
`alike`: what both do over many vectors that lie in a file, with how much memory it takes beside what is mapped; up to
100,000 rows beside the comparison of all pairs. The vectors lie around a centre for every fifty of them, at several
distances, or around none (`--around 0`: the worst case, where all are equally unlike); one in fifty has a cosine from
0.9 to 1 to another.

python -m benchmarks.sql count --rows 1000000
python -m benchmarks.sql pairs --rows 7806
python -m benchmarks.sql alike --rows 1000000 --dimension 256
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.served import say
from pairloom.models.mining.likeness import neighbour_means, similar_pairs
from pairloom.search.alike import Vectors
from pairloom.search.index import Index
from pairloom.search.release import OpenRelease
from pairloom.search.sql.attached import NOTHING
from pairloom.search.sql.limits import ANSWER
from pairloom.search.sql.rewriting import edits_of
from pairloom.search.sql.session import Session
from pairloom.storage.files import digest_files
from pairloom.storage.releases import Release, Training, release_log
from pairloom.storage.schema import ColumnType, vector_schema
from pairloom.storage.table.index import Floats
from pairloom.storage.table.vectors import VectorTable, table_name

MODEL = "synthetic"
KEEP: dict[str, ColumnType] = {"price": "float64", "brand": "string"}
AT_ONCE = 50_000
MOST_EXACT = 100_000
"""Rows of which all pairs are compared."""
COUNT = "SELECT count(*) AS n FROM items WHERE price < 5"
PAIRS = """SELECT a.item_id, b.item_id AS other_id FROM items a JOIN items b
           ON a.item_id < b.item_id AND array_inner_product(a.image_vector, b.image_vector) >= 0.95"""
OUTLIERS = """SELECT a.item_id, list_avg(max(array_inner_product(a.image_vector, b.image_vector), 10)) AS score
              FROM items a JOIN items b ON a.item_id <> b.item_id
              GROUP BY a.item_id ORDER BY score LIMIT 20"""


def near_copies(random: np.random.Generator, count: int, dimension: int) -> Floats:
    """Random vectors, every fiftieth nearly its neighbour's copy."""
    vectors = random.normal(size=(count, dimension)).astype(np.float32)
    copied = np.arange(0, len(vectors) - 1, 50)
    vectors[copied] = vectors[copied + 1] + 0.05 * vectors[copied]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


class Scattered:
    """Vectors around a centre for every so many of all, every fiftieth with a cosine from 0.9 to 1 to the next."""

    def __init__(self, rows: int, dimension: int, around: int) -> None:
        self.centres = unit(np.random.default_rng(1).normal(size=(max(10, rows // around), dimension)))

    def __call__(self, random: np.random.Generator, count: int, dimension: int) -> Floats:
        far = random.uniform(0.4, 1.4, (count, 1)) * random.normal(size=(count, dimension)) / dimension**0.5
        vectors = unit(self.centres[random.integers(0, len(self.centres), count)] + far)
        vectors[25::20_000] = unit(random.normal(size=vectors[25::20_000].shape))
        return close(random, vectors)


def scattered_nowhere(random: np.random.Generator, count: int, dimension: int) -> Floats:
    """Vectors that are all equally unlike, but for every fiftieth."""
    return close(random, unit(random.normal(size=(count, dimension))))


def unit(vectors: npt.NDArray[np.floating]) -> Floats:
    found: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found


def close(random: np.random.Generator, vectors: Floats) -> Floats:
    """The same with a cosine from 0.9 to 1 between every fiftieth and the next."""
    next_ = vectors[1::50]
    drawn = random.normal(size=next_.shape)
    aside = unit(drawn - np.einsum("nd,nd->n", drawn, next_)[:, None] * next_)
    cosine = random.uniform(0.9, 1, (len(next_), 1))
    vectors[: 50 * len(next_) : 50] = cosine * next_ + (1 - cosine**2) ** 0.5 * aside
    return vectors


def items(rows: int, dimension: int) -> Iterator[pa.RecordBatch]:
    """Rows of a vector table; texts and thumbnails are as long as a small collection's."""
    random, schema = np.random.default_rng(0), vector_schema(dimension, KEEP)
    for start in range(0, rows, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, rows))
        vectors = near_copies(random, len(numbers), dimension)
        flat = pa.array(vectors.ravel())
        columns: dict[str, Any] = {
            "item_id": [f"item-{number:08d}" for number in numbers],
            "image_vector": pa.FixedSizeListArray.from_arrays(flat, dimension),
            "text_vector": pa.ListArray.from_arrays(np.arange(len(vectors) + 1, dtype=np.int32) * dimension, flat),
            "texts": [[f"the text of item {number}"] for number in numbers],
            "group": [str(number % 997) for number in numbers],
            "split": ["train"] * len(numbers),
            "path": [f"/pictures/{number}.jpg" for number in numbers],
            "width": [96] * len(numbers),
            "height": [96] * len(numbers),
            "source": ["synthetic"] * len(numbers),
            "content_digest": [f"{number:064x}" for number in numbers],
            "thumbnail": [random.bytes(200)] * len(numbers),
            "price": random.uniform(0, 100, len(numbers)),
            "brand": [f"brand {number % 50}" for number in numbers],
        }
        yield pa.RecordBatch.from_pydict(columns, schema)


def released(folder: Path, rows: int, dimension: int) -> Index:
    """A release of so many synthetic items below `folder`."""
    table = VectorTable.create_or_open(folder, MODEL, dimension=dimension, keep=KEEP)
    table.upsert(pa.RecordBatchReader.from_batches(vector_schema(dimension, KEEP), items(rows, dimension)))
    card = folder / "models" / MODEL / "none.txt"
    card.parent.mkdir(parents=True)
    card.write_text("no model is asked here")
    now = datetime.now(UTC)
    release_log(folder).publish(
        Release(
            number=1,
            files=digest_files(folder, iter([*table.files(), card]), {}),
            created_at=now,
            snapshot=1,
            snapshot_digest="0" * 64,
            model_id=MODEL,
            table=table_name(MODEL),
            table_version=table.version,
            rows=rows,
            dimension=dimension,
            max_side=96,
            keep=KEEP,
            index=None,
            metrics={},
            training=Training(config_digest="0" * 64, items=rows, trained_at=now, verdict="released"),
            reason="measured",
        )
    )
    return Index.open(folder)


@contextmanager
def alone(release: OpenRelease) -> Iterator[Callable[[], Any]]:
    """What asks for the count in a database that is open already."""
    with Session.opened(release, NOTHING, ANSWER.seconds) as session:
        edits_of(session, COUNT)
        yield lambda: session.connection.sql(COUNT).fetchall()[0][0]


def taken(ways: dict[str, Callable[[], Any]], turns: int) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds of each way: medians of so many turns, the ways one after the other in each."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, ask in ways.items():
            began, worked = time.perf_counter(), time.process_time()
            ask()
            if turn:  # the first warms up
                spent[name].append((time.perf_counter() - began, time.process_time() - worked))
    return {
        name: (statistics.median(wall for wall, _ in own), statistics.median(cpu for _, cpu in own))
        for name, own in spent.items()
    }


def shown(found: dict[str, tuple[float, float]], against: str) -> None:
    for name, (wall, cpu) in found.items():
        ratio = cpu / found[against][1]
        sys.stdout.write(f"| {name} | {wall:.4f} | {cpu:.4f} | {ratio:.2f} |\n")
    sys.stdout.write(f"load {os.getloadavg()[0]:.1f}\n")


def count(index: Index, turns: int) -> None:
    dataset, expected = index.dataset, index.dataset.count_rows(filter="price < 5")
    with alone(index.current) as ask:
        ways: dict[str, Callable[[], Any]] = {
            "Lance's scan of the column": lambda: len(
                dataset.scanner(columns=["price"], filter="price < 5").to_table()
            ),
            "Lance's `count_rows`": lambda: dataset.count_rows(filter="price < 5"),
            "the statement alone": ask,
            "`index.sql`": lambda: index.sql(COUNT).rows["n"][0].as_py(),
        }
        for name, way in ways.items():
            if way() != expected:
                raise RuntimeError(f"{name} counts otherwise")
        shown(taken(ways, turns), "Lance's scan of the column")


def pairs(index: Index, turns: int) -> None:
    near = index.sql("SELECT item_id, other_id FROM near_duplicates(0.95) ORDER BY ALL").rows
    far = index.sql("SELECT item_id FROM outliers(k := 20, neighbours := 10)").rows
    if near != index.sql(f"{PAIRS} ORDER BY ALL").rows.cast(near.schema):
        raise RuntimeError("near_duplicates finds other pairs than the self join")
    if far["item_id"].to_pylist() != index.sql(OUTLIERS).rows["item_id"].to_pylist():
        raise RuntimeError("outliers finds other items than the self join")
    shown(
        taken(
            {
                "`near_duplicates(0.95)`": lambda: index.sql("FROM near_duplicates(0.95)"),
                "self join for pairs": lambda: index.sql(PAIRS),
                "`outliers(k := 20)`": lambda: index.sql("FROM outliers(k := 20)"),
                "self join for outliers": lambda: index.sql(OUTLIERS),
            },
            turns,
        ),
        "self join for pairs",
    )


@contextmanager
def scattered(rows: int, dimension: int, around: int) -> Iterator[Vectors]:
    """Vectors in a temporary file, as those of many items are."""
    drawn = Scattered(rows, dimension, around) if around else scattered_nowhere
    random = np.random.default_rng(0)
    with tempfile.NamedTemporaryFile() as file:
        for start in range(0, rows, AT_ONCE):
            file.write(drawn(random, min(AT_ONCE, rows - start), dimension).tobytes())
        file.flush()
        vectors = np.memmap(file.name, np.float32, "r", shape=(rows, dimension))
        yield Vectors(pa.table({"item_id": range(rows)}), np.arange(rows), np.asarray(vectors))


@contextmanager
def measured(name: str) -> Iterator[None]:
    """Writes what the work inside takes: wall and processor seconds, and by how many MiB memory grows at most."""

    def held() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        [line] = [line for line in lines if line.startswith("RssAnon")]
        return int(line.split()[1]) // 1024

    def watch() -> None:
        while not over.wait(0.05):
            peak.append(held())

    peak, over = [held()], threading.Event()
    watching = threading.Thread(target=watch)
    watching.start()
    began, worked = time.perf_counter(), time.process_time()
    yield
    spent = time.perf_counter() - began, time.process_time() - worked
    over.set()
    watching.join()
    say(f"| {name} | {spent[0]:.1f} | {spent[1]:.1f} | {max(peak) - peak[0]} |")


def alike(every: Vectors) -> None:
    """Print what each takes, and what it misses."""

    def quiet(_: float = 0) -> None:
        return None

    with measured("`near_duplicates(0.95)`"):
        near = {0.95: every.close_pairs(0.95, most=10**6, progress=quiet)}
    with measured("`outliers(k := 20)`"):
        far, _, _ = every.outliers(20, 10, progress=quiet)
    if len(every.ids) > MOST_EXACT:
        return
    with measured("all pairs"):
        first, second, score = similar_pairs(every.vector_ND, 0.9, most=10**6, check=quiet)
    near |= {threshold: every.close_pairs(threshold, most=10**6, progress=quiet) for threshold in (0.9, 0.98)}
    for threshold, pairs in sorted(near.items()):
        found = set(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True))
        there = set(zip(first[score >= threshold].tolist(), second[score >= threshold].tolist(), strict=True))
        say(f"pairs from {threshold} on: {len(found & there)} of {len(there)}")
    with measured("all means"):
        mean = neighbour_means(every.vector_ND, 10, check=quiet)
    lowest = np.argsort(mean, kind="stable")[:20]
    say(f"outliers: {len(set(far.tolist()) & set(lowest.tolist()))} of 20")
    say(f"their means up to {mean[far].max():.4f}, of all {mean[lowest].max():.4f}; half of all {np.median(mean):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["count", "pairs", "alike"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--around", type=int, default=50, help="items around one centre, for `alike`")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    if given.what == "alike":
        say(f"{given.rows:,} rows of {given.dimension} numbers")
        with scattered(given.rows, given.dimension, given.around) as every:
            alike(every)
        say(f"load {os.getloadavg()[0]:.1f}")
        return
    with tempfile.TemporaryDirectory() as folder:
        index = released(Path(folder) / "measured", given.rows, given.dimension)
        sys.stdout.write(f"{given.rows:,} rows of {given.dimension} numbers\n")
        {"count": count, "pairs": pairs}[given.what](index, given.turns)


if __name__ == "__main__":
    main()
