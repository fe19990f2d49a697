"""The demo's icons: drawn once, whole, readable as a source, grouped across families."""

import importlib.util
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairloom.flows import icons as drawing
from pairloom.flows.icons import render_icons
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import JsonlSource
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import SourceRow

needs_fonts = pytest.mark.skipif(importlib.util.find_spec("qtawesome") is None, reason="needs the extra `demo`")


@pytest.fixture(scope="module")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "icons"
    calls: list[tuple[int, int]] = []
    count = render_icons(folder, size=32, progress=lambda done, total: calls.append((done, total)))
    assert 6_000 <= count <= 9_000
    assert calls[-1][0] == calls[-1][1] == len(calls) >= count
    return folder


def captions(folder: Path) -> list[dict[str, str | list[str]]]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


@needs_fonts
def test_every_icon_is_a_row_of_a_source(icons: Path) -> None:
    columns = ColumnsConfig(id="id", texts=["texts"], group="group", keep={"family": "string", "style": "string"})
    rows = list(read_source(JsonlSource(path=icons / "captions.jsonl"), columns))
    read = [row for row in rows if isinstance(row, SourceRow)]
    assert len(read) == len(rows)
    assert len({row.item_id for row in read}) == len({row.image for row in read}) == len(rows)


@needs_fonts
def test_families_drawing_one_idea_share_its_group(icons: Path) -> None:
    families = defaultdict(set)
    for caption in captions(icons):
        families[caption["group"]].add(caption["family"])
    assert families["bell"] >= {"codicon", "fontawesome", "materialdesign", "phosphor", "remixicon"}
    assert families["arrow circle down"] >= {"fontawesome", "materialdesign", "phosphor", "remixicon"}
    assert sum(len(each) > 1 for each in families.values()) > 900


@needs_fonts
def test_texts_are_readable_names(icons: Path) -> None:
    texts = {caption["id"]: caption["texts"] for caption in captions(icons) if isinstance(caption["id"], str)}
    assert texts["fontawesome-solid:hand-point-up"] == ["hand point up"]
    assert texts["remixicon:delete-bin-5-line"] == ["delete bin"]
    assert texts["phosphor:number-circle-three-fill"] == ["number circle three"]
    assert texts["fontawesome-brand:500px"] == ["500px"]


@needs_fonts
def test_every_icon_is_drawn_whole_and_in_the_middle(icons: Path) -> None:
    for caption in captions(icons)[::23]:
        with Image.open(icons / str(caption["image"])) as image:
            ink = 255 - np.asarray(image.convert("L")).astype(int)
        assert ink.shape == (32, 32)
        assert ink.max() > 60, caption
        assert ink[0].sum() + ink[-1].sum() + ink[:, 0].sum() + ink[:, -1].sum() == 0, caption
        rows, columns = (np.flatnonzero(ink.sum(axis)) for axis in (1, 0))
        for places in (rows, columns):
            assert abs((places[0] + places[-1]) / 2 - 15.5) <= 1, caption


@needs_fonts
def test_icons_are_drawn_once_and_again_for_another_size(
    icons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (icons / "captions.jsonl").stat()
    calls: list[int] = []
    count = render_icons(icons, size=32, progress=lambda done, _: calls.append(done))
    assert count == len(captions(icons))
    assert not calls
    assert (icons / "captions.jsonl").stat() == before
    few = drawing._FONTS[:2]
    monkeypatch.setattr(drawing, "_FONTS", few)
    once, again = tmp_path / "once", tmp_path / "again"
    for folder in (once, again):
        render_icons(folder, size=32)
    assert (again / "captions.jsonl").read_bytes() == (once / "captions.jsonl").read_bytes()
    assert {caption["family"] for caption in captions(once)} == {font.family for font in few}
    for caption in captions(once)[::23]:
        assert (again / str(caption["image"])).read_bytes() == (once / str(caption["image"])).read_bytes()
    render_icons(again, size=24)
    with Image.open(again / str(captions(once)[100]["image"])) as image:
        assert image.size == (24, 24)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "once"]


@needs_fonts
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="name a new folder"):
        render_icons(tmp_path)
    assert (tmp_path / "holiday.jpg").exists()


def test_a_missing_package_is_named_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qtawesome", None)
    with pytest.raises(ValueError, match=r"pip install 'pairloom\[demo\]'"):
        render_icons(tmp_path / "icons")
