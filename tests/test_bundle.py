"""The benchmark pipelines over the development bundle of real pairs; skipped where the bundle is absent."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pairloom.flows.config import load_pipeline
from pairloom.storage.corpus import Corpus
from pairloom.storage.images.decoding import open_stored
from pairloom.storage.ingest import RowCounts
from pairloom.tasks.ingest import ingest

FILE = Path(__file__).parents[1] / "benchmarks" / "pipelines.yaml"
BUNDLE = FILE.parents[2] / "shared" / "data"

pytestmark = pytest.mark.skipif(not BUNDLE.is_dir(), reason="the development bundle is not beside the project")


def bundle_rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (BUNDLE / name / "captions.jsonl").read_text("utf-8").splitlines()]


def test_all_grocery_photographs_become_items_as_the_bundle_describes_them(tmp_path: Path) -> None:
    pipeline = load_pipeline(FILE, "grocery", root=tmp_path)
    ref = ingest(pipeline)
    rows = bundle_rows("grocery")
    assert RowCounts(**ref.rows_seen) == RowCounts(seen=len(rows), new=len(rows))
    corpus = Corpus(pipeline.folder)
    columns = ["item_id", "texts", "group", "split", "subgroup", "bytes", "image"]
    items = {item["item_id"]: item for item in corpus.table(corpus.current(), columns).to_pylist()}
    for row in rows:
        item = items[row["image_id"]]
        found = (item["texts"], item["group"], item["split"], item["subgroup"], item["bytes"])
        assert found == (row["texts"], row["concept_id"], row["split"], row["subgroup"], row["bytes"])
    assert max(open_stored(item["image"]["bytes"]).size[0] for item in list(items.values())[::50]) <= 96
    assert ingest(pipeline) == ref


def test_the_emoji_filter_leaves_the_skin_tones_out(tmp_path: Path) -> None:
    pipeline = load_pipeline(FILE, "emoji", root=tmp_path)
    counts = RowCounts(**ingest(pipeline).rows_seen)
    tones = Counter(row["skin_tone"] == "none" for row in bundle_rows("emoji"))
    assert counts.filtered == tones[False]
    assert counts.new + counts.duplicate == tones[True]
    assert counts.quarantined == 0
