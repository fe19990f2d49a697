"""Hubness: images near many texts, measured when they are published, taken off when texts are asked."""

import shutil
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pytest
from released_pipeline import NAMES, publish

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.models.evaluation import hubness as module
from pairloom.models.evaluation.hubness import hubness
from pairloom.search import nearest as querying
from pairloom.search.query import Query, corrects, query_vector, search
from pairloom.search.release import OpenRelease
from pairloom.search.sql import run_sql
from pairloom.storage.modelstore import model_digest
from pairloom.storage.releases import release_log
from pairloom.storage.training_texts import TrainingTexts
from pairloom.tasks.pipeline import Pipeline


def units(seed: int, count: int, dimension: int = 6) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(count, dimension))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    folder = tmp_path_factory.mktemp("pipeline")
    publish(folder, hubness=True)
    return OpenRelease.open(folder)


def ids(release: OpenRelease, k: int = 10, hubness: bool | None = None, where: str | None = None) -> list[str]:
    return [hit.item_id for hit in search(release, Query(text="red apple"), k=k, hubness=hubness, where=where).hits]


def slowly(release: OpenRelease, first: int = 300) -> list[str]:
    """The nearest items, the `first` of them ordered by 2 · cosine - hubness."""
    vector, rows = query_vector(release, Query(text="red apple")), release.dataset.to_table().to_pylist()
    text_TD = TrainingTexts(release.folder / "models" / release.record.model_id).vectors()
    scored = []
    for row in rows:
        near = sorted(float(np.dot(text_D, row["image_vector"])) for text_D in text_TD)[-10:]
        cosine = round(float(np.dot(vector, row["image_vector"])), 6)
        scored.append((-cosine, row["item_id"], sum(near) / 10 - 2 * cosine))
    scored.sort()
    head = sorted(scored[:first], key=lambda each: each[2])
    return [item_id for _, item_id, _ in head + scored[first:]]


def test_hubness_is_the_mean_of_the_ten_nearest_texts_and_whatever_comes_with_it_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image_ND, text_TD = units(0, 50), units(1, 40)
    found = hubness(image_ND, text_TD)
    expected = [np.mean(sorted(float(np.dot(text, image)) for text in text_TD)[-10:]) for image in image_ND]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    monkeypatch.setattr(module, "BLOCK", 100)
    order = np.random.default_rng(2).permutation(40)
    assert np.array_equal(hubness(image_ND, text_TD[order]), found)
    assert np.array_equal(np.concatenate([hubness(each[None], text_TD) for each in image_ND]), found)
    few = hubness(image_ND, text_TD[:3])
    np.testing.assert_allclose(few, (image_ND @ text_TD[:3].T).mean(axis=1), atol=1e-6)


