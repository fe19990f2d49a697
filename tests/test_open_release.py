"""Opening a release: the current one, a given one, and the refusals."""

import json
import os
import shutil
from pathlib import Path

import pytest
from released_pipeline import MODEL_ID, NAMES, D, publish, save_model

from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.files import DamagedError, FileDigest
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
    with pytest.raises(DamagedError, match="models/tiny0001 is missing"):
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


def flip(path: Path, *, late: bool = False) -> None:
    """Change one bit of a file in its middle, or at its end."""
    content = bytearray(path.read_bytes())
    content[-1 if late else len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["/_versions/", "/data/", "/open_clip_model.safetensors", "/open_clip_config.json"])
def test_a_release_of_which_a_bit_has_changed_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    first = publish(tmp_path, names=NAMES[:10])
    second = publish(tmp_path, number=2)
    own = [name for name in second.files if kind in name and name not in first.files]
    name = next(iter(own), None) or next(name for name in second.files if kind in name)
    flip(tmp_path / name)
    if name in first.files:
        with pytest.raises(DamagedError, match=r"no release of .* can be opened: release 2 is not whole: .* release 1"):
            OpenRelease.open(tmp_path)
    else:
        assert OpenRelease.open(tmp_path).record.number == 1
    assert f"release 2 is not whole: {name} has other contents than recorded" in caplog.text
    with pytest.raises(DamagedError, match="release 2 is not whole"):
        OpenRelease.open(tmp_path, 2)


def test_what_a_reader_has_read_through_is_read_again_once_it_is_touched_or_a_week_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = publish(tmp_path)
    read: list[Path] = []
    digest_of = FileDigest.of

    def noted(path: Path) -> FileDigest:
        read.append(path)
        return digest_of(path)

    monkeypatch.setattr(FileDigest, "of", noted)
    OpenRelease.open(tmp_path)
    assert len(read) == len(set(read)) == len(record.needed)
    read.clear()
    OpenRelease.open(tmp_path)
    assert read == []
    (data,) = (tmp_path / name for name in record.files if "/data/" in name)
    os.utime(data)
    OpenRelease.open(tmp_path)
    assert read == [data]
    read.clear()
    checked = tmp_path / "checked.json"
    long_ago = {name: [*seen[:-1], seen[-1] - 8 * 86_400] for name, seen in json.loads(checked.read_bytes()).items()}
    checked.write_text(json.dumps(long_ago))
    OpenRelease.open(tmp_path)
    assert len(read) == len(record.needed)
    checked.write_bytes(b"{not JSON")
    assert OpenRelease.open(tmp_path).record.number == 1


def test_a_reader_that_may_not_write_reads_all_the_same(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "checked.json").mkdir()  # nobody can write that file
    assert OpenRelease.open(tmp_path).record.number == 1
    flip(tmp_path / "models" / MODEL_ID / "open_clip_model.safetensors", late=True)
    with pytest.raises(DamagedError, match="other contents"):
        OpenRelease.open(tmp_path)


def test_folder_may_move(tmp_path: Path) -> None:
    publish(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert search(OpenRelease.open(tmp_path / "there"), Query(text="red apple"), k=3).hits


def test_a_model_that_changes_after_its_release_was_opened_embeds_nothing(tmp_path: Path) -> None:
    publish(tmp_path)
    release = OpenRelease.open(tmp_path)
    flip(tmp_path / "models" / MODEL_ID / "open_clip_model.safetensors", late=True)
    with pytest.raises(DamagedError, match="release 1 is not whole"):
        search(release, Query(text="red"))
    assert search(release, Query(like="red apple")).hits
