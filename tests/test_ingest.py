import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.files import DamagedError
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.ingest import Ingest, RowCounts
from pairloom.storage.records import StaleWriterError
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import JsonlSource

COLUMNS = ColumnsConfig(id="id", group="group", keep={"price": "float64"})
CONFIG = IngestConfig(workers=1, part_rows=3, min_side=4)
Write = Callable[[list[Any]], JsonlSource]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as a captions file; images are named by their colour and made when first named."""

    def write_rows(rows: list[Any]) -> JsonlSource:
        for row in rows:
            if isinstance(row, dict) and (name := row.get("image", "")).endswith(".png"):
                path = tmp_path / name
                if not path.exists():
                    Image.new("RGB", (8, 8), path.stem).save(path)
                    os.utime(path, ns=(10**18, 10**18))
        path = tmp_path / "captions.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return JsonlSource(path=path)

    return write_rows


def row(name: str, colour: str, text: str = "", **more: Any) -> dict[str, Any]:
    return {"id": name, "image": f"{colour}.png", "text": text or colour, "group": None, "price": 1.5, **more}


def ingest(tmp_path: Path, source: JsonlSource, config: IngestConfig = CONFIG) -> tuple[Snapshot, RowCounts]:
    return Ingest(Corpus(tmp_path / "root"), COLUMNS.types, config).run([source], COLUMNS)


def items(tmp_path: Path, snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    table = Corpus(tmp_path / "root").table(snapshot, ["item_id", "texts", "group", "split", "price", "image"])
    return {each["item_id"]: each for each in table.to_pylist()}


def rejected(tmp_path: Path, snapshot: Snapshot) -> list[tuple[int, str, str]]:
    batches = Corpus(tmp_path / "root").rejected(snapshot)
    return [(each["row"], each["outcome"], each["reason"]) for batch in batches for each in batch.to_pylist()]


def test_every_row_is_accounted_for(tmp_path: Path, write: Write) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    source = write(
        [
            row("1", "red"),
            row("2", "lime"),
            "no json",
            row("3", "blue", text=" "),
            {**row("4", "red"), "image": "absent.jpg"},
            row("5", "broken"),
            row("6", "red"),
            row("7", "red", text="another text"),
            row("8", "white", price="dear"),
        ]
    )
    snapshot, counts = ingest(tmp_path, source)
    assert set(items(tmp_path, snapshot)) == {"1", "2", "7"}
    assert counts == RowCounts(seen=9, new=3, duplicate=1, quarantined=5)
    reasons = {number: reason for number, _, reason in rejected(tmp_path, snapshot)}
    assert reasons == {
        3: "malformed-row",
        4: "text-empty",
        5: "image-not-found",
        6: "image-unreadable",
        7: "same-image-and-texts",
        9: "metadata-type",
    }


def test_a_second_run_over_the_same_source_changes_nothing(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red"), row("2", "lime"), "no json", row("3", "red")])
    first, _ = ingest(tmp_path, source)
    again, counts = ingest(tmp_path, source)
    assert again == first
    assert counts == RowCounts(seen=4, unchanged=2, duplicate=1, quarantined=1)
    assert len(list((tmp_path / "root" / "corpus").iterdir())) == 1


def test_a_row_filtered_by_a_limit_is_tried_again_under_another(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red")])
    snapshot, counts = ingest(tmp_path, source, CONFIG.model_copy(update={"min_side": 16}))
    assert counts == RowCounts(seen=1, filtered=1)
    assert rejected(tmp_path, snapshot) == [(1, "filtered", "image-too-small")]
    assert ingest(tmp_path, source)[1] == RowCounts(seen=1, new=1)


def test_new_rows_make_new_parts_and_leave_the_old_ones(tmp_path: Path, write: Write) -> None:
    first, _ = ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    second, counts = ingest(tmp_path, write([row("1", "red"), row("2", "lime"), row("3", "blue")]))
    assert second.parts[: len(first.parts)] == first.parts
    assert second.files.items() >= first.files.items()
    assert counts == RowCounts(seen=3, unchanged=2, new=1)
    assert second.digest != first.digest


def test_an_updated_row_replaces_its_old_version(tmp_path: Path, write: Write) -> None:
    first, _ = ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    second, counts = ingest(tmp_path, write([row("1", "red", text="crimson"), row("2", "lime")]))
    assert counts == RowCounts(seen=2, updated=1, unchanged=1)
    assert second.rows == 2
    assert items(tmp_path, second)["1"]["texts"] == ["crimson"]
    assert items(tmp_path, first)["1"]["texts"] == ["red"]
    third, _ = ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    assert third.rows == 2
    assert items(tmp_path, third)["1"]["texts"] == ["red"]


def test_a_repeated_id_with_other_content_is_quarantined(tmp_path: Path, write: Write) -> None:
    snapshot, counts = ingest(tmp_path, write([row("1", "red"), row("1", "lime")]))
    assert counts == RowCounts(seen=2, new=1, quarantined=1)
    assert rejected(tmp_path, snapshot) == [(2, "quarantined", "id-repeated")]


def test_without_an_id_column_ids_come_from_the_content(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red"), row("2", "lime")])
    columns = ColumnsConfig()
    snapshots = []
    for root in ("a", "b"):
        ingest_ = Ingest(Corpus(tmp_path / root), {}, CONFIG)
        snapshots.append(ingest_.run([source], columns)[0])
    assert [each.parts for each in snapshots[:1]] == [each.parts for each in snapshots[1:]]


def test_groups_stay_together_in_one_split_and_splits_are_stable(tmp_path: Path, write: Write) -> None:
    colours = ["red", "lime", "blue", "white", "gray", "black", "navy", "teal", "olive", "maroon", "purple", "aqua"]
    rows = [row(f"{group}{colour}", colour, group=group) for group in "abcdefghijklmnop" for colour in colours]
    rows = [{**each, "text": each["id"]} for each in rows]
    config = CONFIG.model_copy(update={"val_fraction": 0.3, "test_fraction": 0.3, "part_rows": 1000})
    snapshot, _ = ingest(tmp_path, write(rows), config)
    splits: dict[str, set[str]] = {}
    for each in items(tmp_path, snapshot).values():
        splits.setdefault(each["group"], set()).add(each["split"])
    assert all(len(split) == 1 for split in splits.values())
    assert {split for each in splits.values() for split in each} == {"train", "val", "test"}


def test_an_ingest_that_broke_off_leaves_nothing_visible_and_is_repeated(tmp_path: Path, write: Write) -> None:
    source = write([row(str(number), colour) for number, colour in enumerate(["red", "lime", "blue", "white"])])
    missing = JsonlSource(path=tmp_path / "missing.jsonl")
    corpus = Corpus(tmp_path / "root")
    with pytest.raises(ValueError, match=r"missing\.jsonl"):
        Ingest(corpus, COLUMNS.types, CONFIG).run([source, missing], COLUMNS)
    assert list((tmp_path / "root" / "corpus").iterdir())
    assert corpus.current().rows == 0
    snapshot, counts = ingest(tmp_path, source)
    assert counts.new == snapshot.rows == 4


def test_of_two_ingests_at_once_the_later_one_is_refused(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red")])
    corpus = Corpus(tmp_path / "root")
    early, late = (Ingest(corpus, COLUMNS.types, CONFIG) for _ in range(2))
    early.run([source], COLUMNS)
    snapshot = corpus.current()
    with pytest.raises(StaleWriterError):
        corpus.commit(snapshot.model_copy(update={"number": late.number}), {})
    assert corpus.current() == snapshot


def test_a_flipped_bit_in_a_part_is_noticed(tmp_path: Path, write: Write) -> None:
    snapshot, _ = ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    path = next((tmp_path / "root" / "corpus").iterdir())
    content = bytearray(path.read_bytes())
    content[content.index(b"PNG") + 20] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedError, match="can't be read"):
        items(tmp_path, snapshot)


def test_datasets_reads_the_corpus_as_pictures(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    files = [str(path) for path in (tmp_path / "root" / "corpus").iterdir()]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert loaded[1]["texts"] == ["lime"]
    assert loaded[0]["price"] == 1.5
