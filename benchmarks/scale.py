"""What each stage of a night costs at 10⁵, 10⁶ and 10⁷ items: CPU seconds, memory, and by which power they grow.

    python -m benchmarks.scale FOLDER --rows 100000 1000000

The items are made up (`synthetic.py`): tiny pictures, texts, groups, hashes; embeddings are random unit vectors, so
that nothing is decoded or encoded. A stage is the function that a night calls, over all items unless it says otherwise,
on one thread. A line of JSON as each is done, a table at the end: what 10⁸ items would take follows from the largest
size and the power between the last two. A stage that would take longer than `--most` seconds by that is left out. The
folder is made, and deleted at the end; with `--keep` it stays, so that stages of many items can be run one by one.
"""

# N = items, D = embedding

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from benchmarks.synthetic import tiny_pictures, write_corpus, write_part
from pairloom.models.arrays import Embeddings
from pairloom.models.batches.partners import Partners
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.mining.cells import close_pairs
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.near_duplicates import similar_hashes
from pairloom.models.mining.neighbours import nearest
from pairloom.models.ragged import Ragged
from pairloom.storage.changes import newer_items
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import digest_files
from pairloom.storage.ingestion.near_duplicates import CloseHashes
from pairloom.storage.table.candidate import indexed_and_checked
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.vectors import VectorTable
from pairloom.storage.training_texts import TrainingTexts
from pairloom.tasks.admission.evidence import gathered
from pairloom.tasks.indexing.rows import unlike, vector_rows
from pairloom.tasks.items import Items, read_items

WIDTH, MODEL, BATCH, QUERIES = 64, "made-up", 8_192, 1_000
HUNDRED_MILLION = 100_000_000


class Cost(NamedTuple):
    """Of one stage."""

    cpu_seconds: float
    peak_mib: float
    """Beyond what was held before it."""


