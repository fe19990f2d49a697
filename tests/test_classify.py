"""Classifying images by a release's groups and by added classes, against plain loops over its table."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from released_pipeline import HOSTILE, MODEL_ID, NAMES, item_rows, picture, publish
from typer.testing import CliRunner, Result

from pairloom.flows.cli import app
from pairloom.models.evaluation.prototypes import choose_threshold, class_sums, held_out
from pairloom.search.classify import Classes, add_examples, classify
from pairloom.search.query import Query, query_vector
from pairloom.search.release import OpenRelease
from pairloom.storage.classes import ClassStore
from pairloom.storage.table.vectors import VectorTable


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    """Shared: nothing may be added to it."""
    folder = tmp_path_factory.mktemp("pipeline")
    publish(folder)
    return OpenRelease.open(folder)


@pytest.fixture
def release(tmp_path: Path) -> OpenRelease:
    publish(tmp_path / "shapes")
    return OpenRelease.open(tmp_path / "shapes")


def pictures(folder: Path, *numbers: int) -> list[Path]:
    paths = [folder / f"{number}.png" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        path.write_bytes(picture(number))
    return paths


def slow_scores(release: OpenRelease, path: Path, column: str, added: dict[str, list[Path]]) -> list[tuple[float, str]]:
    """Every class with its similarity, best first."""
    vectors: dict[str, list[np.ndarray]] = {}
    for row in release.dataset.to_table().to_pylist():
        if row[column] is not None:
            vectors.setdefault(row[column], []).append(np.array(row["image_vector"]))
    for name, images in added.items():
        vectors.setdefault(name, []).extend(query_vector(release, Query(image=image)) for image in images)
    asked = query_vector(release, Query(image=path))
    scores = []
    for name, own in vectors.items():
        mean = np.mean(own, axis=0)
        scores.append((float(asked @ mean / np.linalg.norm(mean)), name))
    return sorted(scores, reverse=True)


@pytest.mark.parametrize("column", ["group", "subgroup"])
def test_classes_match_a_plain_loop(released: OpenRelease, tmp_path: Path, column: str) -> None:
    paths = pictures(tmp_path, 3, 17, 200, 201)
    found = classify(released, paths, column=column, threshold=0.9)
    for path, told in zip(paths, found.images, strict=True):
        (score, best), (second_score, second), *_ = slow_scores(released, path, column, {})
        assert (told.image, told.nearest, told.second) == (str(path), best, second)
        assert (told.score, told.second_score) == pytest.approx((score, second_score), abs=1e-5)
        assert told.name == (best if score >= 0.9 else None)


def test_an_added_class_matches_a_plain_loop_and_is_told(release: OpenRelease, tmp_path: Path) -> None:
    examples = pictures(tmp_path, 300, 301, 302)
    assert add_examples(release, "kiwi", examples).model_dump() == {"name": "kiwi", "items": 0, "examples": 3}
    assert add_examples(release, "fig", examples[:1]).examples == 1
    added = {"kiwi": examples, "fig": examples[:1]}
    for path in [*examples, *pictures(tmp_path, 5, 400)]:
        (told,) = classify(release, [path], threshold=-1).images
        (score, best), (_, second), *_ = slow_scores(release, path, "group", added)
        assert (told.name, told.second) == (best, second)
        assert told.score == pytest.approx(score, abs=1e-5)
    assert all(told.name != "kiwi" for told in classify(release, examples, column="subgroup", threshold=-1).images)


def test_the_threshold_is_chosen_on_the_validation_items_alone(released: OpenRelease) -> None:
    rows = released.dataset.to_table().to_pylist()
    names = sorted({row["group"] for row in rows})
    image_ND = np.array([row["image_vector"] for row in rows], np.float32)
    class_N = np.array([names.index(row["group"]) for row in rows])
    val = np.array([row["split"] == "val" for row in rows])
    sums, counts = class_sums(image_ND, class_N, len(names)), np.bincount(class_N)
    expected = choose_threshold(held_out(image_ND[val], class_N[val], sums, counts))
    found = Classes(released).threshold
    assert found.value == pytest.approx(expected.value, abs=1e-6)
    assert found.choice == expected.choice
    assert found.choice is not None
    assert found.choice.images == val.sum()


def test_of_many_validation_items_some_are_drawn(released: OpenRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairloom.search.classify.MAX_VALIDATION", 14)
    assert Classes(released).threshold == Classes(released).threshold
    choice = Classes(released).threshold.choice
    assert choice is not None
    assert choice.images == 14


def test_which_are_drawn_does_not_depend_on_the_order_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairloom.search.classify.MAX_VALIDATION", 14)
    found = []
    for folder, order in (("one", 1), ("other", -1)):
        publish(tmp_path / folder, names=NAMES[:5])
        release = OpenRelease.open(tmp_path / folder)
        rows = item_rows(release.encoder, NAMES).take(np.arange(len(NAMES))[::order])
        table = VectorTable(release.folder / "vectors" / f"{MODEL_ID}.lance")
        table.upsert(rows)
        record = release.record.model_copy(update={"table_version": table.version, "rows": len(NAMES)})
        found.append(Classes(OpenRelease(release.folder, record)).threshold)
    assert found[0].value == pytest.approx(found[1].value, abs=1e-6)
    assert found[0].choice == found[1].choice


def test_an_image_far_from_every_class_is_unknown(released: OpenRelease, tmp_path: Path) -> None:
    (told,) = classify(released, pictures(tmp_path, 7), threshold=1.0).images
    assert told.name is None
    assert told.nearest in Classes(released).names


def test_another_model_embeds_the_examples_again(release: OpenRelease, tmp_path: Path) -> None:
    add_examples(release, "kiwi", pictures(tmp_path, 300, 301))
    before = classify(release, pictures(tmp_path, 300), threshold=-1)
    store = ClassStore(release.folder)
    assert len(store.vectors(MODEL_ID)) == 2
    # What an earlier model has left is of no use to this one.
    kept = release.folder / "classes" / "vectors" / f"{MODEL_ID}.parquet"
    kept.rename(kept.with_stem("earlier"))
    assert classify(release, pictures(tmp_path, 300), threshold=-1) == before
    assert [path.stem for path in kept.parent.iterdir()] == [MODEL_ID]


def test_kept_vectors_spare_the_encoder(release: OpenRelease, tmp_path: Path) -> None:
    add_examples(release, "kiwi", pictures(tmp_path, 300, 301))
    first = Classes(release).mean_directions
    again = Classes(OpenRelease.open(release.folder))
    assert np.array_equal(again.mean_directions, first)
    assert "encoder" not in again.release.__dict__


def test_examples_are_stored_as_ingest_would_store_them(release: OpenRelease, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.new("RGBA", (400, 200), (0, 0, 255, 0)).save(large)
    add_examples(release, "kiwi", [large])
    (content,) = ClassStore(release.folder).examples("group")["kiwi"].values()
    with Image.open(io.BytesIO(content)) as stored:
        assert (stored.size, stored.mode) == ((16, 8), "RGB")
        assert stored.getpixel((0, 0)) == (255, 255, 255)


def test_every_bad_image_is_named_and_none_is_added(release: OpenRelease, tmp_path: Path) -> None:
    (good,) = pictures(tmp_path, 300)
    (tmp_path / "text.png").write_text("no picture")
    bad = [tmp_path / "text.png", good, tmp_path / "absent.png"]
    for ask in (lambda: add_examples(release, "kiwi", bad), lambda: classify(release, bad)):
        with pytest.raises(ValueError, match=r"text\.png: no picture .*; image .*absent\.png: there is no such file"):
            ask()
    assert not (release.folder / "classes").exists()


@pytest.mark.parametrize("column", ["price", "tags", "item_id", "nothing"])
def test_a_column_that_holds_no_classes_is_refused(released: OpenRelease, tmp_path: Path, column: str) -> None:
    with pytest.raises(ValueError, match=f"column '{column}' can't hold classes: those of strings are group, subgroup"):
        add_examples(released, "kiwi", pictures(tmp_path, 1), column=column)


def test_without_validation_items_a_threshold_must_be_given(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:1])
    release = OpenRelease.open(tmp_path)
    with pytest.raises(ValueError, match=r"no threshold can be chosen on release 1 by column 'group'.*--threshold"):
        classify(release, pictures(tmp_path, 0))
    assert classify(release, pictures(tmp_path, 0), threshold=0.5).images[0].name == "apple"
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        classify(release, pictures(tmp_path, 0), threshold=1.5)


def test_a_release_without_classes_says_so_until_one_is_added(tmp_path: Path) -> None:
    publish(tmp_path, names=[])
    release = OpenRelease.open(tmp_path)
    with pytest.raises(ValueError, match=r"release 1 knows no class: its column 'group' is empty; name another"):
        classify(release, pictures(tmp_path, 0))
    with pytest.raises(ValueError, match="no threshold can be chosen"):
        _ = Classes(release).threshold
    add_examples(release, "kiwi", pictures(tmp_path, 0))
    (told,) = classify(release, pictures(tmp_path, 0), threshold=0.9).images
    assert (told.name, told.second, told.second_score) == ("kiwi", None, None)


def test_examples_of_two_columns_share_the_kept_vectors(release: OpenRelease, tmp_path: Path) -> None:
    add_examples(release, "kiwi", pictures(tmp_path, 300))
    add_examples(release, "Kiwi", pictures(tmp_path, 301), column="subgroup")
    for column in ("group", "subgroup"):
        classify(release, pictures(tmp_path, 0), column=column)
    assert len(ClassStore(release.folder).vectors(MODEL_ID)) == 2


def command(root: Path, *arguments: str) -> Result:
    file = root / "pipelines.yaml"
    file.write_text("pipelines: {shapes: {}}")
    options = ["--file", str(file), "--root", str(root)]
    return CliRunner().invoke(app, [*arguments, *options], env={"COLUMNS": "200"})


@pytest.mark.usefixtures("release")
def test_the_command_line_adds_lists_classifies_and_removes(tmp_path: Path) -> None:
    hostile = HOSTILE[4]
    one, two, three = map(str, pictures(tmp_path, 300, 301, 500))
    added = command(tmp_path, "classes", "add", hostile, one, two, "--json")
    assert json.loads(added.stdout)["examples"] == 2
    listed = json.loads(command(tmp_path, "classes", "--json").stdout)
    assert {"name": "apple", "items": 8, "examples": 0} in listed
    assert [row["examples"] for row in listed if row["name"] == hostile] == [2]
    found = json.loads(command(tmp_path, "classify", one, three, "--threshold", "0.999", "--json").stdout)
    assert list(found) == ["release", "model_id", "column", "threshold", "images"]
    assert list(found["images"][0]) == ["image", "class", "score", "nearest", "second", "second_score"]
    shown = command(tmp_path, "classify", one, three, "--threshold", "1")
    assert shown.exit_code == 0
    assert "unknown" in shown.stdout
    assert json.loads(command(tmp_path, "classes", "remove", hostile, "--json").stdout)["removed"] == 2
    assert all(
        row["name"] != hostile or row["items"] for row in json.loads(command(tmp_path, "classes", "--json").stdout)
    )


@pytest.mark.usefixtures("release")
def test_bad_use_of_the_command_line_is_one_clear_line(tmp_path: Path) -> None:
    for said, arguments in (
        ("image absent.png: there is no such file", ["classify", "absent.png"]),
        ("no class 'kiwi' was added to column 'group': there are none", ["classes", "remove", "kiwi"]),
        ("'two\\nlines' is no name for a class", ["classes", "add", "two\nlines", "absent.png"]),
    ):
        result = command(tmp_path, *arguments)
        assert result.exit_code == 2
        assert [line for line in result.stderr.splitlines() if line.startswith(f"error: {said}")]
    early = CliRunner().invoke(app, ["classes", "-p", "shapes", "add", "kiwi", "a.png"])
    assert early.exit_code == 2
    assert "options come after `add`" in early.output
