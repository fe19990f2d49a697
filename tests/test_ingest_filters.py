"""Filters of rows and images over nights: what they leave out, and that it comes back when they are taken away."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.ingest import Ingest, RowCounts
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import JsonlSource
from pairloom.storage.sources.text_rules import TextRules


@pytest.fixture
def source(tmp_path: Path) -> JsonlSource:
    """Four pictures, one of them long, and texts of which one is an address."""
    texts = ["a square", "a banner", "https://example.org", "a tall one"]
    sizes = [(40, 40), (160, 20), (40, 41), (20, 80)]
    rows = []
    for number, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        Image.new("RGB", size, (number * 60, 0, 90)).save(tmp_path / f"{number}.png")
        rows.append(json.dumps({"id": str(number), "image": f"{number}.png", "text": text}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    return JsonlSource(path=tmp_path / "captions.jsonl")


def night(source: JsonlSource, config: IngestConfig, *more: JsonlSource) -> tuple[Snapshot, RowCounts, dict[str, str]]:
    corpus = Corpus(source.paths[0].parent / "root")
    snapshot, counts = Ingest(corpus, {}, config).run([source, *more], ColumnsConfig(id="id"))
    rows = [row for batch in corpus.rejected(snapshot) for row in batch.to_pylist()]
    assert all(row["outcome"] == "filtered" for row in rows)
    return snapshot, counts, {row["item_id"]: row["reason"] for row in rows}


@pytest.mark.parametrize(
    ("filters", "left_out"),
    [
        ({"max_aspect": 4}, {"1": "image-too-long"}),
        ({"max_aspect": 3.9}, {"1": "image-too-long", "3": "image-too-long"}),
        ({"max_aspect": 8}, {}),
        ({"texts": TextRules(refuse=("address",))}, {"2": "text-address"}),
        ({"texts": TextRules(min_words=2, max_characters=9)}, {"2": "text-too-short", "3": "text-too-long"}),
    ],
)
def test_a_filter_leaves_out_and_its_end_brings_back(
    source: JsonlSource, filters: dict[str, object], left_out: dict[str, str]
) -> None:
    plain = IngestConfig(workers=1, max_removed=1.0)
    filtered = IngestConfig.model_validate({**plain.model_dump(), **filters})
    afresh, counts, found = night(source, filtered)
    assert found == left_out
    assert (counts.filtered, counts.new) == (len(left_out), 4 - len(left_out))
    whole, counts, found = night(source, plain)
    assert (whole.rows, found) == (4, {})
    again, counts, found = night(source, filtered)
    assert (again.rows, counts.removed, found) == (afresh.rows, len(left_out), left_out)


def test_a_cap_keeps_the_first_items_of_a_text_on_every_night(source: JsonlSource) -> None:
    path = source.paths[0]
    rows = [{**json.loads(line), "text": "a square"} for line in path.read_text().splitlines()]
    capped = IngestConfig(workers=1, max_per_text=2)

    def write(*order: int) -> None:
        path.write_text("\n".join(json.dumps(rows[number]) for number in order))

    write(0, 1, 2, 3)
    night(source, IngestConfig(workers=1))
    # Half of the items leave, far more than `max_removed`: their rows are there.
    whole, counts, found = night(source, capped)
    assert (whole.rows, counts.removed, counts.removals_held, counts.filtered) == (2, 2, 0, 2)
    assert found == dict.fromkeys("23", "text-repeated")
    assert night(source, capped)[0] == whole
    more = path.with_name("more.jsonl")
    more.write_text("")
    night(source, capped, JsonlSource(path=more))
    # Of the rows in the first file nothing differs.
    more.write_text(json.dumps({**rows[3], "id": "4", "text": ["a square", "and more"]}))
    added, counts, found = night(source, capped, JsonlSource(path=more))
    assert (added.rows, counts.removed, found) == (2, 0, dict.fromkeys("234", "text-repeated"))
    write(3, 0, 1, 2)
    _, counts, found = night(source, capped)
    assert (counts.new, counts.removed, found) == (1, 1, dict.fromkeys("12", "text-repeated"))
    rows[0]["text"] = "another"
    write(3, 0, 1, 2)
    _, counts, found = night(source, capped)
    assert (counts.new, counts.updated, found) == (1, 1, {"2": "text-repeated"})
    assert night(source, IngestConfig(workers=1))[2] == {}
