"""Ingest of images at addresses: the corpus that their files would give, asked for no more often than it must be."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from picture_server import Handler, PictureServer, picture, serving
from PIL import Image

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.location import Address, Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, decode_bytes, decode_file
from pairloom.storage.ingest import Ingest, RowCounts
from pairloom.storage.ingestion.images import MAX_ATTEMPTS
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import CsvSource, JsonlSource, SourceConfig
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import RejectedRow

COLUMNS = ColumnsConfig(id="id")
CONFIG = IngestConfig(workers=1, min_side=4, max_side=32)
COLOURS = ["red", "lime", "blue", "cyan", "gold", "navy", "pink", "teal"]


@pytest.fixture
def server() -> Iterator[PictureServer]:
    with serving() as server:
        server.answers |= {f"/{colour}.png": picture(colour) for colour in COLOURS}
        yield server


def decoder(
    items: Iterable[tuple[Any, Origin]], config: IngestConfig
) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
    """As `decode`, in this process."""
    for key, origin in items:
        if isinstance(origin, Path):
            yield key, decode_file(origin, config.limits)
        else:
            assert callable(origin)
            yield key, decode_bytes(origin(), config.limits)


def source(folder: Path, addresses: Iterable[str], **fetch: Any) -> JsonlSource:
    """A source with a row for each address or file, named by its place."""
    rows = [{"id": f"{place}", "image": each, "text": f"text {place}"} for place, each in enumerate(addresses)]
    path = folder / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = {"allow": ("127.0.0.1",), "backoff_seconds": 0, "attempts": 1, **fetch}
    return JsonlSource.model_validate({"path": path, "max_removed": 1, "fetch": settings})


def ingest(folder: Path, of: SourceConfig, config: IngestConfig = CONFIG, **how: Any) -> tuple[Snapshot, RowCounts]:
    return Ingest(Corpus(folder / "root"), {}, config, how.get("decoder", decoder)).run([of], COLUMNS)


def stored(folder: Path, snapshot: Snapshot) -> dict[str, tuple[Any, ...]]:
    """Of each item its bytes, texts, and all that comes from the image."""
    columns = ["item_id", "image", "texts", "pixel_hash", "perceptual_hash", "width", "height", "split"]
    rows = Corpus(folder / "root").table(snapshot, columns).to_pylist()
    return {row["item_id"]: (row["image"]["bytes"], *(row[name] for name in columns[2:])) for row in rows}


def reasons(folder: Path, snapshot: Snapshot) -> dict[str, tuple[str, int]]:
    """Of each row that is no item the reason, and how often it was tried."""
    rows = [row for batch in Corpus(folder / "root").rejected(snapshot) for row in batch.to_pylist()]
    return {row["item_id"]: (row["reason"], row["attempts"]) for row in rows}


def test_addresses_give_the_corpus_that_their_files_give(server: PictureServer, tmp_path: Path) -> None:
    names = [f"{colour}.png" for colour in COLOURS]
    (tmp_path / "files").mkdir()
    for name in names:
        (tmp_path / "files" / name).write_bytes(picture(Path(name).stem))
    files, _ = ingest(tmp_path / "files", source(tmp_path / "files", names))
    # Those asked first come last, and some are files.
    late = {f"/{name}": name for name in names[:2]}
    server.answers |= {path: slow(picture(Path(name).stem)) for path, name in late.items()}
    (tmp_path / names[4]).write_bytes(picture("gold"))
    mixed = [name if name == "gold.png" else server.at(f"/{name}") for name in names]
    addresses, counts = ingest(tmp_path, source(tmp_path, mixed))
    assert counts == RowCounts(seen=8, new=8)
    assert stored(tmp_path, addresses) == stored(tmp_path / "files", files)


def slow(content: bytes) -> Any:
    def answer(asked: Handler) -> None:
        time.sleep(0.1)
        asked.reply(200, content)

    return answer


def test_children_decode_what_was_fetched_and_large_images_wait_in_files(server: PictureServer, tmp_path: Path) -> None:
    server.answers["/large.bmp"] = picture("teal", (1_000, 500), "BMP")
    assert len(picture("teal", (1_000, 500), "BMP")) > 2**20
    server.answers["/text.html"] = b"<html>no picture</html>"
    addresses = [server.at(path) for path in ("/red.png", "/large.bmp", "/text.html", "/gone.png")]
    snapshot, counts = ingest(tmp_path, source(tmp_path, addresses), decoder=decode)
    assert counts == RowCounts(seen=4, new=2, quarantined=2)
    assert stored(tmp_path, snapshot)["1"][4:6] == (1_000, 500)
    assert reasons(tmp_path, snapshot) == {"2": ("image-unreadable", 1), "3": ("image-not-fetched", 1)}


def test_what_was_fetched_once_is_not_asked_for_again(server: PictureServer, tmp_path: Path) -> None:
    server.answers["/text.html"] = b"<html>no picture</html>"
    server.answers["/robots.png"] = lambda asked: asked.reply(200, picture(), X_Robots_Tag="noai")
    paths = ["/red.png", "/lime.png", "/gone.png", "/text.html", "/robots.png"]
    rows = source(tmp_path, [*map(server.at, paths), "http://10.0.0.1/a.png"])
    first, _ = ingest(tmp_path, rows)
    assert sorted(server.paths) == sorted(paths)
    found = reasons(tmp_path, first)
    assert found["5"] == ("address-refused", 1)
    assert found["4"] == ("robots-refused", 1)
    again, counts = ingest(tmp_path, rows)
    assert again == first
    assert counts == RowCounts(seen=6, unchanged=2, filtered=1, quarantined=3)
    assert len(server.asked) == len(paths)


def test_an_address_that_several_rows_name_is_asked_once(server: PictureServer, tmp_path: Path) -> None:
    rows = source(tmp_path, [server.at("/red.png"), server.at("/lime.png"), server.at("/red.png")])
    snapshot, counts = ingest(tmp_path, rows)
    assert counts == RowCounts(seen=3, new=3)
    assert sorted(server.paths) == ["/lime.png", "/red.png"]
    items = stored(tmp_path, snapshot)
    assert items["0"][0] == items["2"][0] != items["1"][0]


def test_a_server_that_failed_is_asked_the_next_night_up_to_a_number(server: PictureServer, tmp_path: Path) -> None:
    server.answers["/red.png"] = lambda asked: asked.reply(503)
    rows = source(tmp_path, [server.at("/red.png"), server.at("/lime.png")])
    for night in range(1, 4):
        snapshot, _ = ingest(tmp_path, rows)
        assert reasons(tmp_path, snapshot) == {"0": ("image-not-fetched", night)}
    server.answers["/red.png"] = picture("red")
    snapshot, counts = ingest(tmp_path, rows)
    assert counts == RowCounts(seen=2, new=1, unchanged=1)
    server.answers["/lime.png"] = lambda asked: asked.reply(503)
    assert ingest(tmp_path, rows)[0] == snapshot


def test_no_address_is_asked_for_ever(server: PictureServer, tmp_path: Path) -> None:
    server.answers["/red.png"] = lambda asked: asked.reply(503)
    rows = source(tmp_path, [server.at("/red.png")])
    for _ in range(MAX_ATTEMPTS + 3):
        snapshot, _ = ingest(tmp_path, rows)
    assert reasons(tmp_path, snapshot) == {"0": ("image-not-fetched", MAX_ATTEMPTS)}
    assert len(server.asked) == MAX_ATTEMPTS
    ingest(tmp_path, source(tmp_path, [server.at("/red.png")], timeout_seconds=60))
    assert len(server.asked) == MAX_ATTEMPTS + 1


def test_other_settings_have_what_was_refused_tried_again(server: PictureServer, tmp_path: Path) -> None:
    addresses = [server.at("/red.png"), server.at("/lime.png")]
    server.answers["/red.png"] += bytes(1_000)  # type: ignore[operator] # a picture, with more behind it
    snapshot, _ = ingest(tmp_path, source(tmp_path, addresses, max_bytes=500))
    assert reasons(tmp_path, snapshot) == {"0": ("image-too-large", 1)}
    _, counts = ingest(tmp_path, source(tmp_path, addresses, max_bytes=5_000, concurrency=1, per_host=1))
    assert counts == RowCounts(seen=2, new=1, unchanged=1)
    assert sorted(server.paths) == ["/lime.png", "/red.png", "/red.png"]


def test_another_size_has_the_image_fetched_again(server: PictureServer, tmp_path: Path) -> None:
    server.answers["/red.png"] = picture("red", (60, 40))
    rows = source(tmp_path, [server.at("/red.png")])
    ingest(tmp_path, rows)
    snapshot, counts = ingest(tmp_path, rows, IngestConfig(workers=1, min_side=4, max_side=64))
    assert counts == RowCounts(seen=1, updated=1)
    server.answers["/red.png"] = lambda asked: asked.reply(410)
    snapshot, counts = ingest(tmp_path, rows)
    assert counts == RowCounts(seen=1, quarantined=1, removed=1)
    assert reasons(tmp_path, snapshot) == {"0": ("image-not-fetched", 1)}
    for _ in range(3):
        snapshot, counts = ingest(tmp_path, rows)
        assert counts == RowCounts(seen=1, quarantined=1)
    assert len(server.asked) == 4


class Versioned:
    """A picture that the server tells the version of, and sends only to who hasn't that."""

    def __init__(self, server: PictureServer, path: str) -> None:
        self.colour = "red"
        self.status = 200
        self.sent = 0
        server.answers[path] = self

    def __call__(self, asked: Handler) -> None:
        if self.status != 200:
            asked.reply(self.status)
        elif asked.headers["If-None-Match"] == f'"{self.colour}"':
            asked.reply(304)
        else:
            self.sent += 1
            asked.reply(200, picture(self.colour), ETag=f'"{self.colour}"')


