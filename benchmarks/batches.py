"""A thousand queries at once beside one after the other; and hybrid search beside vectors alone, on rare words.

    python -m benchmarks.batches .pairloom/demo --rows 100000

The release is grown to so many rows in a temporary folder: its own, then copies of them with random image vectors; it
gets the index that a night gives it. Asked are the first texts of items, one after the other by `index.search` and all
at once by `index.search_many`, in turns; of each the fastest round counts.

Then, over the release as it is, every word that stands in the texts of exactly one item is asked for, by vectors alone
and hybrid: how often that item is the first hit, and among the first ten.
"""

import argparse
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

import pairloom
from pairloom.search.index import Index
from pairloom.search.release import OpenRelease
from pairloom.storage.files import digest_files
from pairloom.storage.releases import Release, release_log
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable, table_name

AT_ONCE = 20_000


def grow(release: OpenRelease, folder: Path, rows: int) -> Release:
    """A release in `folder` of the same model with so many rows."""
    record = release.record
    shutil.copytree(release.folder / "models" / record.model_id, folder / "models" / record.model_id)
    table = VectorTable.create(folder, record.model_id, dimension=record.dimension, keep=record.keep)
    own, random = release.dataset.to_table(), np.random.default_rng(0)
    table.upsert(own)
    place = own.schema.get_field_index("image_vector")
    for start in range(len(own), rows, AT_ONCE):
        count = min(AT_ONCE, rows - start)
        some = own.take(random.integers(0, len(own), count)).set_column(
            own.schema.get_field_index("item_id"),
            own.schema.field("item_id"),
            pa.array([f"copy {start + at}" for at in range(count)]),
        )
        image_ND = random.normal(size=(count, record.dimension)).astype(np.float32)
        image_ND /= np.linalg.norm(image_ND, axis=1, keepdims=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(image_ND.ravel()), record.dimension)
        table.upsert(some.set_column(place, own.schema.field("image_vector"), vectors))
    kind = table.build_index(IndexConfig())
    model = (path for path in (folder / "models" / record.model_id).rglob("*") if path.is_file())
    files = digest_files(folder, iter([*table.files(), *model]), {})
    update = {"files": files, "table": table_name(record.model_id), "table_version": table.version, "index": kind}
    TableUpkeep(table.path).tag(1, table.version)
    grown = record.model_copy(update={**update, "number": 1, "rows": max(rows, len(own))})
    release_log(folder).publish(grown)
    return grown


def beside(index: Index, texts: list[str], alone: int, rounds: int) -> str:
    """A row of the table: milliseconds a query, by the wall and by the processor, and their ratios."""
    index.search(texts[0])
    index.search_many(texts[:20])
    one, many = list[tuple[float, float]](), list[tuple[float, float]]()
    for _ in range(rounds):
        for found, count in ((one, alone), (many, len(texts))):
            wall, cpu = time.perf_counter(), time.process_time()
            if found is one:
                for text in texts[:count]:
                    index.search(text)
            else:
                index.search_many(texts)
            found.append(((time.perf_counter() - wall) / count * 1e3, (time.process_time() - cpu) / count * 1e3))
    (wall, cpu), (wall_many, cpu_many) = ([min(each) for each in zip(*own, strict=True)] for own in (one, many))
    rows, kind = index.record.rows, index.record.index or "none"
    return (
        f"| {rows:,} × {index.record.dimension} | {kind} | {len(texts):,} | {wall:.2f} | {wall_many:.3f} | "
        f"{wall / wall_many:.1f} | {cpu:.2f} | {cpu_many:.3f} | {cpu / cpu_many:.1f} |"
    )


def rare_words(index: Index, most: int) -> list[tuple[str, str]]:
    """Words of exactly one item's texts, each with that item's id; `most` of them, drawn."""
    table = index.dataset.to_table(columns=["item_id", "texts"])
    words = {
        item_id: set(re.findall(r"[a-z]{3,30}", " ".join(texts).lower()))
        for item_id, texts in zip(table["item_id"].to_pylist(), table["texts"].to_pylist(), strict=True)
    }
    count = Counter(word for own in words.values() for word in own)
    rare = sorted((word, item_id) for item_id, own in words.items() for word in own if count[word] == 1)
    drawn = np.random.default_rng(0).choice(len(rare), min(most, len(rare)), replace=False)
    return [rare[at] for at in sorted(drawn)]


def hybrid(index: Index, asked: list[tuple[str, str]]) -> str:
    """Rows of the table: how often a rare word's item is found."""
    lines = []
    for name, by_words in (("vectors", False), ("hybrid", True)):
        started, first, ten = time.process_time(), 0, 0
        for word, item_id in asked:
            ids = [hit.item_id for hit in index.search(word, hybrid=by_words).hits]
            first, ten = first + (ids[0] == item_id), ten + (item_id in ids)
        spent = (time.process_time() - started) / len(asked) * 1e3
        lines.append(f"| {name} | {len(asked):,} | {first / len(asked):.3f} | {ten / len(asked):.3f} | {spent:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="a pipeline's folder with a release")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--alone", type=int, default=100, help="how many of them are asked one after the other")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=300)
    options = parser.parse_args()
    index = pairloom.open(options.place)
    texts = [own[0] for own in index.dataset.to_table(columns=["texts"])["texts"].to_pylist() if own]
    drawn = np.random.default_rng(0).choice(len(texts), options.queries, replace=len(texts) < options.queries)
    asked = [texts[at] for at in drawn]
    print("| rows | index | queries | one by one: ms | at once: ms | ratio | CPU ms | CPU ms | ratio |")  # noqa: T201
    print(beside(index, asked, options.alone, options.rounds))  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        grow(index.current, Path(folder), options.rows)
        print(beside(pairloom.open(folder), asked, options.alone, options.rounds))  # noqa: T201
    print("\n| rare words by | asked | first | in ten | CPU ms |")  # noqa: T201
    print(hybrid(index, rare_words(index, options.words)))  # noqa: T201
    print(f"\nload {os.getloadavg()[0]:.1f}")  # noqa: T201


if __name__ == "__main__":
    main()
