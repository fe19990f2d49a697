"""The map of a release: laid out, sampled, coloured, drawn, and hits marked on it."""

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from released_pipeline import HOSTILE, NAMES, publish
from typer.testing import CliRunner

import pairloom.search.map
from pairloom.flows.cli import app
from pairloom.flows.show.report import map_section
from pairloom.models.evaluation import projection
from pairloom.models.evaluation.projection import Floats, Projection, require_method
from pairloom.search.map import ReleaseMap, labels
from pairloom.search.map_picture import COLOURS, HEIGHT, WIDTH, map_picture, plotted
from pairloom.search.query import Query
from pairloom.search.query import search as find
from pairloom.search.release import OpenRelease
from pairloom.search.sheet import contact_sheet


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    folder = tmp_path_factory.mktemp("pipelines") / "fruit"
    publish(folder)
    return OpenRelease.open(folder)


def test_pca_matches_the_two_largest_singular_vectors() -> None:
    random = np.random.default_rng(0)
    fitted_SD, other_ND = ((random.normal(size=(count, 9)) * np.arange(9)).astype(np.float32) for count in (60, 5))
    mean_D = fitted_SD.mean(axis=0)
    _, length_D, axis_DD = np.linalg.svd(fitted_SD - mean_D)
    plane = Projection(fitted_SD)
    slow_N2 = (other_ND - mean_D) @ axis_DD[:2].T
    assert np.abs(plane.place(other_ND)) == pytest.approx(np.abs(slow_N2), rel=1e-4)
    assert plane.explained == pytest.approx((length_D[:2] ** 2).sum() / (length_D**2).sum(), rel=1e-4)
    assert plane.place(other_ND[:0]).shape == (0, 2)


def test_umap_is_seeded_and_keeps_clusters_apart() -> None:
    pytest.importorskip("umap")
    random = np.random.default_rng(0)
    near_ND = (np.repeat(np.eye(3, 8), 12, axis=0) + random.normal(scale=0.02, size=(36, 8))).astype(np.float32)
    first, second = (Projection(near_ND, "umap", seed=1).place(near_ND) for _ in range(2))
    assert (first == second).all()
    centre = first.reshape(3, 12, 2).mean(axis=1)
    assert [int(np.linalg.norm(centre - point, axis=1).argmin()) for point in first] == [0] * 12 + [1] * 12 + [2] * 12


def test_umap_that_cannot_be_had_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    few: Floats = np.eye(4, dtype=np.float32)
    if importlib.util.find_spec("umap"):
        with pytest.raises(ValueError, match="more than 15 items, here are 4: take pca"):
            Projection(few, "umap")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ValueError, match=r"pip install 'pairloom\[map\]'"):
        Projection(few, "umap")


def test_umap_that_cannot_be_had_is_told_before_a_release_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_method("pca")
    monkeypatch.setattr(projection, "find_spec", lambda name: {"umap": None}[name])
    absent = ("--file", str(tmp_path / "absent.yaml"))
    for command in (["map", "--method", "umap"], ["search", "red", "--html", "hits.html", "--map", "umap"]):
        result = CliRunner().invoke(app, [*command, *absent])
        assert result.exit_code == 2
        assert "pip install 'pairloom[map]'" in result.stderr


def test_map_shows_every_item_of_a_small_release_where_it_would_be_placed(release: OpenRelease) -> None:
    drawn = ReleaseMap(release)
    assert drawn.title == f"46 images of release 1 · PCA, {drawn._projection.explained:.0%} of the variance · " + (
        "coloured by subgroup"
    )
    assert drawn.points_S2.min() >= 0
    assert drawn.points_S2.max() <= 1
    placed = drawn.place([*NAMES, "no such item", NAMES[0]])
    assert sorted(placed) == sorted(NAMES)
    assert np.array(sorted(placed.values())) == pytest.approx(np.array(sorted(drawn.points_S2.tolist())), abs=1e-5)


