"""What the search page tells of a collection: its map, what may be wrong with it, and rows that are no items."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import released_pipeline
from PIL import Image, ImageDraw, ImageFilter
from released_pipeline import MODEL_ID, D, publish
from starlette.testclient import TestClient

import pairloom.search.alike
import pairloom.search.web.report
from pairloom.flows.config import load_pipeline
from pairloom.search.web.app import create_app
from pairloom.search.web.config import WebConfig
from pairloom.search.web.report import Findings, data_report
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service
from pairloom.storage.images.stored_image import thumbnail
from pairloom.tasks.ingest import ingest

CLASSES = ("red", "green", "blue", "grey")
COUNT = 80
SWAPPED = 7
LONELY = 55
"""An item far from all others."""
COPY, COPIED = 20, 24
"""Two items with one picture: a training item and one that is not."""


def drawn(kind: str) -> bytes:
    """A picture with something wrong."""
    image = Image.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(image)
    if kind == "dark":
        image = Image.new("RGB", (96, 96), "black")
        ImageDraw.Draw(image).ellipse((30, 30, 66, 66), fill=(60, 60, 60))
    elif kind == "blurred":
        draw.ellipse((30, 30, 66, 66), fill="black")
        image = image.filter(ImageFilter.GaussianBlur(14))
    out = io.BytesIO()
    image.save(out, "PNG")
    return thumbnail(out.getvalue())


ODD = {40: "dark", 41: "blurred", 42: "empty"}


def odd_rows(rows: pa.Table) -> pa.Table:
    """The rows with vectors of four classes, one item called as another class, a copy, and three odd pictures."""
    draw = np.random.default_rng(0)
    centres = np.eye(D, dtype=np.float32)[: len(CLASSES)]

    def near(place: int, spread: float) -> npt.NDArray[np.float32]:
        vector = centres[place % len(CLASSES)] + draw.normal(0, spread, D)
        return np.asarray(vector / np.linalg.norm(vector), np.float32)

    images = [near(at, 0.06) for at in range(COUNT)]
    images[COPIED] = images[COPY]
    images[LONELY] = np.eye(D, dtype=np.float32)[D - 1]
    called = [at if at != SWAPPED else at + 1 for at in range(COUNT)]
    thumbnails = rows["thumbnail"].to_pylist()
    thumbnails[COPIED] = thumbnails[COPY]
    for at, kind in ODD.items():
        thumbnails[at] = drawn(kind)
    columns = {
        "image_vector": list(images),
        "text_vector": [near(at, 0.02) for at in called],
        "texts": [[f"{CLASSES[at % len(CLASSES)]} thing"] for at in called],
        "group": [None] * COUNT,
        "split": ["val" if at == COPIED or at % 9 == 0 else "train" for at in range(COUNT)],
        "thumbnail": thumbnails,
    }
    for name, values in columns.items():
        kind = rows.schema.field(name).type
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, kind))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release in which a few things are wrong."""
    made = released_pipeline.item_rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(released_pipeline, "item_rows", lambda *given: odd_rows(made(*given)))
        folder = tmp_path_factory.mktemp("report") / "things"
        publish(folder, names=[f"item {at}" for at in range(COUNT)])
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Findings]:
    report = data_report(ServedRelease.open(folder), lambda _: None)
    assert (report.covered.compared, report.covered.pictures, report.model_id) == (COUNT, COUNT, MODEL_ID)
    assert report.covered.with_all
    return {each.kind: each for each in report.findings}


def test_the_one_text_that_was_swapped_is_doubted_and_the_right_one_named(found: dict[str, Findings]) -> None:
    (doubted,) = found["mislabelled"].shown
    assert doubted.item_id == f"item {SWAPPED}"
    assert (doubted.text, doubted.said) == ("red thing", "grey thing")


def test_an_item_far_from_its_nearest_is_unlike_all_others(found: dict[str, Findings]) -> None:
    assert [each.item_id for each in found["outliers"].shown] == [f"item {LONELY}"]


def test_a_copy_is_found_and_that_it_leaks(found: dict[str, Findings]) -> None:
    for kind in ("near_duplicates", "leaks"):
        (pair,) = found[kind].shown
        assert {pair.item_id, pair.other} == {f"item {COPY}", f"item {COPIED}"}
        assert {pair.split, pair.other_split} == {"train", "val"}


