"""One text query of an open index beside the least that it must do: encode the text, ask LanceDB for the same columns.

`python -m benchmarks.latency [--rows 100000] [--dimension 256] [--rounds 30]` releases a table of random vectors by a
tiny model into a temporary folder, as nights leave it, index included. Each round asks ten texts, one after the other,
in each of these ways, in an order that changes: `index.search`, the same encoder with LanceDB's own query (the same
effort and columns, as Arrow), and both halves of the latter by themselves. Ten in a row, since the two keep what they
read in caches of their own: whoever is asked once between many queries of the other finds the processor's cold. The
quotient is the median of the rounds' quotients.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.bundle import read_collection
from pairloom.models.export import Compared, export
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.names import ARCHITECTURES
from pairloom.search.index import Index
from pairloom.storage.files import digest_files
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import Release, Training, release_log
from pairloom.storage.schema import vector_schema
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.effort import Effort
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable

K = 10
ROW = 10
"""Texts that are asked one after the other."""
COLUMNS = ["item_id", "texts", "path", "thumbnail"]


def release(folder: Path, texts: list[str], rows: int, dimension: int) -> None:
    """A release of `rows` rows with random vectors, by an untrained model of that dimension."""
    config = json.loads((ARCHITECTURES / "tiny-64.json").read_bytes())
    config["model_cfg"]["embed_dim"] = dimension
    (folder / "architecture.json").write_text(json.dumps(config))
    create(ModelConfig(architecture=str(folder / "architecture.json")), texts, seed=0).save(folder / "built")
    draw = np.random.default_rng(0)
    export(folder / "built", Compared(texts, draw.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)))
    model_id = ModelStore(folder).adopt(folder / "built")
    table = VectorTable.create(folder, model_id, dimension=dimension, keep={})
    for start in range(0, rows, 50_000):
        table.upsert(_rows(start, min(50_000, rows - start), dimension, draw))
    kind = table.build_index(IndexConfig())
    upkeep = TableUpkeep(table.path, table.version)
    upkeep.tag(1, table.version)
    now = datetime.now(UTC)
    release_log(folder).publish(
        Release(
            number=1,
            files=digest_files(folder, chain(ModelStore(folder).files(model_id), table.files()), {}),
            created_at=now,
            snapshot=1,
            snapshot_digest="0",
            model_id=model_id,
            table=table.path.relative_to(folder).as_posix(),
            table_version=table.version,
            rows=rows,
            dimension=dimension,
            max_side=96,
            keep={},
            index=kind,
            metrics={},
            training=Training(config_digest="0", items=rows, trained_at=now, verdict="released"),
            reason="benchmark",
        )
    )


def _rows(start: int, count: int, dimension: int, draw: np.random.Generator) -> pa.Table:
    vector_ND = draw.normal(size=(count, dimension)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vector_ND.ravel()), dimension)
    rest: dict[str, Any] = {"group": None, "split": "train", "path": "a.png", "width": 9, "height": 9, "source": "s"}
    rest |= {"content_digest": "d", "thumbnail": draw.bytes(2_000)}
    columns: dict[str, Any] = {name: [value] * count for name, value in rest.items()}
    columns |= {"item_id": [f"item-{start + place}" for place in range(count)], "texts": [["a text"]] * count}
    columns |= {"image_vector": flat, "text_vector": flat}
    schema = vector_schema(dimension, {})
    return pa.table([columns[name] for name in schema.names], schema=schema)


def main() -> None:
    """Print the medians of each way, and the quotient."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    texts = [text for texts in read_collection("grocery", "val").texts for text in texts]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        release(folder, texts, arguments.rows, arguments.dimension)
        index = Index.open(folder)
        record, effort = index.record, Effort.of(index.dataset)
        table = lancedb.connect(folder / "vectors").open_table(record.model_id)
        table.checkout(record.table_version)

        def encode(text: str) -> npt.NDArray[np.float32]:
            vector_D: npt.NDArray[np.float32] = index.embed_texts([text])[0]
            return vector_D

        def ask(vector_D: npt.NDArray[np.float32]) -> pa.Table:
            query = table.search(vector_D, vector_column_name="image_vector").distance_type("cosine")
            query = query.refine_factor(effort.refine_factor).minimum_nprobes(effort.probes)
            return query.limit(K).select([*COLUMNS, "_distance"]).to_arrow()

        given = encode(texts[0])
        ways: dict[str, Callable[[str], object]] = {
            "`index.search`": lambda text: index.search(text, k=K),
            "encode + LanceDB": lambda text: ask(encode(text)),
            "encode": encode,
            "LanceDB": lambda _: ask(given),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(-1, arguments.rounds):
            names = list(ways)
            for name in names[number % 4 :] + names[: number % 4]:
                for text in islice(cycle(texts), max(number, 0) * ROW, max(number, 0) * ROW + ROW):
                    started = time.perf_counter()
                    ways[name](text)
                    if number >= 0:
                        times[name].append((time.perf_counter() - started) * 1000)
        sys.stdout.write("| way | p50, ms | p95, ms |\n| --- | ---: | ---: |\n")
        for name, own in times.items():
            sys.stdout.write(f"| {name} | {statistics.median(own):.2f} | {np.percentile(own, 95):.2f} |\n")
        searched, bare = times["`index.search`"], times["encode + LanceDB"]
        quotient = statistics.median(
            statistics.median(searched[start : start + ROW]) / statistics.median(bare[start : start + ROW])
            for start in range(0, len(searched), ROW)
        )
        medians = statistics.median(searched) / statistics.median(bare)
        sys.stdout.write(
            f"\nquotient {quotient:.3f} (of the medians {medians:.3f}), {arguments.rows:,} × {arguments.dimension}, "
            f"index {record.index}, load {os.getloadavg()[0]:.1f}\n"
        )


if __name__ == "__main__":
    main()