def test_map_reads_a_seeded_sample_only(release: OpenRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairloom.search.map, "MAX_ITEMS", 12)
    first, second, other = ReleaseMap(release), ReleaseMap(release), ReleaseMap(release, seed=1)
    assert first.title.startswith("12 of 46 images")
    assert first.thumbnails == second.thumbnails
    assert len(set(first.thumbnails)) == len(first.labels.values) == 12
    assert first.thumbnails != other.thumbnails
    assert map_picture(first) == map_picture(second)
    assert len(first.place(NAMES)) == 46


@pytest.mark.parametrize("count", [1, 2, 3])
def test_map_of_next_to_nothing_is_drawn(tmp_path: Path, count: int) -> None:
    publish(tmp_path, names=NAMES[:count])
    drawn = ReleaseMap(OpenRelease.open(tmp_path))
    assert drawn.points_S2.shape == (count, 2)
    assert len(map_picture(drawn)) > 0


def test_the_column_is_taken_whose_frequent_values_colour_most() -> None:
    sample = pa.table(
        {
            "unique": [f"u{n}" for n in range(20)],
            "one": ["same"] * 20,
            "artist": ["a", "b", None, "b"] * 5,
            "side": [True, False] * 10,
        }
    )
    chosen = labels(sample, ["unique", "one", "artist", "side"])
    assert (chosen.column, chosen.shown) == ("artist", ("b", "a", "none"))
    assert labels(sample, ["unique", "side"]).column == "side"
    assert labels(sample, ["one"]).shown == ("same",)
    many = labels(sample, ["unique", "one"])
    assert many.column == "unique"
    assert many.values.count("others") == 12


def test_colour_may_be_asked_for_and_must_exist(release: OpenRelease) -> None:
    assert ReleaseMap(release, colour="group").labels.column == "group"
    assert ReleaseMap(release, colour="tags").labels.column == "tags"
    with pytest.raises(ValueError, match="release 1 has no column 'colour' to colour by: item_id"):
        ReleaseMap(release, colour="colour")


def test_picture_shows_thumbnails_dots_and_labels_and_fits_its_size(release: OpenRelease) -> None:
    drawn = ReleaseMap(release)
    with Image.open(io.BytesIO(map_picture(drawn))) as opened:
        sheet = opened.convert("RGB")
    assert sheet.size == (WIDTH, HEIGHT)
    assert (np.asarray(sheet)[:, -150:] < 200).any()
    x, y = plotted((float(drawn.points_S2[0, 0]), float(drawn.points_S2[0, 1])))
    assert sheet.getpixel((round(x), round(y))) != (255, 255, 255)
    assert len(COLOURS) == pairloom.search.map.MAX_LABELS
    assert len(map_picture(drawn, max_bytes=12_000)) <= 12_000


def test_page_marks_hits_on_the_map_and_names_them_escaped(release: OpenRelease) -> None:
    queries = [(text, find(release, Query(text=text), k=46)) for text in (HOSTILE[4], "fig")]
    page = contact_sheet(queries, release_map=ReleaseMap(release))
    assert page.count("<circle") == 92
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; · 1 · " in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<svg" not in contact_sheet(queries)


def test_report_has_the_map_as_a_picture(release: OpenRelease) -> None:
    title, _, about, _, picture, _ = map_section(release)
    assert title == "## Map"
    assert about.startswith("46 images")
    assert picture.startswith("![Like images lie near one another](data:image/webp;base64,")
    assert len(picture) < 300_000


def test_command_writes_the_map(release: OpenRelease, tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    file.write_text("root: .\npipelines: {fruit: {sources: [{kind: folder, path: .}]}}\n")
    given = ["--file", str(file), "--root", str(release.folder.parent)]
    done = CliRunner().invoke(app, ["map", "--out", str(tmp_path / "map.webp"), "--colour", "group", *given])
    assert done.exit_code == 0, done.output
    assert "coloured by group" in done.output
    assert (tmp_path / "map.webp").read_bytes() == map_picture(ReleaseMap(release, colour="group"))
    assert CliRunner().invoke(app, ["map", "--out", str(tmp_path / "map.png"), *given]).exit_code == 2
