"""A release exported: read again by nothing of ours, and its page used in a real browser."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from released_pipeline import HOSTILE, MODEL_ID, NAMES, D, picture, publish
from typer.testing import CliRunner, Result

import pairloom
from pairloom.flows.cli import app
from pairloom.search.index import Index
from pairloom.storage.images.stored_image import thumbnail

CHROMIUM = Path("/usr/bin/chromium")
EVIL = "<img src=x onerror=document.title='owned'>\u202e\x1b[31m"
NAMED = [*NAMES, EVIL]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    root = tmp_path_factory.mktemp("root")
    publish(root / "fruits", names=NAMED)
    return pairloom.open(root)


def export(index: Index, *arguments: str) -> Result:
    root = str(index.folder.parent)
    (index.folder.parent / "pipelines.yaml").write_text(json.dumps({"root": root, "pipelines": {"fruits": {}}}))
    file = str(index.folder.parent / "pipelines.yaml")
    return CliRunner().invoke(app, ["export", *arguments, "--file", file])


def test_parquet_holds_all_columns_of_all_items(index: Index, tmp_path: Path) -> None:
    done = export(index, "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["release"], said["items"], said["files"]) == (1, len(NAMED), 2)
    table = pq.read_table(tmp_path / "out" / "items.parquet").sort_by("item_id")
    expected = index.dataset.to_table().sort_by("item_id")
    assert table.column_names == expected.column_names
    assert table.schema.field("text_vector").type.list_size == D
    for name in expected.column_names:
        assert str(table[name].to_pylist()) == str(expected[name].to_pylist()), name
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert (about["release"], about["model_id"], about["dimension"]) == (1, MODEL_ID, D)


def test_usearch_finds_what_the_release_finds(index: Index, tmp_path: Path) -> None:
    usearch = pytest.importorskip("usearch.index")
    where = "subgroup != 'Fig'"
    assert export(index, "--out", str(tmp_path / "out"), "--format", "usearch", "--where", where).exit_code == 0
    items = pq.read_table(tmp_path / "out" / "items.parquet")
    assert not {"image_vector", "text_vector"} & set(items.column_names)
    for side in ("image", "text"):
        found = usearch.Index.restore(str(tmp_path / "out" / f"{side}.usearch"))
        for text in ("red apple", "green pear", *HOSTILE):
            keys = found.search(index.embed_texts([text])[0], 5).keys
            ids = [items["item_id"][int(key)].as_py() for key in keys]
            wanted = index.search(text, k=5, target="image" if side == "image" else "text", where=where)
            assert ids == [hit.item_id for hit in wanted.hits]


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("has no item to export where price < 0", ["--where", "price < 0"]),
        ("is not a filter", ["--where", "price <"]),
        ("is there and not an empty folder", []),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    index: Index, tmp_path: Path, said: str, arguments: list[str]
) -> None:
    out = tmp_path / "out"
    if not arguments:
        out.mkdir()
        (out / "mine.txt").touch()
    done = export(index, "--out", str(out), *arguments)
    assert done.exit_code == 2
    assert said in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == (["mine.txt"] if not arguments else [])


def test_a_page_is_bounded_and_an_interrupted_export_leaves_nothing(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairloom.search.export.release_files.MAX_ITEMS", 3)
    done = export(index, "--out", str(tmp_path / "out"), "--format", "page")
    assert "at most 3 items, not 47" in done.stderr
    monkeypatch.setattr("pairloom.search.export.table.Selection.batches", lambda *_: 1 / 0)
    assert export(index, "--out", str(tmp_path / "out")).exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_the_page_holds_pictures_and_neighbours_and_nothing_to_obey(index: Index, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(index, "--out", str(out), "--format", "page").exit_code == 0
    script = (out / "items.js").read_text(encoding="utf-8")
    assert "\u202e" not in script
    assert "\x1b" not in script
    items = json.loads(script.removeprefix("const ITEMS = ").removesuffix(";\n"))
    assert len(items) == len(NAMED)
    number = next(place for place, item in enumerate(items) if item[0] == NAMES[7])
    assert (out / "pictures" / "0" / f"{number}.webp").read_bytes() == thumbnail(picture(7))
    wanted = [hit.item_id for hit in index.search(like=NAMES[7], k=12).hits]
    assert [items[place][0] for place in items[number][4]] == [
        each.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") for each in wanted
    ]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "http" not in page
    assert "release 1" in page


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium")
def test_the_page_finds_words_and_what_is_alike_in_a_browser(index: Index, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    assert export(index, "--out", str(tmp_path / "out"), "--format", "page").exit_code == 0
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 800})
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto((tmp_path / "out" / "index.html").as_uri())
        assert tab.locator("#count").inner_text() == f"{len(NAMED)} of {len(NAMED)} items"
        tab.get_by_label("Words").fill("UNICODE apple RED")
        assert tab.locator("#count").inner_text() == f"0 of {len(NAMED)} items"
        tab.get_by_label("Words").fill("apple RED")
        assert tab.locator("#items li").count() == 1
        assert tab.evaluate("document.querySelector('#items img').decode().then(() => true)")
        tab.locator("#items button").click()
        assert tab.locator("#items li").count() == 13
        assert tab.locator("#count").inner_text() == "like red apple"
        tab.go_back()
        assert tab.locator("#items li").count() == 1
        tab.get_by_label("Words").fill("")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.title().startswith("fruits · release 1")
        assert tab.locator("#items img[src='x']").count() == 0
        assert errors == []
        browser.close()
