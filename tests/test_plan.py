from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pairloom.models.arrays import Indices
from pairloom.models.batches.pairs import ItemPairs
from pairloom.models.batches.partners import Partners
from pairloom.models.batches.plan import Batch, BatchPlan
from pairloom.models.batches.relations import Edges, Relations
from pairloom.models.ragged import Ragged

lists = st.lists(st.lists(st.integers(0, 9), max_size=4).map(lambda own: np.array(own, np.int64)), max_size=8)


@given(lists=lists, data=st.data())
@settings(deadline=None)
def test_ragged_lists_are_the_lists_that_they_were_made_of(lists: list[Indices], data: st.DataObject) -> None:
    ragged = Ragged.of(lists)
    assert [own.tolist() for own in ragged] == [own.tolist() for own in lists]
    assert [ragged[row].tolist() for row in range(len(lists))] == [own.tolist() for own in lists]
    assert ragged.owners.tolist() == [row for row, own in enumerate(lists) for _ in own]
    rows = data.draw(st.lists(st.sampled_from(range(len(lists))), max_size=9)) if lists else []
    taken = ragged.take(np.array(rows, np.int64))
    assert [own.tolist() for own in taken] == [lists[row].tolist() for row in rows]
    assert ragged.counts_of(np.array(rows, np.int64)).tolist() == [len(lists[row]) for row in rows]


def drawn_one_by_one(plan: BatchPlan, step: int) -> tuple[list[int], list[int]]:
    """The batch of a plan without partners, item after item."""
    count = len(plan.item_texts)
    size = min(plan.batch_size, count)
    hard = 0 if plan.negatives_NK is None else int(size * plan.hard_fraction)
    per_epoch = max(count // (size - hard), 1)
    order = np.random.default_rng([plan.seed, 0, step // per_epoch]).permutation(count)
    items = order[step % per_epoch * (size - hard) :][: size - hard].tolist()
    random = np.random.default_rng([plan.seed, 1, step])
    if plan.negatives_NK is not None and hard:
        mined = random.permuted(plan.negatives_NK[random.permutation(items)].astype(np.int64), axis=1)
        candidates = [int(each) for each in mined.T.ravel() if each >= 0]
        candidates += (
            random.permutation(count) if count < 8 * size else random.integers(count, size=4 * hard)
        ).tolist()
        for each in candidates:
            if len(items) < size and each not in items:
                items.append(each)
    return items, [int(plan.item_texts[item][random.integers(len(plan.item_texts[item]))]) for item in items]


@given(
    counts=st.lists(st.integers(1, 5), min_size=2, max_size=40),
    mined=st.integers(1, 6),
    batch_size=st.integers(2, 24),
    hard_fraction=st.sampled_from([0.0, 0.25, 0.6]),
    seed=st.integers(0, 5),
    step=st.integers(0, 50),
)
@settings(deadline=None)
def test_a_batch_is_that_of_drawing_item_after_item(
    counts: list[int], mined: int, batch_size: int, hard_fraction: float, seed: int, step: int
) -> None:
    texts = Ragged.cut(np.arange(sum(counts))[::-1], np.array(counts))
    negatives_NK = np.random.default_rng(seed).integers(-1, len(counts), (len(counts), mined)).astype(np.int32)
    plan = BatchPlan(texts, negatives_NK, batch_size, hard_fraction, seed)
    batch, (items, own) = plan.batch(step), drawn_one_by_one(plan, step)
    assert batch.items_B.tolist() == items
    assert batch.texts_B.tolist() == own

    random, others = np.random.default_rng([seed, 2, step]), []
    for item, text in zip(items, own, strict=True):
        left = [each for each in texts[item].tolist() if each != text] or [text]
        others.append(left[random.integers(len(left))])
    assert plan.other_texts(step, batch).tolist() == others


def test_other_texts_of_no_items_are_none() -> None:
    empty = Batch(np.array([], np.int64), np.array([], np.int64))
    assert not len(BatchPlan(Ragged.of([np.array([0])]), None, 2, 0.0, 0).other_texts(0, empty))


groups = st.lists(st.sampled_from([None, "g", "h"]), min_size=2, max_size=8)


@given(groups=groups, data=st.data())
@settings(deadline=None, max_examples=40)
def test_partners_come_from_the_pools_that_nested_loops_find(groups: list[str | None], data: st.DataObject) -> None:
    count = len(groups)
    texts = [[data.draw(st.sampled_from("xyz"))] for _ in groups]
    ends = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] != pair[1])
    near, ordered = (data.draw(st.lists(ends, min_size=1, max_size=4)) for _ in range(2))
    firsts, seconds = np.array(near).T
    ones = np.ones(len(near), np.float32)
    relations = Relations.build([str(row) for row in range(count)], groups, texts, [None] * count)
    relations = relations.with_edges(Edges(firsts, seconds, np.zeros(len(near), np.int8), ones))
    first_M, second_M = np.array(ordered).T
    weights_M = np.ones(len(ordered), np.float32)
    pairs = {"ordered": ItemPairs.once(count, first_M, second_M, weights_M, weights_M)}
    drawn = Partners(relations, pairs, {"positive", "ordered"})
    for item in range(count):
        same = [
            {other for other in range(count) if keys[other] is not None and keys[other] == keys[item]}
            for keys in (groups, [own[0] for own in texts])
        ]
        linked = [{a + b - item for a, b in links if item in (a, b)} for links in (near, ordered)]
        pools = [pool - {item} for pool in (*same, *linked) if pool - {item}]
        share = {
            other: sum((other in pool) / len(pool) for pool in pools) / len(pools) for pool in pools for other in pool
        }
        many = drawn.draw(np.full(4000, item), np.random.default_rng(0))
        assert len(many) == (4000 if pools else 0)
        found = Counter(many.tolist())
        assert found.keys() == share.keys()
        assert all(abs(found[other] / 4000 - share[other]) < 0.05 for other in share)
