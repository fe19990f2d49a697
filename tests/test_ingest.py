import gzip
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairloom.storage.corpus import EMPTY, Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.export import export_items
from pairloom.storage.files import DamagedError
from pairloom.storage.images import config as images_config
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, decode_file, thumbnail
from pairloom.storage.ingest import Ingest, RowCounts
from pairloom.storage.reasons import Reason
from pairloom.storage.records import RecordLog, StaleWriterError
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import FolderSource, JsonlSource, SourceConfig

COLUMNS = ColumnsConfig(id="id", group="group", keep={"price": "float64"})
CONFIG = IngestConfig(workers=1, part_rows=3, min_side=4)
Write = Callable[..., JsonlSource]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as a captions file; images are named by their colour and made when first named."""

    def write_rows(rows: list[Any], file: str = "captions", **settings: Any) -> JsonlSource:
        for row in rows:
            if isinstance(row, dict) and (name := row.get("image", "")).endswith(".png"):
                path = tmp_path / name
                if not path.exists():
                    Image.new("RGB", (8, 8), path.stem).save(path)
                    os.utime(path, ns=(10**18, 10**18))
        path = tmp_path / f"{file}.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return JsonlSource(path=path, **{"max_removed": 1.0, **settings})

    return write_rows


def row(name: str, colour: str, text: str = "", **more: Any) -> dict[str, Any]:
    return {"id": name, "image": f"{colour}.png", "text": text or colour, "group": None, "price": 1.5, **more}


class Decoder:
    """Decodes in this process, counts, and rejects the files that it is told to."""

    def __init__(self, **rejected: RejectedImage) -> None:
        self.rejected = rejected
        self.decoded: list[str] = []

    def __call__(
        self, items: Iterable[tuple[Any, Origin]], config: IngestConfig
    ) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
        for key, path in items:
            assert isinstance(path, Path), "these sources name files"
            self.decoded.append(path.name)
            yield key, self.rejected.get(path.stem) or decode_file(path, config.limits)


def ingest(
    tmp_path: Path,
    *sources: SourceConfig,
    config: IngestConfig = CONFIG,
    columns: ColumnsConfig = COLUMNS,
    decoder: Decoder | None = None,
    since: Snapshot | None = None,
) -> tuple[Snapshot, RowCounts]:
    night = Ingest(Corpus(tmp_path / "root"), columns.types, config, decoder or Decoder())
    return night.run(sources, columns, since=since)


def items(tmp_path: Path, snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    corpus = Corpus(tmp_path / "root")
    table = corpus.table(snapshot, corpus.columns(snapshot))
    return {each["item_id"]: each for each in table.to_pylist()}


def rejected(tmp_path: Path, snapshot: Snapshot) -> list[tuple[int, str, str]]:
    batches = Corpus(tmp_path / "root").rejected(snapshot)
    return [(each["row"], each["outcome"], each["reason"]) for batch in batches for each in batch.to_pylist()]


def test_every_item_has_the_thumbnail_of_its_image(tmp_path: Path, write: Write) -> None:
    first, _ = ingest(tmp_path, write([row("1", "red"), row("2", "lime"), row("3", "blue")]))
    # Both take their image from the older part.
    second, _ = ingest(
        tmp_path, write([row("1", "red", price=2.0), row("2", "lime"), row("4", "blue", "another text")])
    )
    assert {part.digest for part in first.parts} != {part.digest for part in second.parts}
    for snapshot in (first, second):
        for item in items(tmp_path, snapshot).values():
            assert item["thumbnail"] == thumbnail(item["image"]["bytes"])


def test_a_decoder_installed_since_tries_rejected_files_again(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_config, "heif_version", lambda: None)
    source = write([row("1", "red"), row("2", "lime")])
    unread = Decoder(lime=RejectedImage(Reason.IMAGE_UNREADABLE, "needs the extra `heic`"))
    ingest(tmp_path, source, decoder=unread)
    same = Decoder()
    ingest(tmp_path, source, decoder=same)
    assert same.decoded == []
    monkeypatch.setattr(images_config, "heif_version", lambda: "1.0")
    reading = Decoder()
    snapshot, _ = ingest(tmp_path, source, decoder=reading)
    assert reading.decoded == ["lime.png"]
    assert set(items(tmp_path, snapshot)) == {"1", "2"}


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
    snapshot, counts = ingest(tmp_path, source, config=update(on_bad_cell="quarantine"))
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
    snapshot, counts = ingest(tmp_path, source, config=CONFIG.model_copy(update={"min_side": 16}))
    assert counts == RowCounts(seen=1, filtered=1)
    assert rejected(tmp_path, snapshot) == [(1, "filtered", "image-too-small")]
    assert ingest(tmp_path, source)[1] == RowCounts(seen=1, new=1)


def test_new_rows_make_new_parts_and_leave_the_old_ones(tmp_path: Path, write: Write) -> None:
    first, _ = ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    second, counts = ingest(tmp_path, write([row("1", "red"), row("2", "lime"), row("3", "blue")]))
    assert second.parts[: len(first.parts)] == first.parts
    assert second.files.items() >= {name: first.files[name] for name in first.files if "part-" in name}.items()
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


def texts(tmp_path: Path, snapshot: Snapshot) -> dict[str, str]:
    return {item_id: item["texts"][0] for item_id, item in items(tmp_path, snapshot).items()}


def update(**changes: Any) -> IngestConfig:
    return CONFIG.model_copy(update=changes)


@pytest.mark.parametrize("files", [("captions",), ("captions", "later")], ids=["one file", "two sources"])
@pytest.mark.parametrize("nights", [1, 2], ids=["on one night", "on two nights"])
def test_of_an_id_that_comes_twice_the_first_row_is_the_item_every_night(
    tmp_path: Path, write: Write, files: tuple[str, ...], nights: int
) -> None:
    first, again = [row("1", "red"), row("2", "lime")], [row("1", "red", text="crimson")]
    if nights == 2:
        ingest(tmp_path, write(first))
    sources = [write(first), write(again, "later")] if len(files) == 2 else [write(first + again)]
    for _ in range(3):
        snapshot, _ = ingest(tmp_path, *sources)
        assert texts(tmp_path, snapshot) == {"1": "red", "2": "lime"}
        assert [reason for *_, reason in rejected(tmp_path, snapshot)] == ["id-repeated"]
    alone, _ = ingest(tmp_path, write(again))
    assert texts(tmp_path, alone) == {"1": "crimson"}


def test_items_can_trade_or_take_over_their_content(tmp_path: Path, write: Write) -> None:
    ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    traded, counts = ingest(tmp_path, write([row("1", "lime"), row("2", "red")]), decoder=(decoder := Decoder()))
    assert texts(tmp_path, traded) == {"1": "lime", "2": "red"}
    assert counts == RowCounts(seen=2, updated=2)
    assert decoder.decoded == []
    taken, _ = ingest(tmp_path, write([row("1", "red"), row("2", "blue")]))
    assert texts(tmp_path, taken) == {"1": "red", "2": "blue"}
    assert rejected(tmp_path, taken) == []


def test_content_that_came_back_is_served_again(tmp_path: Path, write: Write) -> None:
    ingest(tmp_path, write([row("1", "red", text="A")]))
    os.utime(tmp_path / "red.png", ns=(10**18, 10**18 + 1))
    for text in ("A", "B", "A"):
        snapshot, _ = ingest(tmp_path, write([row("1", "red", text=text)]))
        assert texts(tmp_path, snapshot) == {"1": text}


def test_a_duplicate_becomes_an_item_once_its_twin_says_something_else(tmp_path: Path, write: Write) -> None:
    twins = [row("1", "red"), row("2", "red")]
    snapshot, _ = ingest(tmp_path, write(twins))
    assert [reason for *_, reason in rejected(tmp_path, snapshot)] == ["same-image-and-texts"]
    snapshot, _ = ingest(tmp_path, write([row("1", "blue"), row("2", "red")]))
    assert texts(tmp_path, snapshot) == {"1": "blue", "2": "red"}
    assert rejected(tmp_path, snapshot) == []


def test_a_duplicate_whose_twin_is_gone_is_decoded_for_its_own_bytes(tmp_path: Path, write: Write) -> None:
    write([row("1", "red")])
    Image.open(tmp_path / "red.png").save(tmp_path / "other.bmp")
    twins = [row("1", "red"), {**row("2", "red"), "image": "other.bmp"}]
    ingest(tmp_path, write(twins))
    snapshot, _ = ingest(tmp_path, write(twins[1:]), decoder=(decoder := Decoder()))
    assert set(items(tmp_path, snapshot)) == {"2"}
    assert decoder.decoded == ["other.bmp"]


def test_new_modification_times_change_nothing_and_known_bytes_are_not_decoded(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red"), row("2", "lime"), row("3", "red")])
    first, _ = ingest(tmp_path, source)
    for name in ("red.png", "lime.png"):
        os.utime(tmp_path / name, ns=(10**18, 10**18 + 7))
    again, counts = ingest(tmp_path, source, decoder=(decoder := Decoder()))
    assert (again.parts, again.tombstones) == (first.parts, first.tombstones)
    assert counts == RowCounts(seen=3, unchanged=2, duplicate=1)
    assert decoder.decoded == []
    Image.new("RGB", (8, 8), "navy").save(tmp_path / "lime.png")
    _, counts = ingest(tmp_path, source, decoder=(decoder := Decoder()))
    assert (decoder.decoded, counts.updated) == (["lime.png"], 1)


def test_a_moved_picture_and_a_renamed_file_change_path_and_source_alone(tmp_path: Path, write: Write) -> None:
    before, _ = ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    (tmp_path / "new").mkdir()
    (tmp_path / "red.png").rename(tmp_path / "new" / "red.png")
    moved = [{**row("1", "red"), "image": "new/red.png"}, row("2", "lime")]
    after, counts = ingest(tmp_path, write(moved, "renamed"), decoder=(decoder := Decoder()))
    assert counts == RowCounts(seen=2, updated=2)
    assert decoder.decoded == []
    old, new = items(tmp_path, before), items(tmp_path, after)
    assert new["1"]["image"] == {**old["1"]["image"], "path": "new/red.png"}
    assert {item["source"] for item in new.values()} == {f"{tmp_path.name}/renamed"}
    described = {"image", "source", "content_digest", "ingested_at"}
    for item_id, item in new.items():
        assert {key: item[key] for key in item.keys() - described} == {
            key: old[item_id][key] for key in item.keys() - described
        }


def test_what_may_pass_is_tried_every_night_up_to_a_limit(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red"), row("2", "lime")])
    late = RejectedImage(Reason.IMAGE_TIMEOUT, "took more than 20 seconds")
    for night in range(1, 13):
        snapshot, counts = ingest(tmp_path, source, decoder=(decoder := Decoder(red=late)))
        (only,) = [each for batch in Corpus(tmp_path / "root").rejected(snapshot) for each in batch.to_pylist()]
        assert (only["reason"], only["attempts"]) == ("image-timeout", min(night, 10))
        assert (counts.quarantined, "red.png" in decoder.decoded) == (1, night <= 10)
    snapshot, _ = ingest(tmp_path, source, config=update(timeout_seconds=60))
    assert set(items(tmp_path, snapshot)) == {"1", "2"}
    assert snapshot.quarantine == ()


def test_a_file_that_the_system_refused_is_read_once_it_can_be(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red")])
    refused = decode_file(tmp_path / ("n" * 300), CONFIG.limits)
    assert isinstance(refused, RejectedImage)
    assert refused.may_pass
    ingest(tmp_path, source, decoder=Decoder(red=refused))
    assert set(items(tmp_path, ingest(tmp_path, source)[0])) == {"1"}


def test_a_broken_file_is_remembered_until_it_or_a_limit_changes(tmp_path: Path, write: Write) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    source = write([row("1", "red"), row("2", "broken")])
    first, _ = ingest(tmp_path, source)
    (kept,) = Corpus(tmp_path / "root").rejected(first)
    again, _ = ingest(tmp_path, source, decoder=(decoder := Decoder()))
    assert (again, decoder.decoded) == (first, [])
    raised, _ = ingest(tmp_path, source, config=update(memory_mb=4_096), decoder=(decoder := Decoder()))
    assert (raised, decoder.decoded) == (first, ["broken.png"])
    longer, _ = ingest(tmp_path, write(["no json", row("1", "red"), row("2", "broken")]))
    seen = {each["row"]: each for batch in Corpus(tmp_path / "root").rejected(longer) for each in batch.to_pylist()}
    assert seen[3]["rejected_at"] == kept["rejected_at"][0].as_py()
    assert seen[1]["rejected_at"] > seen[3]["rejected_at"]
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "broken.png")
    mended, _ = ingest(tmp_path, write([row("1", "red"), row("2", "broken")]))
    assert set(items(tmp_path, mended)) == {"1", "2"}
    assert mended.quarantine == ()


COLOURS = ["red", "lime", "blue", "white", "gray", "black", "navy", "teal", "olive", "maroon"]
TEN = [row(str(number), colour) for number, colour in enumerate(COLOURS)]


def test_what_leaves_the_source_leaves_the_corpus(tmp_path: Path, write: Write) -> None:
    ingest(tmp_path, write(TEN, max_removed=None))
    snapshot, counts = ingest(tmp_path, write(TEN[2:], max_removed=None))
    assert counts == RowCounts(seen=8, unchanged=8, removed=2)
    assert set(items(tmp_path, snapshot)) == {each["id"] for each in TEN[2:]}
    source = write(TEN[2:], max_removed=None)
    (tmp_path / "blue.png").unlink()
    snapshot, counts = ingest(tmp_path, source)
    assert (counts.removed, counts.quarantined, snapshot.rows) == (1, 1, 7)


@pytest.mark.parametrize("left", [0, 3], ids=["empty", "missing in part"])
def test_a_source_that_lost_much_at_once_is_not_believed(tmp_path: Path, write: Write, left: int) -> None:
    ingest(tmp_path, write(TEN, max_removed=None))
    more = row("new", "purple")
    for _ in range(2):
        night = Ingest(Corpus(tmp_path / "root"), COLUMNS.types, CONFIG, Decoder())
        snapshot, counts = night.run([write([*TEN[:left], more], max_removed=None)], COLUMNS)
        assert set(items(tmp_path, snapshot)) == {*(each["id"] for each in TEN), "new"}
        assert (counts.removed, counts.removals_held) == (0, 10 - left)
        assert f"{10 - left} of 1" in night.warnings[0]
    snapshot, counts = ingest(tmp_path, write([*TEN[:left], more], max_removed=1.0))
    assert set(items(tmp_path, snapshot)) == {*(each["id"] for each in TEN[:left]), "new"}
    assert (counts.removed, counts.removals_held) == (10 - left, 0)
    assert ingest(tmp_path, write(TEN))[0].rows == 10


def test_pictures_that_are_not_mounted_delete_nothing_and_are_not_decoded_again(tmp_path: Path, write: Write) -> None:
    first, _ = ingest(tmp_path, write(TEN, max_removed=None))
    (tmp_path / "elsewhere").mkdir()
    source = write(TEN, max_removed=None)
    for each in TEN:
        (tmp_path / each["image"]).rename(tmp_path / "elsewhere" / each["image"])
    held, counts = ingest(tmp_path, source)
    assert (counts.quarantined, counts.removals_held, held.digest) == (10, 10, first.digest)
    for each in TEN:
        (tmp_path / "elsewhere" / each["image"]).rename(tmp_path / each["image"])
    back, counts = ingest(tmp_path, source, decoder=(decoder := Decoder()))
    assert (back.digest, back.quarantine, decoder.decoded) == (first.digest, (), [])
    assert counts == RowCounts(seen=10, unchanged=10)


def test_a_source_that_left_the_pipeline_takes_its_items_along_once_that_is_accepted(
    tmp_path: Path, write: Write
) -> None:
    ingest(tmp_path, write(TEN[:5], "one"), write(TEN[5:], "two"))
    held, counts = ingest(tmp_path, write(TEN[:5], "one"))
    assert (held.rows, counts.removals_held) == (10, 5)
    left, counts = ingest(tmp_path, write(TEN[:5], "one"), config=update(max_removed=1.0))
    assert (left.rows, counts.removed) == (5, 5)


def test_a_tighter_where_removes_what_it_filters(tmp_path: Path, write: Write) -> None:
    ingest(tmp_path, write(TEN))
    snapshot, counts = ingest(tmp_path, write(TEN, where="id < '5'"))
    assert (snapshot.rows, counts.filtered, counts.removed) == (5, 5, 5)
    assert rejected(tmp_path, snapshot) == []
    assert ingest(tmp_path, write(TEN))[0].rows == 10


def test_a_source_in_append_mode_keeps_what_is_gone(tmp_path: Path, write: Write) -> None:
    ingest(tmp_path, write(TEN[:3], mode="append"))
    snapshot, counts = ingest(tmp_path, write([row("0", "red", text="crimson"), TEN[5]], mode="append"))
    assert texts(tmp_path, snapshot) == {"0": "crimson", "1": "lime", "2": "blue", "5": "black"}
    assert counts == RowCounts(seen=2, updated=1, new=1)


def test_a_corrected_caption_in_a_folder_replaces_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, colour in enumerate(COLOURS[:5]):
        Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(colour)
    source, columns = FolderSource(path=folder), ColumnsConfig()
    ingest(tmp_path, source, columns=columns)
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"corrected {number}")
    snapshot, counts = ingest(tmp_path, source, columns=columns)
    assert set(texts(tmp_path, snapshot).values()) == {f"corrected {number}" for number in range(5)}
    assert counts == RowCounts(seen=5, new=5, removed=5)


def test_a_changed_val_fraction_moves_whole_groups(tmp_path: Path, write: Write) -> None:
    rows = [row(str(number), colour, group=f"g{number % 4}") for number, colour in enumerate(COLOURS)]
    first, _ = ingest(tmp_path, write(rows[:6]), config=update(val_fraction=0.0, test_fraction=0.0))
    assert {item["split"] for item in items(tmp_path, first).values()} == {"train"}
    second, _ = ingest(tmp_path, write(rows), config=update(val_fraction=0.5), decoder=(decoder := Decoder()))
    assert len(decoder.decoded) == 4
    splits = {(item["group"], item["split"]) for item in items(tmp_path, second).values()}
    assert len(splits) == 4
    assert len({split for _, split in splits}) > 1


def test_a_changed_max_side_decodes_what_it_would_store_otherwise(tmp_path: Path, write: Write) -> None:
    rows = [row("1", "red"), row("2", "lime")]
    source = write(rows)
    Image.new("RGB", (100, 50), "lime").save(tmp_path / "lime.png")
    ingest(tmp_path, source, config=update(max_side=64))
    snapshot, counts = ingest(tmp_path, source, config=update(max_side=80), decoder=(decoder := Decoder()))
    assert decoder.decoded == ["lime.png"]
    assert counts == RowCounts(seen=2, unchanged=1, updated=1)
    stored = items(tmp_path, snapshot)["2"]["image"]["bytes"]
    assert Image.open(io.BytesIO(stored)).size == (80, 40)


def test_tonights_limits_judge_known_images_without_decoding_them(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red"), row("2", "lime")])
    Image.new("RGB", (40, 20), "lime").save(tmp_path / "lime.png")
    ingest(tmp_path, source)
    for limits, left, outcome, decoded in (
        ({"min_side": 10}, {"2"}, (1, "filtered", "image-too-small"), []),
        # Nothing of the first picture is stored any more.
        ({"max_pixels": 400}, {"1"}, (2, "quarantined", "image-too-large"), ["red.png"]),
    ):
        for again in (decoded, []):
            snapshot, _ = ingest(tmp_path, source, config=update(**limits), decoder=(decoder := Decoder()))
            assert set(items(tmp_path, snapshot)) == left
            assert rejected(tmp_path, snapshot) == [outcome]
            assert decoder.decoded == again


def test_a_row_that_left_on_a_night_that_held_others_back_is_an_item_when_it_is_back(
    tmp_path: Path, write: Write
) -> None:
    both, lime = [row("1", "red"), row("2", "lime")], write([row("3", "blue")], "more")
    ingest(tmp_path, write(both), lime)
    unreadable = write([], "none")
    unreadable.paths[0].unlink()
    ingest(tmp_path, write(both[:1]), lime, unreadable)
    snapshot, _ = ingest(tmp_path, write(both), lime)
    assert set(items(tmp_path, snapshot)) == {"1", "2", "3"}


def test_a_kept_column_that_items_without_a_row_lack_is_null_and_one_of_another_type_is_cast(
    tmp_path: Path, write: Write
) -> None:
    append = {"mode": "append"}
    first = [row("1", "red", price="12", tag="x"), row("2", "lime", price="dear", tag="x")]
    ingest(tmp_path, write(first, **append), columns=ColumnsConfig(id="id", keep={"price": "string"}))
    columns = ColumnsConfig(id="id", keep={"price": "int64", "tag": "string"})
    snapshot, _ = ingest(tmp_path, write([row("3", "blue", price=3, tag="y")], **append), columns=columns)
    found = items(tmp_path, snapshot)
    assert {item_id: (item["price"], item["tag"]) for item_id, item in found.items()} == {
        "1": (12, None),
        "2": (None, None),
        "3": (3, "y"),
    }
    again, _ = ingest(tmp_path, write([row("3", "blue", price=3, tag="y")], **append), columns=columns)
    assert again == snapshot


def test_rows_are_counted_against_what_is_served(tmp_path: Path, write: Write) -> None:
    served, _ = ingest(tmp_path, write(TEN[:4]))
    ingest(tmp_path, write([*TEN[1:6], row("9", "red")]))
    _, counts = ingest(tmp_path, write([*TEN[1:6], row("9", "red")]), since=served)
    assert counts == RowCounts(seen=6, new=3, unchanged=3, removed=1)


def test_a_corpus_of_an_older_version_is_brought_up_to_date(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red", group="g"), row("2", "lime")])
    new, _ = ingest(tmp_path, source)
    corpus, older = Corpus(tmp_path / "root"), Corpus(tmp_path / "older")
    table = corpus.table(new, corpus.columns(new)).drop_columns(["split_named", "stored_digest"])
    old_digests = pa.array(["as older versions", "made them"])
    table = table.set_column(table.schema.get_field_index("content_digest"), "content_digest", old_digests)
    table = table.append_column("fingerprint", pa.array(["f"] * 2))
    part = older.write_items(table, EMPTY)
    old = older.commit(EMPTY.model_copy(update={"number": 1, "parts": (part,)}), {})
    document = json.loads(older.log.path(1).read_bytes())
    assert document["keep"] is None
    assert older.table(old, ["item_id", "price"]).to_pylist() == corpus.table(new, ["item_id", "price"]).to_pylist()
    vectors = EmbeddingStore(older.folder, "model")
    vectors.write(part, ["1", "2"], *[np.eye(2, 4, dtype=np.float32)] * 2)
    snapshot, counts = Ingest(older, COLUMNS.types, CONFIG, Decoder()).run([source], COLUMNS)
    assert counts == RowCounts(seen=2, updated=2)
    known = {row["stored_digest"]: list(image_D) for row, image_D, _ in vectors.superseded(older, snapshot, ["price"])}
    stored = older.table(snapshot, ["stored_digest"])["stored_digest"].to_pylist()
    assert known == {stored[0]: [1, 0, 0, 0], stored[1]: [0, 1, 0, 0]}
    columns = [name for name in corpus.columns(new) if name != "ingested_at"]
    assert older.table(snapshot, columns) == corpus.table(new, columns)


def test_a_damaged_memory_of_files_costs_time_alone(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red")])
    first, _ = ingest(tmp_path, source)
    (tmp_path / "root" / "known" / "rows.parquet").write_bytes(b"damaged")
    again, _ = ingest(tmp_path, source, decoder=(decoder := Decoder()))
    assert (again, decoder.decoded) == (first, ["red.png"])


def test_whichever_column_of_the_memory_is_damaged_a_night_with_news_ends_as_without(
    tmp_path: Path, write: Write
) -> None:
    ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    name = Path("root", "known", "rows.parquet")
    group = pq.ParquetFile(tmp_path / name).metadata.row_group(0)
    source, content = write([row("1", "red"), row("2", "lime"), row("3", "blue")]), (tmp_path / name).read_bytes()
    for column in [group.column(number) for number in range(group.num_columns)]:
        night = tmp_path / f"night-{column.path_in_schema}"
        shutil.copytree(tmp_path / "root", night / "root")
        place = column.data_page_offset + column.total_compressed_size - 1
        (night / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        snapshot, counts = ingest(night, source)
        assert (counts.seen, snapshot.rows, sorted(items(night, snapshot))) == (3, 3, ["1", "2", "3"])
        assert ingest(night, source)[0] == snapshot


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
    snapshot, _ = ingest(tmp_path, write(rows), config=config)
    splits: dict[str, set[str]] = {}
    for each in items(tmp_path, snapshot).values():
        splits.setdefault(each["group"], set()).add(each["split"])
    assert all(len(split) == 1 for split in splits.values())
    assert {split for each in splits.values() for split in each} == {"train", "val", "test"}


def test_an_ingest_that_broke_off_leaves_nothing_visible_and_is_repeated(tmp_path: Path, write: Write) -> None:
    source = write([row(str(number), colour) for number, colour in enumerate(["red", "lime", "blue", "white"])])
    other = write([row("5", "navy")], "other")
    corpus = Corpus(tmp_path / "root")

    def breaking(items: Iterable[tuple[Any, Origin]], config: IngestConfig) -> Iterator[Any]:
        images = list(items)
        if len(images) == 1:
            raise RuntimeError("broken off")
        return Decoder()(images, config)

    with pytest.raises(RuntimeError, match="broken off"):
        Ingest(corpus, COLUMNS.types, CONFIG, breaking).run([source, other], COLUMNS)
    assert list((tmp_path / "root" / "corpus").iterdir())
    assert corpus.current().rows == 0
    snapshot, counts = ingest(tmp_path, source)
    assert counts.new == snapshot.rows == 4


def test_what_grows_with_the_corpus_stands_in_a_manifest(tmp_path: Path, write: Write) -> None:
    rows = [row(str(number), "red", text=f"text {number}") for number in range(60)]
    first, _ = ingest(tmp_path, write(rows))
    second, _ = ingest(tmp_path, write([{**each, "text": f"{each['text']}!"} for each in rows[::2]] + rows[1::2]))
    log = Corpus(tmp_path / "root").log
    assert (log.read(1), log.current()) == (first, second)
    assert (len(second.parts), len(second.tombstones)) == (30, 20)
    assert all(log.path(number).stat().st_size < 600 for number in (1, 2))


def test_a_snapshot_whose_manifest_is_damaged_is_passed_over(tmp_path: Path, write: Write) -> None:
    first, _ = ingest(tmp_path, write([row("1", "red")]))
    second, _ = ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    (name,) = second.files.keys() - first.files.keys() - {f"corpus/part-{part.digest}.parquet" for part in second.parts}
    manifest = tmp_path / "root" / name
    content = manifest.read_bytes()
    for damaged in (content.replace(b'"rows": 1', b'"rows": 2', 1), content[:-9], None):
        manifest.unlink()
        if damaged is not None:
            manifest.write_bytes(damaged)
        assert Corpus(tmp_path / "root").current() == first
        with pytest.raises(DamagedError, match="manifests/"):
            Corpus(tmp_path / "root").log.read(2)
        manifest.write_bytes(content)
    assert Corpus(tmp_path / "root").current() == second


def test_snapshots_of_earlier_versions_hold_what_a_manifest_holds_now(tmp_path: Path, write: Write) -> None:
    snapshot, _ = ingest(tmp_path, write([row("1", "red"), row("2", "lime")]))
    whole = snapshot.model_copy(update={"files": {n: d for n, d in snapshot.files.items() if "part-" in n}})
    log = Corpus(tmp_path / "root").log
    log.path(1).unlink()
    RecordLog(tmp_path / "root", "snapshot", Snapshot).publish(whole)
    assert log.current() == whole
    again, counts = ingest(tmp_path, write([row("1", "red"), row("2", "lime"), row("3", "blue")]))
    assert (counts, again.parts[:1]) == (RowCounts(seen=3, new=1, unchanged=2), whole.parts)


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


def test_datasets_reads_exported_items_as_pictures(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    ingest(tmp_path, write([row(str(number), colour) for number, colour in enumerate(COLOURS)]))
    # Superseded rows and parts without a column stay on the disk.
    source = write([row("1", "red", tag="x"), row("2", "lime", text="light green", tag="y")])
    columns = COLUMNS.model_copy(update={"keep": {"price": "float64", "tag": "string"}})
    snapshot, _ = ingest(tmp_path, source, columns=columns)
    export_items(Corpus(tmp_path / "root"), snapshot, tmp_path / "items.parquet")
    files = str(tmp_path / "items.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    found = {each["item_id"]: each for each in loaded}
    assert {item_id: (each["texts"], each["tag"]) for item_id, each in found.items()} == {
        "1": (["red"], "x"),
        "2": (["light green"], "y"),
    }
    assert found["1"]["image"].convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert found["1"]["price"] == 1.5


def test_a_source_that_cannot_be_read_costs_the_night_its_own_rows_alone(tmp_path: Path, write: Write) -> None:
    good, bad = write([row("1", "red"), row("2", "lime")]), write([row("3", "blue"), row("4", "navy")], "bad")
    first, _ = ingest(tmp_path, bad, good)
    whole = bad.files[0].read_bytes()
    good = write([row("1", "red"), row("5", "white")])
    for damage in (b"", "".join(map(chr, range(200))).encode("utf-16"), b"PAR1", b'{"picture": "a.png"}', None):
        if damage == b"":
            bad.files[0].write_bytes(gzip.compress(whole * 50)[:-50])
        elif damage is None:
            bad.files[0].unlink()
        else:
            bad.files[0].write_bytes(damage)
        night = Ingest(Corpus(tmp_path / "root"), COLUMNS.types, CONFIG, Decoder())
        snapshot, counts = night.run([bad, good], COLUMNS, since=first)
        assert set(items(tmp_path, snapshot)) == {"1", "3", "4", "5"}
        assert (counts.new, counts.removed) == (1, 1)
        assert [each for each in rejected(tmp_path, snapshot) if each[2] != "same-item"] == [
            (0, "quarantined", "source-unreadable")
        ]
        assert "bad: " in night.warnings[0]
        assert "items stay" in night.warnings[0]
        accepting = CONFIG.model_copy(update={"max_removed": 1.0})
        assert ingest(tmp_path, bad, good, config=accepting)[0] == snapshot
    with pytest.raises(ValueError, match=r"bad: there is no caption file"):
        ingest(tmp_path, bad)
    bad.files[0].write_bytes(whole)
    mended, counts = ingest(tmp_path, bad, good)
    assert set(items(tmp_path, mended)) == {"1", "3", "4", "5"}
    assert counts.quarantined == 0


def test_a_cell_that_is_not_of_its_type_costs_the_cell_and_is_counted(tmp_path: Path, write: Write) -> None:
    source = write([row("1", "red", price="dear"), row("2", "lime", price=""), row("3", "blue", price="2.0")])
    night = Ingest(Corpus(tmp_path / "root"), COLUMNS.types, CONFIG, Decoder())
    snapshot, counts = night.run([source], COLUMNS)
    assert {name: each["price"] for name, each in items(tmp_path, snapshot).items()} == {"1": None, "2": None, "3": 2.0}
    assert counts == RowCounts(seen=3, new=3)
    assert night.warnings == ("cells that are not of their column's type are null: price 1",)
    again = Ingest(Corpus(tmp_path / "root"), COLUMNS.types, CONFIG, Decoder())
    assert again.run([source], COLUMNS) == (snapshot, RowCounts(seen=3, unchanged=3))
    assert again.warnings == night.warnings
    _, counts = ingest(tmp_path, source.model_copy(update={"on_bad_cell": "quarantine"}))
    assert (counts.quarantined, counts.removed) == (1, 1)