def test_an_address_that_is_rechecked_is_sent_only_where_it_changed(server: PictureServer, tmp_path: Path) -> None:
    changing = Versioned(server, "/changing.png")
    rows = source(tmp_path, [server.at("/changing.png"), server.at("/lime.png")], recheck="always")
    first, _ = ingest(tmp_path, rows)
    assert ingest(tmp_path, rows)[0] == first
    assert changing.sent == 1
    assert server.paths.count("/changing.png") == 2
    changing.colour = "blue"
    second, counts = ingest(tmp_path, rows)
    assert counts == RowCounts(seen=2, updated=1, unchanged=1)
    assert stored(tmp_path, second)["0"][0] == picture("blue")
    changing.colour = "red"
    third, _ = ingest(tmp_path, rows)
    assert stored(tmp_path, third) == stored(tmp_path, first)
    sent = changing.sent
    assert ingest(tmp_path, rows)[0] == third
    assert changing.sent == sent


def test_a_recheck_that_fails_changes_nothing_but_one_that_finds_nothing_does(
    server: PictureServer, tmp_path: Path
) -> None:
    changing = Versioned(server, "/changing.png")
    rows = source(tmp_path, [server.at("/changing.png"), server.at("/lime.png")], recheck="always")
    first, _ = ingest(tmp_path, rows)
    changing.status = 503
    assert ingest(tmp_path, rows)[0] == first
    changing.status = 404
    gone, counts = ingest(tmp_path, rows)
    assert counts == RowCounts(seen=2, unchanged=1, quarantined=1, removed=1)
    assert reasons(tmp_path, gone) == {"0": ("image-not-fetched", 1)}
    assert ingest(tmp_path, rows)[0] == gone
    changing.status = 200
    back, _ = ingest(tmp_path, rows)
    assert stored(tmp_path, back) == stored(tmp_path, first)