@dataclass
class World:
    """A corpus of one size, and what the stages leave for one another."""

    folder: Path
    rows: int
    snapshot: Snapshot = field(init=False)
    more: Snapshot = field(init=False)
    """With 1 % more."""
    items: Items = field(init=False)
    vector_ND: Embeddings = field(init=False)
    """Of the training items, in their order."""
    table: VectorTable = field(init=False)

    @property
    def corpus(self) -> Corpus:
        """The parts."""
        return Corpus(self.folder)

    def write(self) -> None:
        """Parts, their digests and a snapshot: what ingest writes."""
        self.snapshot = self.corpus.log.current() or write_corpus(self.corpus, self.rows)
        part = write_part(self.corpus, range(self.rows, self.rows + self.rows // 100), tiny_pictures(4))
        self.more = self.snapshot.model_copy(update={"number": 2, "parts": (*self.snapshot.parts, part)})

    def look_for_news(self) -> None:
        """What a night with 1 % more rows finds new."""
        assert newer_items(self.corpus, self.more, self.snapshot) == self.rows // 100

    def judge_rows(self) -> None:
        """What `admit` gathers of these rows and of what is released."""
        gathered(self.corpus, self.snapshot, self.more)

    def read(self) -> None:
        """The training items with their relations, as mining and training read them."""
        self.items = read_items(self.corpus, self.snapshot, "train")

    def compare_hashes(self) -> None:
        """Candidates for near-duplicates."""
        rows = self.corpus.table(self.snapshot, ["perceptual_hash"])
        similar_hashes(rows["perceptual_hash"].to_pylist(), 4)

    def compare_hashes_at_ingest(self) -> None:
        """The same, as `ingest.near_duplicates` looks for them: of all, then of 1 % more."""
        random = np.random.default_rng(0)
        hashes_N = random.integers(0, 2**64, self.rows + self.rows // 100, dtype=np.uint64)
        CloseHashes.none(4).with_hashes(hashes_N[: self.rows]).with_hashes(hashes_N)

    def pair_positives(self) -> None:
        """Known positives, as pairs are written."""
        self.items.relations.positive_pairs(max_per_anchor=8)

    def mine_by_words(self) -> None:
        """Hard negatives of a first night."""
        mine_lexical_negatives(self.items.relations, MiningConfig(), seed=0)

    def draw(self) -> None:
        """A training's plan, and ten batches of it with partners."""
        relations = self.items.relations
        partners = Partners(relations, {}, {"positive"})
        plan = BatchPlan(relations.item_texts, None, BATCH, 0.0, 0, partners, 0.5)
        for step in range(10):
            plan.batch(step)

    def draw_alone(self) -> None:
        """The same without partners, of items of one text each: from arrays alone."""
        plan = BatchPlan(Ragged.cut(np.arange(self.rows), np.ones(self.rows, np.int64)), None, BATCH, 0.0, 0)
        for step in range(10):
            plan.batch(step)

    def write_embeddings(self) -> None:
        """Both vectors of every item, part by part."""
        store, random = EmbeddingStore(self.folder, MODEL), np.random.default_rng(0)
        for part in store.missing(self.snapshot):
            ids = self.corpus.part_ids(self.snapshot, part).to_pylist()
            vector_ND = random.standard_normal((len(ids), WIDTH), np.float32)
            vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
            store.write(part, ids, vector_ND, vector_ND)

    def read_embeddings(self) -> None:
        """The training items' vectors, as mining reads them."""
        store = EmbeddingStore(self.folder, MODEL)
        self.vector_ND = store.matrix(self.snapshot, self.items.item_ids, "image_vector")

    def find_neighbours(self) -> None:
        """Exact neighbours of a thousand items among all: a mining asks for those of all."""
        nearest(self.vector_ND[:QUERIES], self.vector_ND, 64)

    def find_close_pairs(self) -> None:
        """`near_duplicates` of SQL, by cells."""
        close_pairs(self.vector_ND, 0.95, most=1_000_000, progress=lambda _: None)

    def measure(self) -> None:
        """Metrics of the validation items, a twentieth of all, against one another."""
        items = read_items(self.corpus, self.snapshot, "val")
        random = np.random.default_rng(0)
        image_ND, text_TD = (
            random.standard_normal((count, WIDTH), np.float32)
            for count in (len(items.item_ids), len(items.relations.texts))
        )
        evaluate(image_ND, text_TD, items.relations, EvaluationConfig(), {})

    def fill_table(self) -> None:
        """The vector table, part by part, read back."""
        table = VectorTable.create(self.folder, MODEL, dimension=WIDTH, keep={})
        texts, store = TrainingTexts(self.folder / "models" / MODEL), EmbeddingStore(self.folder, MODEL)
        wanted = unlike(self.corpus, self.snapshot)
        rows = vector_rows(self.corpus, self.snapshot, store, wanted, table.schema, texts)
        table.upsert(pa.RecordBatchReader.from_batches(table.schema, rows))
        self.table = table

    def index_table(self) -> None:
        """Its index, and the check against exact search."""
        indexed_and_checked(self.table, IndexConfig(), expected_rows=self.snapshot.rows)

    def digest_parts(self) -> None:
        """What a release record says of its files."""
        digest_files(self.folder, (self.corpus.part_path(part) for part in self.snapshot.parts), {})


STAGES: dict[str, Callable[[World], None]] = {
    "write parts": World.write,
    "find what is new (1 %)": World.look_for_news,
    "judge new rows (1 %)": World.judge_rows,
    "read items": World.read,
    "compare hashes": World.compare_hashes,
    "compare hashes at ingest": World.compare_hashes_at_ingest,
    "pair positives": World.pair_positives,
    "mine by words": World.mine_by_words,
    "draw ten batches": World.draw,
    "draw ten batches without partners": World.draw_alone,
    "write embeddings": World.write_embeddings,
    "read embeddings": World.read_embeddings,
    "neighbours of 1,000": World.find_neighbours,
    "close pairs": World.find_close_pairs,
    "measure": World.measure,
    "fill the table": World.fill_table,
    "index and check it": World.index_table,
    "digest parts": World.digest_parts,
}
NEEDS = {
    "pair positives": ["read items"],
    "mine by words": ["read items"],
    "draw ten batches": ["read items"],
    "read embeddings": ["read items", "write embeddings"],
    "neighbours of 1,000": ["read embeddings"],
    "close pairs": ["read embeddings"],
    "fill the table": ["write embeddings"],
    "index and check it": ["fill the table"],
}
"""Stages that others need, beside the parts."""
FROM_ARRAYS = {"compare hashes at ingest", "draw ten batches without partners"}
"""Stages that need no parts: of ever so many items, as far as memory goes."""


def with_needed(names: Iterable[str]) -> set[str]:
    """These stages, and all that they need."""
    wanted = {*names}
    if wanted - FROM_ARRAYS:
        wanted.add("write parts")
    for name in reversed(STAGES):
        if name in wanted:
            wanted.update(NEEDS.get(name, ()))
    return wanted


def cost_of(stage: Callable[[], None]) -> Cost:
    """CPU seconds of this process and its threads, and the peak of its memory."""
    Path("/proc/self/clear_refs").write_text("5")
    before, began = _memory("VmRSS"), time.process_time()
    stage()
    return Cost(time.process_time() - began, _memory("VmHWM") - before)


def _memory(name: str) -> float:
    """In MiB, by the system."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def power(costs: dict[int, Cost]) -> float:
    """Of the items, by which the seconds grow between the two largest sizes; NaN for one size."""
    if len(costs) < 2:
        return math.nan
    (few, before), (many, after) = sorted(costs.items())[-2:]
    return math.log(after.cpu_seconds / before.cpu_seconds) / math.log(many / few)


def expected(costs: dict[int, Cost], rows: int) -> float:
    """Seconds of so many items by the largest size measured, at a power of one at least."""
    if not costs:
        return 0.0
    largest, exponent = max(costs), power(costs)
    growth = 1.0 if math.isnan(exponent) else max(exponent, 1.0)
    return costs[largest].cpu_seconds * math.pow(rows / largest, growth)


def table(found: dict[str, dict[int, Cost]], sizes: list[int]) -> list[str]:
    """As Markdown."""
    heads = [f"{rows:,}: CPU s (MiB)" for rows in sizes]
    lines = [f"| stage | {' | '.join(heads)} | power | 10⁸ |", "| --- " * (len(sizes) + 3) + "|"]
    for name, costs in found.items():
        cells = [
            f"{costs[rows].cpu_seconds:.2f} ({costs[rows].peak_mib:.0f})" if rows in costs else "" for rows in sizes
        ]
        ends = f"{power(costs):.2f} | {expected(costs, HUNDRED_MILLION) / 3600:.1f} h"
        lines.append(f"| {name} | {' | '.join(cells)} | {ends} |")
    return lines


def main() -> None:
    """Print what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--most", type=float, default=600, help="CPU seconds of a stage, by extrapolation")
    parser.add_argument(
        "--stages", nargs="+", default=list(STAGES), choices=list(STAGES), help="beside those they need"
    )
    parser.add_argument("--keep", action="store_true", help="the folder; what is in it isn't written again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[int, Cost]] = {name: {} for name in STAGES}
    for rows in sorted(options.rows):
        folder = options.folder / str(rows)
        folder.mkdir(parents=True, exist_ok=options.keep)
        try:
            world = World(folder, rows)
            wanted = with_needed(name for name in options.stages if expected(found[name], rows) <= options.most)
            for name, stage in STAGES.items():
                if name not in wanted:
                    continue
                found[name][rows] = cost = cost_of(partial(stage, world))
                line = {"rows": rows, "stage": name, **cost._asdict(), "load": os.getloadavg()[0]}
                print(json.dumps(line), flush=True)  # noqa: T201
        finally:
            if not options.keep:
                shutil.rmtree(folder)
    print("\n".join(table(found, sorted(options.rows))))  # noqa: T201


if __name__ == "__main__":
    main()