def test_the_report_of_many_items_finds_the_same_and_says_what_it_covered(
    folder: Path, found: dict[str, Findings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairloom.search.alike, "EXACT", 5)
    monkeypatch.setattr(pairloom.search.web.report, "LOOKED", 60)
    heard: list[float] = []
    report = data_report(ServedRelease.open(folder), heard.append)
    assert not report.covered.with_all
    assert (report.covered.compared, report.covered.pictures) == (COUNT, 60)
    assert heard == sorted(heard)
    assert heard[-1] <= 1
    for each in report.findings:
        ids = [(one.item_id, one.other) for one in each.shown]
        assert ids == [(one.item_id, one.other) for one in found[each.kind].shown]


@pytest.mark.parametrize(("at", "kind"), ODD.items())
def test_pictures_of_nothing_are_told_apart(found: dict[str, Findings], at: int, kind: str) -> None:
    assert [each.item_id for each in found[kind].shown] == [f"item {at}"]


def finished(client: TestClient, path: str) -> Any:
    """What a job has made, once it is there."""
    while (answer := client.get(path)).status_code == 202:
        assert 0 <= answer.json()["done"] < 1
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_map_places_every_item_and_colours_it_by_a_column(folder: Path) -> None:
    with TestClient(create_app(Service(folder, WebConfig())), "http://localhost") as client:
        drawn = finished(client, "/api/map?colour=split")
        assert sorted(drawn["item_id"]) == sorted(f"item {at}" for at in range(COUNT))
        assert {*drawn["x"], *drawn["y"]} <= {*np.round(np.arange(0, 1.0001, 0.0001), 4).tolist()}
        counted = [drawn["labels"][at] for at in drawn["label"]]
        assert counted.count("val") == 10
        shown = client.get(f"{drawn['pictures']}{drawn['row'][3]}.webp")
        assert shown.headers["content-type"] == "image/webp"
        assert client.get("/api/map?colour=no_such").status_code == 400
        assert client.get("/api/map?method=magic").status_code == 422
        assert finished(client, "/api/report")["covered"]["compared"] == COUNT
        liked = client.get("/api/search", params={"like": ["item 0", "item 4", "item 8"], "k": 60}).json()
        assert liked["title"] == "like 3 items"
        assert {"item 0", "item 4", "item 8"}.isdisjoint(hit["item_id"] for hit in liked["hits"])
        assert all(int(hit["item_id"].split()[1]) % 4 == 0 for hit in liked["hits"][:10])


def test_counts_are_told_to_prometheus_under_the_names_of_routes(folder: Path) -> None:
    with TestClient(create_app(Service(folder, WebConfig())), "http://localhost") as client:
        client.get("/api/search?text=red")
        client.get("/api/items/none of these")
        client.get("/made/up/by/a/caller")
        told = client.get("/metrics").text
    assert 'pairloom_requests_total{route="/api/search",status="200"} 1.0' in told
    assert 'pairloom_requests_total{route="/api/items/{item_id:path}",status="404"} 1.0' in told
    assert 'pairloom_requests_total{route="other",status="404"} 1.0' in told
    assert f"pairloom_items {COUNT}" in told
    assert "made/up" not in told


def test_rejected_rows_are_told_by_reason_with_their_pictures(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    collection = tmp_path / "collection"
    collection.mkdir()
    Image.new("RGB", (64, 48), "red").save(collection / "good.png")
    Image.new("RGB", (8, 8), "blue").save(collection / "small.png")
    (collection / "broken.png").write_bytes(b"no picture")
    (tmp_path / "outside.png").write_bytes((shapes / "small-red-circle.png").read_bytes())
    names = ["good.png", "small.png", "broken.png", "absent.png", "../outside.png", "http://127.0.0.1:1/x.png"]
    lines = [
        f'{{"id": "{at}", "image": "{name}", "text": "a thing", "group": "{at}"}}\n' for at, name in enumerate(names)
    ]
    (collection / "captions.jsonl").write_text("".join(lines))
    pipeline = load_pipeline(
        write_pipelines(tmp_path, collection, columns={"id": "id", "group": "group"}, evaluation={})
    )
    ingest(pipeline)
    service = Service(pipeline.folder, WebConfig(), sources=pipeline.sources)
    with TestClient(create_app(service), "http://localhost") as client:
        told = client.get("/api/quarantine").json()
        assert (told["items"], told["rejected"]) == (1, 5)
        pictures = {}
        for reason in told["reasons"]:
            for row in client.get("/api/quarantine/rows", params={"reason": reason["reason"]}).json()["rows"]:
                pictures[row["image_path"]] = row["picture"]
        assert {name for name, address in pictures.items() if address} == {"small.png", "broken.png"}
        shown = client.get(pictures["small.png"])
        assert Image.open(io.BytesIO(shown.content)).size == (8, 8)
        assert client.get(pictures["broken.png"]).status_code == 404
        assert client.get("/api/quarantine/rows?reason=made_up").status_code == 400
