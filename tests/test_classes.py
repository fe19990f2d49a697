"""Added classes as stored: numbered changes that survive races, damage that is named, pictures that are taken back."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pairloom.storage.classes import ClassStore, content_digest
from pairloom.storage.files import DamagedError

RECORD = "000001.json"


def contents(store: ClassStore, column: str = "group") -> dict[str, list[bytes]]:
    return {name: list(images.values()) for name, images in store.examples(column).items()}


def test_the_same_name_twice_adds_examples_and_the_same_image_counts_once(tmp_path: Path) -> None:
    store = ClassStore(tmp_path)
    assert store.add("group", "fig", [b"1", b"2", b"1"]) == 2
    assert store.add("group", " fig ", [b"2", b"\xff\x00"]) == 1
    assert store.add("group", "fig", [b"1"]) == 0
    assert store.add("artist", "fig", [b"9"]) == 1
    assert contents(ClassStore(tmp_path)) == {"fig": [b"1", b"2", b"\xff\x00"]}
    assert contents(store, "artist") == {"fig": [b"9"]}
    assert store.examples("group")["fig"][content_digest(b"2")] == b"2"


def test_removing_a_class_deletes_its_pictures_and_vectors_and_no_other(tmp_path: Path) -> None:
    store = ClassStore(tmp_path)
    for column, name in ("group", "fig"), ("group", "kiwi"), ("artist", "fig"):
        store.add(column, name, [b"picture of " + name.encode()])
    store.keep_vectors("m", {"digest": np.ones(2, np.float32)})
    assert store.remove("group", "fig") == 1
    assert contents(store) == {"kiwi": [b"picture of kiwi"]}
    assert contents(store, "artist") == {"fig": [b"picture of fig"]}
    assert not (tmp_path / "classes" / "examples" / RECORD).exists()
    assert store.vectors("m") == {}
    assert store.add("group", "fig", [b"again"]) == 1
    assert contents(store)["fig"] == [b"again"]
    with pytest.raises(ValueError, match="no class 'pear' was added to column 'group': there are 'fig', 'kiwi'"):
        store.remove("group", "pear")


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: ClassStore(tmp_path).add("group", f"c{number % 3}", [b"%d" % number]), range(24)))
    found = contents(ClassStore(tmp_path))
    assert {name: sorted(images, key=int) for name, images in found.items()} == {
        f"c{name}": [b"%d" % number for number in range(name, 24, 3)] for name in range(3)
    }


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "\x1b[31mred", "x" * 201])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a class"):
        ClassStore(tmp_path).add("group", name, [b"1"])
    assert not (tmp_path / "classes").exists()


def test_a_damaged_record_is_named_with_what_to_do(tmp_path: Path) -> None:
    store = ClassStore(tmp_path)
    store.add("group", "fig", [b"1"])
    path = tmp_path / "classes" / "examples" / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": ["AAAA"]}))
    with pytest.raises(DamagedError, match=rf"{RECORD} is damaged.*remove that file and add its images again"):
        store.examples("group")


def test_vectors_are_kept_for_the_last_model_and_damage_means_none(tmp_path: Path) -> None:
    store = ClassStore(tmp_path)
    vectors = {"a": np.array([0.6, 0.8], np.float32), "b": np.array([1, 0], np.float32)}
    store.keep_vectors("old", vectors)
    assert {digest: vector.tolist() for digest, vector in store.vectors("old").items()} == {
        digest: vector.tolist() for digest, vector in vectors.items()
    }
    store.keep_vectors("new", vectors)
    assert store.vectors("old") == {}
    (tmp_path / "classes" / "vectors" / "new.parquet").write_bytes(b"PAR1")
    assert store.vectors("new") == {}
