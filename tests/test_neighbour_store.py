from pathlib import Path

import numpy as np

from pairloom.models.batches.relations import Relations
from pairloom.models.mining.lists import DIRECTIONS, neighbour_lists
from pairloom.storage.neighbours import NeighbourStore
from pairloom.tasks.mining.neighbours import lists_of, table_of


def table(count: int = 5) -> object:
    ids = [str(number) for number in range(count)]
    vectors = np.eye(count, dtype=np.float32)
    relations = Relations.build(ids, [None] * count, [[text] for text in ids], [None] * count)
    return table_of(neighbour_lists(vectors, vectors, relations, 6))


def test_lists_come_back_as_they_were_stored(tmp_path: Path) -> None:
    ids = [str(number) for number in range(30)]
    image_ND, text_ND = np.random.default_rng(0).standard_normal((2, 30, 4)).astype(np.float32)
    lists = neighbour_lists(
        image_ND, text_ND, Relations.build(ids, [None] * 30, [[text] for text in ids], [None] * 30), 3
    )
    store = NeighbourStore(tmp_path)
    store.write("model", 7, table_of(lists))
    stored = store.newest("model")
    assert stored is not None
    again = lists_of(stored)
    assert again.item_ids == lists.item_ids
    np.testing.assert_array_equal(again.vectors_N, lists.vectors_N)
    np.testing.assert_array_equal(again.positives_N, lists.positives_N)
    for direction in DIRECTIONS:
        np.testing.assert_array_equal(
            again.by_direction[direction].indices_QK, lists.by_direction[direction].indices_QK
        )
        np.testing.assert_array_equal(again.by_direction[direction].scores_QK, lists.by_direction[direction].scores_QK)


def test_newer_lists_take_the_place_of_all_others(tmp_path: Path) -> None:
    store = NeighbourStore(tmp_path)
    store.write("first", 1, table())
    store.write("second", 1, table())
    assert store.newest("first") is None
    store.write("second", 12, table(4))
    newest = store.newest("second")
    assert newest is not None
    assert newest.num_rows == 4
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "neighbours", "neighbours/second", "neighbours/second/000012.parquet"
    ]  # fmt: skip


def test_damaged_lists_are_as_good_as_none(tmp_path: Path) -> None:
    store = NeighbourStore(tmp_path)
    store.write("model", 1, table())
    path = next(tmp_path.rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-50])
    assert store.newest("model") is None