def test_other_bytes_at_an_address_can_be_quarantined(server: PictureServer, tmp_path: Path) -> None:
    changing = Versioned(server, "/changing.png")
    rows = source(tmp_path, [server.at("/changing.png")], recheck="always", on_change="quarantine")
    first, _ = ingest(tmp_path, rows)
    changing.colour = "blue"
    for _ in range(2):
        snapshot, counts = ingest(tmp_path, rows)
        assert counts.quarantined == 1
        assert reasons(tmp_path, snapshot) == {"0": ("image-changed", 1)}
    changing.colour = "red"
    back, _ = ingest(tmp_path, rows)
    assert stored(tmp_path, back) == stored(tmp_path, first)
    changing.colour = "blue"
    ingest(tmp_path, rows)
    update = source(tmp_path, [server.at("/changing.png")], recheck="always", on_change="update")
    snapshot, _ = ingest(tmp_path, update)
    assert stored(tmp_path, snapshot)["0"][0] == picture("blue")


@pytest.mark.parametrize("recheck", ["never", "always"])
@pytest.mark.parametrize("damage", [None, b"no Parquet"])
def test_what_is_remembered_of_addresses_can_be_deleted(
    server: PictureServer, tmp_path: Path, damage: bytes | None, recheck: str
) -> None:
    changing = Versioned(server, "/changing.png")
    rows = source(tmp_path, [server.at("/changing.png"), server.at("/lime.png")], recheck=recheck)
    first, _ = ingest(tmp_path, rows)
    memory = tmp_path / "root" / "known" / "addresses.parquet"
    if damage is None:
        memory.unlink()
    else:
        memory.write_bytes(damage)
    assert ingest(tmp_path, rows)[0] == first
    changing.colour = "blue"
    changed, _ = ingest(tmp_path, rows)
    assert stored(tmp_path, changed)["0"][0] == picture("blue" if recheck == "always" else "red")


