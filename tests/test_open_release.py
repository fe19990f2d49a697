"""Opening a release: the current one, a given one, the refusals; and following releases with an index."""

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from released_pipeline import MODEL_ID, NAMES, D, item_rows, publish, save_model

from pairloom.models.encoder import Encoder
from pairloom.search.index import Index
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.files import DamagedError, FileDigest
from pairloom.storage.garbage import collect_garbage
from pairloom.storage.releases import Release, ReleaseLog, release_log, roll_back
from pairloom.storage.retention import RetentionConfig
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


def test_an_index_goes_to_the_newest_release_when_told_to_and_never_back(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:10])
    index = Index.open(tmp_path)
    assert index.refresh() == 1
    publish(tmp_path, names=NAMES[:20], number=2)
    publish(tmp_path, number=3)
    assert (index.search("red apple", k=100).release, len(index.search("red apple", k=100).hits)) == (1, 10)
    assert index.refresh() == 3
    found = index.search("red apple", k=100)
    assert (found.release, len(found.hits)) == (3, len(NAMES))
    (tmp_path / "releases" / "000003.json").unlink()
    assert index.refresh() == index.release == 3


def test_every_answer_names_the_release_it_is_of(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:10])
    index = Index.open(tmp_path)
    publish(tmp_path, number=2)
    for number, count in ((1, 10), (2, len(NAMES))):
        answer = index.sql("SELECT count(*) AS n FROM items")
        assert (answer.release, answer.model_id, answer.rows.to_pylist()) == (number, MODEL_ID, [{"n": count}])
        assert search(index, Query(text="red")).release == index.search("red").release == number
        index.refresh()


def test_a_rollback_is_a_newer_release_with_the_same_loaded_model(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:10])
    publish(tmp_path, number=2)
    index = Index.open(tmp_path)
    encoder, tower = index.encoder, index.current.model
    roll_back(tmp_path, 1)
    assert index.refresh() == 3
    assert len(index.search("red apple", k=100).hits) == 10
    assert index.encoder is encoder
    assert index.current.model is tower


def test_another_model_is_loaded_with_its_release(tmp_path: Path) -> None:
    record = publish(tmp_path)
    index = Index.open(tmp_path)
    first = index.embed_texts(["red"])
    weights = next((tmp_path / "models" / MODEL_ID).glob("*.safetensors"))
    other = bytearray(weights.read_bytes())
    other[-4:] = np.float32(0.5).tobytes()
    weights.write_bytes(other)
    files = record.files | {name: FileDigest.of(tmp_path / name) for name in record.model_files}
    release_log(tmp_path).publish(record.model_copy(update={"number": 2, "files": files}))
    encoder = index.encoder
    assert index.refresh() == 2
    assert index.encoder is not encoder
    assert index.embed_texts(["red"]).shape == first.shape


def test_a_damaged_newer_release_is_passed_over_with_one_warning_until_it_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, names=NAMES[:10])
    index = Index.open(tmp_path)
    second = publish(tmp_path, number=2)
    path = tmp_path / "releases" / "000002.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [index.refresh() for _ in range(3)] == [1, 1, 1]
    assert caplog.text.count("000002.json is damaged") == 1
    path.write_bytes(whole)
    (manifest,) = (tmp_path / name for name in second.files if "/_versions/" in name)
    content = manifest.read_bytes()
    manifest.write_bytes(bytes(len(content)))
    assert [index.refresh() for _ in range(3)] == [1, 1, 1]
    assert caplog.text.count("release 2 is not whole") == 1
    assert index.search("red").release == 1
    manifest.write_bytes(content)
    assert index.refresh() == 2


def test_an_index_opened_at_a_release_stays_there(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:10])
    publish(tmp_path, number=2)
    index = Index.open(tmp_path, 1)
    with pytest.raises(ValueError, match="opened at release 1 and stays there"):
        index.refresh()
    assert len(index.search("red", k=100).hits) == 10


def test_a_release_whose_files_are_cleaned_up_says_to_refresh(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:10])
    index, pinned = Index.open(tmp_path), Index.open(tmp_path, 1)
    table = VectorTable(tmp_path / "vectors" / f"{MODEL_ID}.lance")
    table.delete(NAMES[:10])
    table.upsert(item_rows(index.encoder, NAMES[10:20]))
    publish(tmp_path, names=NAMES[10:20], number=2)
    collect_garbage(tmp_path, RetentionConfig(releases=1, grace_hours=0), ())
    for ask in (lambda: index.search("red"), lambda: index.sql("SELECT * FROM items")):
        with pytest.raises(DamagedError, match=r"release 1 is no longer whole: .* is missing.*refresh\(\) goes to"):
            ask()
    with pytest.raises(DamagedError, match="open another release"):
        pinned.search("red")
    with pytest.raises(ValueError, match="nothing to search for"):
        Index.open(tmp_path).search(Query())
    assert index.refresh() == 2
    assert {hit.item_id for hit in index.search("red", k=100).hits} == set(NAMES[10:20])


def test_a_release_that_was_cleaned_up_while_it_was_opened_gives_way_to_the_one_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, names=NAMES[:10])
    read = ReleaseLog.read

    def read_late(log: ReleaseLog, number: int) -> Release:
        if number == 1:
            monkeypatch.setattr(ReleaseLog, "read", read)
            publish(tmp_path, number=2)
            (tmp_path / "releases" / "000001.json").unlink()
        return read(log, number)

    monkeypatch.setattr(ReleaseLog, "read", read_late)
    assert OpenRelease.open(tmp_path).record.number == 2


def test_threads_get_answers_of_one_release_each_beside_publishes_rollbacks_and_clean_ups(tmp_path: Path) -> None:
    """Release N has 2 N names, a rollback those of its target: their count tells which release an answer is of."""
    publish(tmp_path, names=NAMES[:2])
    index = Index.open(tmp_path)
    index.encoder  # noqa: B018  # as in a service that has answered before
    found: list[list[tuple[int, int]]] = [[] for _ in range(2)]
    expected, ended = {1: 2}, threading.Event()

    def ask(own: list[tuple[int, int]]) -> None:
        while not ended.is_set():
            answer = index.search(Query(text="red", plus=("a brown pear of another length",)), k=100)
            own.append((answer.release, len(answer.hits)))
            result = index.sql("SELECT count(*) AS n FROM items")
            own.append((result.release, result.rows["n"][0].as_py()))

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, own) for own in found]
        try:
            for number in range(2, 8):
                if number in (4, 7):
                    assert roll_back(tmp_path, number - 2).number == number
                    expected[number] = expected[number - 2]
                else:
                    publish(tmp_path, names=NAMES[: 2 * number], number=number)
                    expected[number] = 2 * number
                assert index.refresh() == number
                collect_garbage(tmp_path, RetentionConfig(releases=3, grace_hours=0), ())
        finally:
            ended.set()
        for each in asked:
            each.result()
    for own in found:
        assert own == sorted(own, key=lambda answer: answer[0])
        assert {*own} <= {*expected.items()}
    assert index.release == 7


def test_threads_embed_texts_of_different_lengths_alike(tmp_path: Path) -> None:
    save_model(tmp_path / MODEL_ID)
    encoder = Encoder.load(tmp_path / MODEL_ID)
    texts = ["red", "a text of rather more words than one", "two words"]
    alone = [encoder.embed_texts([text]) for text in texts]
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: [encoder.embed_texts([text]) for text in texts], range(60)):
            np.testing.assert_array_equal(found, alone)
