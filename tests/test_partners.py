import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_encoder, tiny_items

from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.feed import BatchSource
from pairloom.models.batches.pairs import ItemPairs
from pairloom.models.batches.partners import Partners
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.batches.relations import Edges, Relations


def pairs_of(count: int, rows: list[tuple[int, int, float]]) -> ItemPairs:
    firsts, seconds, targets = (np.array(column) for column in zip(*rows, strict=True))
    return ItemPairs.once(count, firsts, seconds, targets.astype(np.float32), np.ones(len(rows), np.float32))


def test_partners_are_positives_of_any_kind_and_never_the_item_itself() -> None:
    relations = Relations.build(
        list("abcdef"), ["g", "g", "g", None, None, None], [[each] for each in "uvwxyz"], [None] * 6
    )
    near = Edges(np.array([3]), np.array([4]), np.zeros(1, np.int8), np.ones(1, np.float32))
    partners = Partners(relations.with_edges(near), {}, {"positive"})
    random = np.random.default_rng(0)
    met = {
        item: set(np.concatenate([partners.draw(np.array([item]), random) for _ in range(60)]).tolist())
        for item in range(6)
    }
    assert met == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: {4}, 4: {3}, 5: set()}


def test_partners_of_pairs_are_met_from_both_ends() -> None:
    relations = Relations.build(list("abc"), [None] * 3, [[each] for each in "abc"], [None] * 3)
    partners = Partners(relations, {"ordered": pairs_of(3, [(0, 1, 1.0), (1, 0, -1.0)])}, {"ordered"})
    assert partners.draw(np.array([0, 1, 2]), np.random.default_rng(0)).tolist() == [1, 0]
    with pytest.raises(ValueError, match="there are none"):
        Partners(relations, {}, {"target"})


def test_pairs_within_a_batch_match_nested_loops() -> None:
    random = np.random.default_rng(0)
    rows = [(int(a), int(b), float(a * 20 + b)) for a, b in random.integers(20, size=(150, 2)) if a != b]
    pairs = pairs_of(20, rows)
    items_B = random.permutation(20)[:8]
    found = pairs.within(items_B)
    got = list(zip(found.first_M.tolist(), found.second_M.tolist(), found.target_M.tolist(), strict=True))
    known = {(a, b): target for a, b, target in reversed(rows)}
    expected = [(i, j, known[a, b]) for i, a in enumerate(items_B) for j, b in enumerate(items_B) if (a, b) in known]
    assert got == expected


def test_a_batch_brings_partners_views_and_targets_where_asked_for(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    items = tiny_items(tmp_path, encoder)
    plan = BatchPlan(
        items.relations.item_texts, None, 12, 0.0, 0, Partners(items.relations, {}, {"positive"}), partner_fraction=0.5
    )
    token_TL = encoder.tokenize(items.relations.texts)
    wants = {"image", "text", "image_view", "text_view", "item_targets"}
    source = BatchSource(items, plan, encoder, token_TL, AugmentationConfig(), wants=wants)
    batch, again = source.batch(4), source.batch(4)
    assert batch.view_bCHW is not None
    assert again.view_bCHW is not None
    assert batch.view_text_b is not None
    assert batch.item_targets is not None
    rows = batch.items_B.numpy()
    # Every second item has the same colour and shape as the one before it: half of a batch meets the other half.
    assert len({row // 2 for row in rows.tolist()}) < len(rows)
    assert torch.equal(batch.view_bCHW, again.view_bCHW)
    assert not torch.equal(batch.view_bCHW, batch.image_bCHW)
    assert (batch.view_text_b != batch.text_b).all()
    mask_BB = items.relations.positive_mask(rows, rows)
    assert torch.equal(
        torch.stack([batch.item_targets.rows_P, batch.item_targets.columns_P]),
        torch.from_numpy(np.array(mask_BB.nonzero())),
    )
    plain = BatchSource(items, plan, encoder, token_TL, AugmentationConfig()).batch(4)
    assert plain.view_bCHW is None
    assert plain.item_targets is None
    assert math.isclose(float(plain.image_bCHW.sum()), float(batch.image_bCHW.sum()))
