"""Neighbour lists that follow a collection, against lists computed anew."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from pairloom.models.batches.relations import KINDS, Edges, Relations
from pairloom.models.mining import lists
from pairloom.models.mining.lists import DIRECTIONS, NeighbourLists, merge, neighbour_lists
from pairloom.models.mining.neighbours import Neighbours, nearest
from pairloom.models.mining.positives import KnownPositives

K = 8


@dataclass(frozen=True)
class Collection:
    """Items in their order, with vectors that meet in clusters and in equal vectors."""

    names: list[str]
    groups: list[str | None]
    texts: list[list[str]]
    image_ND: np.ndarray
    text_ND: np.ndarray
    edges: tuple[tuple[str, str], ...] = ()

    @property
    def relations(self) -> Relations:
        built = Relations.build(self.names, self.groups, self.texts, [None] * len(self.names))
        row = {name: number for number, name in enumerate(self.names)}
        pairs = np.array([(row[a], row[b]) for a, b in self.edges], dtype=np.int64).reshape(-1, 2)
        kinds = np.full(len(pairs), KINDS.index("near_duplicate"), dtype=np.int8)
        return built.with_edges(Edges(pairs[:, 0], pairs[:, 1], kinds, np.ones(len(pairs), dtype=np.float32)))

    def lists(self, old: NeighbourLists | None = None) -> NeighbourLists:
        return neighbour_lists(self.image_ND, self.text_ND, self.relations, K, old=old)

    def at(self, rows: np.ndarray) -> "Collection":
        return replace(
            self,
            names=[self.names[row] for row in rows],
            groups=[self.groups[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            image_ND=self.image_ND[rows],
            text_ND=self.text_ND[rows],
        )


def vectors(count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    vector_ND = generator.standard_normal((12, 24))[generator.integers(12, size=count)]
    vector_ND = vector_ND + 0.1 * generator.standard_normal((count, 24))
    vector_ND[::5] = vector_ND[0]  # ties
    return np.ascontiguousarray(vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True), dtype=np.float32)


def collection(count: int = 400) -> Collection:
    groups = [str(number % 90) if number % 3 else None for number in range(count)]
    texts = [[f"text {number % 150}", f"word {number % 7 if number % 11 == 0 else number}"] for number in range(count)]
    names = [f"item {number}" for number in range(count)]
    return Collection(names, groups, texts, vectors(count, 0), vectors(count, 1))


def same(first: NeighbourLists, second: NeighbourLists) -> bool:
    return (
        first.item_ids == second.item_ids
        and np.array_equal(first.positives_N, second.positives_N)
        and all(
            np.array_equal(first.by_direction[each].indices_QK, second.by_direction[each].indices_QK)
            and np.array_equal(first.by_direction[each].scores_QK, second.by_direction[each].scores_QK)
            for each in DIRECTIONS
        )
    )


def test_known_positives_match_nested_loops() -> None:
    found = collection(120)
    relations = replace(found, edges=(("item 1", "item 50"), ("item 7", "item 8"))).relations
    rows = np.array([5, 1, 50, 0, 119, 5])
    image_text_NT = relations.text_mask(np.arange(120), np.arange(len(relations.texts)))
    expected = [
        [
            bool(
                relations.positive_mask(np.array([i]), np.array([j])).item()
                or image_text_NT[i, relations.item_texts[j]].any()
                or image_text_NT[j, relations.item_texts[i]].any()
            )
            for j in range(120)
        ]
        for i in rows
    ]
    assert KnownPositives(relations).of(rows).toarray().tolist() == expected


def test_merging_keeps_the_best_of_both() -> None:
    query, candidate = vectors(30, 2), vectors(200, 3)
    first, second = nearest(query, candidate[:120], 6), nearest(query, candidate[120:], 6)
    merged, whole = (
        merge(first, Neighbours(second.indices_QK + np.int32(120), second.scores_QK), 6),
        nearest(query, candidate, 6),
    )
    assert np.array_equal(merged.indices_QK, whole.indices_QK)
    assert np.array_equal(merged.scores_QK, whole.scores_QK)


@pytest.mark.parametrize("change", ["added", "removed", "updated", "all of it", "nothing", "everything gone"])
def test_lists_that_follow_a_change_equal_lists_computed_anew_to_the_bit(change: str) -> None:
    whole = collection()
    before, after = whole.at(np.arange(340)), whole.at(np.arange(340))
    if change == "added":
        after = whole
    elif change == "removed":
        after = whole.at(np.delete(np.arange(340), [0, 3, 5, 77, 339]))
    elif change == "updated":
        # What is updated comes last, as in the corpus.
        after = whole.at(np.concatenate([np.delete(np.arange(340), [4, 10, 200]), [4, 10, 200]]))
        after.image_ND[-3:] = vectors(3, 9)
    elif change == "all of it":
        after = whole.at(
            np.concatenate([np.delete(np.arange(340), [0, 4, 10, 200, 300]), [4, 10], np.arange(340, 400)])
        )
        after.text_ND[-62:-60] = vectors(2, 9)
    elif change == "everything gone":
        before, after = whole.at(np.arange(100)), whole.at(np.arange(100, 400))
    assert same(after.lists(before.lists()), after.lists())


def test_positives_that_come_and_go_between_old_items_are_noticed() -> None:
    plain = collection(200)
    paired = replace(plain, edges=(("item 1", "item 2"), ("item 4", "item 100")))
    regrouped = replace(plain, groups=["one", "one", *plain.groups[2:]])
    for before, after in [(plain, paired), (paired, plain), (plain, regrouped), (regrouped, plain)]:
        assert same(after.lists(before.lists()), after.lists())


def test_items_in_another_order_are_computed_anew() -> None:
    plain = collection(200)
    turned = plain.at(np.arange(200)[::-1])
    assert same(turned.lists(plain.lists()), turned.lists())


def test_only_what_changed_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = collection()
    old = whole.at(np.arange(390)).lists()
    products = []

    def counted(query: np.ndarray, candidate: np.ndarray, *rest: object, **options: object) -> Neighbours:
        products.append(len(query) * len(candidate))
        return nearest(query, candidate, *rest, **options)  # type: ignore[arg-type]  # passed on as they come

    monkeypatch.setattr(lists, "nearest", counted)
    whole.lists(old)
    assert sum(products) < 3 * (390 * 10 + 10 * 400 + 12 * 400)


def test_progress_reaches_the_whole() -> None:
    shares: list[float] = []
    found = collection(100)
    neighbour_lists(found.image_ND, found.text_ND, found.relations, 3, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