def test_addresses_that_no_row_names_any_more_are_forgotten(server: PictureServer, tmp_path: Path) -> None:
    ingest(tmp_path, source(tmp_path, [server.at("/red.png"), server.at("/lime.png")]))
    ingest(tmp_path, source(tmp_path, [server.at("/lime.png")]))
    ingest(tmp_path, source(tmp_path, [server.at("/red.png"), server.at("/lime.png")]))
    assert server.paths.count("/red.png") == 2
    assert server.paths.count("/lime.png") == 1


def test_without_fetch_an_address_is_no_image_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(
        "id,image,text\n1,https://example.org/a.png,a\n2,HTTP://example.org/b.png,b\n3,file:///etc/passwd,c\n"
    )
    rows = list(read_source(CsvSource(path=path), COLUMNS))
    assert all(isinstance(row, RejectedRow) for row in rows)
    assert [row.reason for row in rows if isinstance(row, RejectedRow)] == [
        "image-not-found",
        "image-not-found",
        "address-refused",
    ]
    assert all("`fetch: {}`" in row.message for row in rows[:2] if isinstance(row, RejectedRow))


def test_with_fetch_every_kind_with_an_image_column_takes_addresses_beside_files(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    names = [" https://example.org/a.png", "b.png", "gopher://example.org/", "data:image/png;base64", "../out.png"]
    path.write_text("id,image,text\n" + "".join(f"{place},{name},text\n" for place, name in enumerate(names)))
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    address, file, *others = read_source(CsvSource.model_validate({"path": path, "fetch": {}}), COLUMNS)
    assert not isinstance(address, RejectedRow)
    assert not isinstance(file, RejectedRow)
    assert isinstance(address.image.origin, Address)
    assert address.image.origin.url == address.image.key == "https://example.org/a.png"
    assert file.image.origin == tmp_path / "b.png"
    assert [row.reason for row in others if isinstance(row, RejectedRow)] == [
        "address-refused",
        "image-not-found",
        "image-outside-base",
    ]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("pairloom.storage.ingest", {"httpx", "httpcore"}), ("pairloom.storage.images.worker", {"httpx", "pydantic"})],
)
def test_nothing_that_fetches_is_imported_where_nothing_is_fetched(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert module in imported
    assert unwanted.isdisjoint(imported)


def test_after_any_history_of_what_addresses_answer_the_corpus_is_that_of_a_first_night(
    server: PictureServer, tmp_path: Path
) -> None:
    def changing(path: str) -> Callable[[Handler], object]:
        def answer(asked: Handler) -> None:
            status, colour, headers = now[path]
            tags = {"ETag": f'"{colour}"', **headers}
            known = asked.headers["If-None-Match"] == f'"{colour}"'
            asked.reply(304 if status == 200 and known else status, b"" if known else pictures[colour], **tags)

        return answer

    pictures = {colour: picture(colour) for colour in COLOURS} | {"none": b"no picture"}
    answers: list[tuple[int, str, dict[str, str]]] = [(200, colour, {}) for colour in pictures]
    answers += [(404, "red", {}), (200, "lime", {"X_Robots_Tag": "noai"})]
    paths = [f"/{number}.png" for number in range(6)]
    now: dict[str, tuple[int, str, dict[str, str]]] = {}
    server.answers |= {path: changing(path) for path in paths}
    for seed in range(6):
        dice = random.Random(seed)
        grown = tmp_path / f"grown{seed}"
        grown.mkdir()
        for _ in range(5):
            now |= {path: dice.choice(answers) for path in paths if path not in now or dice.random() < 0.5}
            named = dice.sample(paths, dice.randint(3, 6))
            rows = source(grown, map(server.at, named), recheck="always")
            snapshot, _ = ingest(grown, rows)
        fresh = tmp_path / f"fresh{seed}"
        first, _ = ingest(fresh, rows)
        assert stored(grown, snapshot) == stored(fresh, first), seed
        assert reasons(grown, snapshot) == reasons(fresh, first), seed
