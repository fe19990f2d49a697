"""Opening a release: the current one, a given one, and the refusals."""

import shutil
from pathlib import Path

import pytest
from released_pipeline import MODEL_ID, NAMES, D, publish, save_model

from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import release_log
from pairloom.storage.table.vectors import VectorTable


def test_pipeline_without_release_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pipeline 'shoes' has no release yet: run `pairloom run -p shoes`"):
        OpenRelease.open(tmp_path / "shoes")


def test_current_release_is_opened_with_its_model(tmp_path: Path) -> None:
    publish(tmp_path)
    release = OpenRelease.open(tmp_path)
    assert release.record.number == 1
    assert release.dataset.count_rows() == len(NAMES)
    assert release.encoder.dimension == D


def test_open_release_does_not_see_later_rows(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:10])
    table = VectorTable(tmp_path / "vectors" / f"{MODEL_ID}.lance")
    table.delete([NAMES[0]])
    release = OpenRelease.open(tmp_path)
    found = search(release, Query(like=NAMES[1]), k=100)
    assert {hit.item_id for hit in found.hits} == set(NAMES[:10]) - {NAMES[1]}


def test_older_release_is_opened_by_number(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:10])
    publish(tmp_path, names=NAMES, number=2)
    assert OpenRelease.open(tmp_path).dataset.count_rows() == len(NAMES)
    assert OpenRelease.open(tmp_path, 1).dataset.count_rows() == 10
    with pytest.raises(ValueError, match="no release 9: there are 1, 2"):
        OpenRelease.open(tmp_path, 9)


def test_release_whose_table_is_another_models_is_refused(tmp_path: Path) -> None:
    record = publish(tmp_path)
    save_model(tmp_path / "models" / "tiny0002")
    other = record.model_copy(update={"model_id": "tiny0002"})
    with pytest.raises(ValueError, match="did not make its vectors"):
        OpenRelease(tmp_path, other)
    shutil.copytree(tmp_path / record.table, tmp_path / "vectors" / "tiny0002.lance")
    forged = other.model_copy(update={"table": "vectors/tiny0002.lance"})
    with pytest.raises(ValueError, match="was not made by model tiny0002"):
        OpenRelease(tmp_path, forged)


def test_release_of_another_dimension_or_version_is_refused(tmp_path: Path) -> None:
    record = publish(tmp_path)
    with pytest.raises(ValueError, match="holds vectors of length 16, release 1 says 17"):
        OpenRelease(tmp_path, record.model_copy(update={"dimension": 17}))
    with pytest.raises(ValueError, match=r"version 99 of vectors/tiny0001\.lance, which can't be opened"):
        OpenRelease(tmp_path, record.model_copy(update={"table_version": 99}))


def test_release_without_its_model_is_refused(tmp_path: Path) -> None:
    record = publish(tmp_path)
    shutil.rmtree(tmp_path / "models" / MODEL_ID)
    with pytest.raises(ValueError, match="models/tiny0001 is missing"):
        OpenRelease(tmp_path, record)
    with pytest.raises(
        DamagedError, match=r"none of the 1 releases of .* is whole: release 1 is not whole: models/tiny"
    ):
        OpenRelease.open(tmp_path)


def test_releases_of_which_none_is_whole_are_not_taken_for_none(tmp_path: Path) -> None:
    assert release_log(tmp_path).current() is None
    publish(tmp_path)
    (tmp_path / "releases" / "000001.json").write_bytes(b"{")
    with pytest.raises(DamagedError, match=r"000001\.json is damaged.*Put the files back.*move .*releases away"):
        release_log(tmp_path).current()


@pytest.mark.parametrize("name", ["README.md", "pairloom.json", "training.jsonl"])
def test_a_release_serves_without_what_is_about_its_model(tmp_path: Path, name: str) -> None:
    save_model(tmp_path / "models" / MODEL_ID)
    about = tmp_path / "models" / MODEL_ID / name
    about.write_text("about it")
    record = publish(tmp_path)
    assert f"models/{MODEL_ID}/{name}" in record.files
    about.write_text("about something else")
    assert search(OpenRelease.open(tmp_path), Query(text="red apple")).hits
    about.unlink()
    assert search(OpenRelease.open(tmp_path), Query(text="red apple")).hits


def test_a_release_whose_table_cannot_be_opened_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, names=NAMES[:10])
    second = publish(tmp_path, number=2)
    (manifest,) = (tmp_path / name for name in second.files if "/_versions/" in name)
    manifest.write_bytes(bytes(manifest.stat().st_size))
    assert OpenRelease.open(tmp_path).record.number == 1
    assert "release 2 names version" in caplog.text
    with pytest.raises(ValueError, match="which can't be opened"):
        OpenRelease.open(tmp_path, 2)
    (tmp_path / "releases" / "000001.json").unlink()
    with pytest.raises(DamagedError, match=r"no release of .* can be opened: release 2 names version"):
        OpenRelease.open(tmp_path)


def test_folder_may_move(tmp_path: Path) -> None:
    publish(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert search(OpenRelease.open(tmp_path / "there"), Query(text="red apple"), k=3).hits


def test_model_with_other_weights_of_the_same_size_is_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    weights = tmp_path / "models" / MODEL_ID / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    release = OpenRelease.open(tmp_path)
    with pytest.raises(ValueError, match="is not the one released"):
        search(release, Query(text="red"))
    assert search(release, Query(like="red apple")).hits