def test_texts_find_what_a_plain_loop_with_hubness_taken_off_finds(
    release: OpenRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ids(release, k=46) == slowly(release) != ids(release, k=46, hubness=False)
    assert ids(release, k=7) == slowly(release)[:7]
    # What is further away stays as it is, however many are asked for.
    monkeypatch.setattr(querying, "CORRECTED", 12)
    assert ids(release, k=46) == slowly(release, first=12)
    assert ids(release, k=5) == slowly(release, first=12)[:5]
    nearest = ids(release, k=12, hubness=False, where="subgroup = 'Fig'")
    assert sorted(ids(release, k=12, where="subgroup = 'Fig'")) == sorted(nearest)


def test_scores_stay_the_cosines(release: OpenRelease) -> None:
    query = Query(text="red apple")
    plain = {hit.item_id: hit.score for hit in search(release, query, k=46, hubness=False).hits}
    found = search(release, query, k=46)
    assert {hit.item_id: hit.score for hit in found.hits} == plain
    assert [hit.score for hit in found.hits] != sorted(plain.values(), reverse=True)
    distances = [hit.score for hit in search(release, query, k=46, metric="euclidean").hits]
    assert distances == pytest.approx([np.sqrt(2 - 2 * hit.score) for hit in found.hits], abs=1e-4)
    rows = run_sql(release, "SELECT item_id, score FROM search('red apple', k := 9)").to_pylist()
    assert [row["item_id"] for row in rows] == [hit.item_id for hit in found.hits][:9]
    assert {row["item_id"]: row["score"] for row in rows} == {row["item_id"]: plain[row["item_id"]] for row in rows}


def test_only_queries_of_texts_are_corrected(release: OpenRelease) -> None:
    assert corrects(release, Query(text="red"))
    assert corrects(release, Query(plus=("red",), minus=("fig",)))
    assert not corrects(release, Query(like=NAMES[0]))
    assert not corrects(release, Query(text="red", like=NAMES[0]))
    assert not corrects(release, Query(text="red"), wanted=False)


def test_a_release_without_hubness_is_searched_plainly(tmp_path: Path) -> None:
    publish(tmp_path)
    plain = OpenRelease.open(tmp_path)
    assert ids(plain) == ids(plain, hubness=False)
    with pytest.raises(ValueError, match="release 1 was made without hubness"):
        ids(plain, hubness=True)


def test_training_texts_do_not_change_which_model_it_is_and_damage_to_them_is_found(tmp_path: Path) -> None:
    record = publish(tmp_path, hubness=True)
    model = tmp_path / "models" / record.model_id
    assert f"models/{record.model_id}/training_texts/words.txt" in record.model_files
    before = model_digest(model)
    (model / "training_texts" / "words.txt").write_text("other\n")
    assert model_digest(model) == before
    with pytest.raises(Exception, match=r"words\.txt"):
        OpenRelease.open(tmp_path, 1)


def test_a_night_measures_new_rows_by_the_texts_of_the_model_and_asks_as_configured(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    shutil.copytree(shapes, tmp_path / "shapes")
    captions = tmp_path / "shapes" / "captions.jsonl"
    lines = captions.read_text("utf-8").splitlines(keepends=True)
    captions.write_text("".join(lines[1:]), encoding="utf-8")
    file = write_pipelines(tmp_path, tmp_path / "shapes", retrain={"min_new_fraction": 0.9})
    corrects_hubs = "search.hubness=true"
    first = nightly(load_pipeline(file, overrides=[corrects_hubs]))
    assert first.metrics["text_to_image_corrected_recall@10"] > 0
    captions.write_text("".join(lines), encoding="utf-8")
    nightly(load_pipeline(file, overrides=["search.hubness=false"]))

    folder = load_pipeline(file).folder
    one, two = release_log(folder).read(1), release_log(folder).read(2)
    assert (one.model_id, one.hubness, two.hubness) == (two.model_id, True, False)
    rows = lance.dataset(str(folder / two.table), version=two.table_version).to_table()
    text_TD = TrainingTexts(folder / "models" / one.model_id).vectors()
    image_ND = np.stack(rows["image_vector"].to_numpy())
    assert len(rows) == 60
    assert np.array_equal(rows["hubness"].to_numpy(), hubness(image_ND, text_TD))
    words = TrainingTexts(folder / "models" / one.model_id).words()
    assert words is not None
    assert {"red", "circle"} <= words


def test_hubness_is_taken_off_of_drawings_where_nothing_is_said(tmp_path: Path) -> None:
    def corrects(architecture: str, said: bool | None = None) -> bool:
        block = {"name": "p", "root": tmp_path, "sources": [{"kind": "folder", "path": tmp_path}]}
        asked = {"model": {"architecture": architecture}, "search": {"hubness": said}}
        return Pipeline.model_validate(block | asked).corrects_hubs

    assert [corrects(name) for name in ("drawings", "drawings-pretrained", "photographs", "tiny-32")] == [
        True,
        True,
        False,
        False,
    ]
    assert corrects("tiny-32", True)
    assert not corrects("drawings", False)
