from pathlib import Path

import pytest
import torch
from embedded import GROUPS, are_related, embedded_batch, listed
from pydantic import ValidationError
from tiny import tiny_encoder, tiny_items

from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.feed import BatchSource
from pairloom.models.batches.partners import Partners
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.objectives.batch import EmbeddedBatch
from pairloom.models.objectives.comparison import Comparison, comparisons
from pairloom.models.objectives.config import ContrastiveConfig, NtXentConfig, SupConConfig, partners, wants
from pairloom.models.objectives.contrastive import contrastive_loss
from pairloom.models.training.micro_batches import MicroBatches

B = len(GROUPS)


def positives_of(comparison: Comparison) -> list[tuple[int, int]]:
    return list(zip(comparison.rows_P.tolist(), comparison.columns_P.tolist(), strict=True))


@pytest.mark.parametrize("views", [1, 2])
def test_related_items_within_one_side_are_positives_but_for_themselves(views: int) -> None:
    positives = "related" if views == 1 else "related_views"
    (found,) = comparisons(ContrastiveConfig(between="image_image", positives=positives), embedded_batch())
    expected = [(a, b) for a in range(views * B) for b in range(views * B) if a != b and are_related(a % B, b % B)]
    assert positives_of(found) == expected
    assert found.negatives.nonzero().tolist() == [
        [a, b] for a in range(views * B) for b in range(views * B) if not are_related(a % B, b % B)
    ]
    share = {a: 1 / len([pair for pair in expected if pair[0] == a]) for a, _ in expected}
    assert found.shares_P.tolist() == pytest.approx([share[a] for a, _ in expected])
    assert found.anchors_with_positives == len(share)


def test_views_are_positives_whatever_else_is_known() -> None:
    batch = embedded_batch()
    (found,) = comparisons(NtXentConfig(), batch)
    assert positives_of(found) == [(a, (a + B) % (2 * B)) for a in range(2 * B)]
    assert torch.equal(found.anchor_AD, torch.cat([batch.sides["image"], batch.sides["image_view"]]))
    assert found.negatives.sum() == 2 * B * (2 * B - 2)


def test_images_and_texts_are_compared_from_either_side() -> None:
    batch = embedded_batch()
    there, back = comparisons(ContrastiveConfig(), batch)
    expected = [(a, b) for a in range(B) for b in range(B) if are_related(a, b)]
    assert positives_of(there) == positives_of(back) == expected
    assert torch.equal(there.anchor_AD, back.other_CD)
    assert torch.equal(there.shares_P, back.shares_P)
    own, _ = comparisons(ContrastiveConfig(positives="views"), batch)
    assert positives_of(own) == [(a, a) for a in range(B)]


def test_listed_negatives_hold_either_way_round_between_all_views_and_never_for_positives() -> None:
    pairs = {"negative": listed((0, 1), (0, 2), (3, 6))}
    one, _ = comparisons(ContrastiveConfig(negatives="pairs"), embedded_batch(pairs=pairs))
    assert one.listed_negatives.nonzero().tolist() == [[0, 1], [1, 0], [3, 6], [6, 3]]
    config = ContrastiveConfig(between="text_text", positives="related_views", negatives="pairs")
    (both,) = comparisons(config, embedded_batch(pairs=pairs))
    expected = {(a + x, b + y) for a, b in ((0, 1), (1, 0), (3, 6), (6, 3)) for x in (0, B) for y in (0, B)}
    assert {(a, b) for a, b in both.listed_negatives.nonzero().tolist()} == expected


def test_nothing_is_asked_for_that_isnt_compared() -> None:
    assert wants([ContrastiveConfig()]) == {"image", "text"}
    assert wants([ContrastiveConfig(between="image_image")]) == {"image", "item_targets"}
    assert wants([NtXentConfig()]) == {"image", "image_view"}
    assert wants([NtXentConfig(between="text_text")]) == {"text", "text_view"}
    assert wants([SupConConfig()]) == {"image", "image_view", "item_targets"}
    assert wants([ContrastiveConfig(negatives="pairs")]) == {"image", "text", "pairs"}
    assert partners([ContrastiveConfig(), NtXentConfig()]) == set()
    assert partners([SupConConfig()]) == {"positive"}


def test_views_of_related_items_need_one_side() -> None:
    with pytest.raises(ValidationError, match="between images and texts it is related, or views"):
        SupConConfig(between="image_text")


@pytest.mark.parametrize("modality", ["image", "text"])
def test_both_sides_of_a_pair_share_one_tower_and_both_send_gradients(modality: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    items = tiny_items(tmp_path, encoder)
    config = ContrastiveConfig(between=f"{modality}_{modality}", positives="views")
    plan = BatchPlan(items.relations.item_texts, None, 12, 0.0, 0, Partners(items.relations, {}, {"positive"}), 0.5)
    tokens = encoder.tokenize(items.relations.texts)
    ready = BatchSource(items, plan, encoder, tokens, AugmentationConfig(), wants=wants([config])).batch(0)
    towers = MicroBatches(encoder, None, half=False, seed=(0,))
    tower = encoder.network.visual if modality == "image" else encoder.network.transformer
    weights = [weight for weight in tower.parameters() if weight.requires_grad]  # type: ignore[union-attr]  # torch types modules' attributes loosely
    storages = {weight.data_ptr() for weight in encoder.network.parameters()}
    assert {weight.data_ptr() for weight in weights} <= storages

    def gradients(*still: str) -> list[torch.Tensor]:
        """Of the tower, where some sides send none."""
        sides = towers.embed(ready, wants([config]))
        held = {side: each.detach() if side in still else each for side, each in sides.items()}
        (comparison,) = comparisons(config, EmbeddedBatch(ready, held, torch.tensor(1.0)))
        loss = contrastive_loss(comparison, comparison.negatives, 1.0)
        return list(torch.autograd.grad(loss, weights))

    whole, first, second = gradients(), gradients(f"{modality}_view"), gradients(modality)
    for both, one, other in zip(whole, first, second, strict=True):
        torch.testing.assert_close(one + other, both, atol=1e-6, rtol=1e-4)
    assert sum(float(each.abs().sum()) for each in first) > 0
    assert sum(float(each.abs().sum()) for each in second) > 0
    other_tower = encoder.network.transformer if modality == "image" else encoder.network.visual
    assert not {w.data_ptr() for w in other_tower.parameters()} & {w.data_ptr() for w in weights}  # type: ignore[union-attr]  # torch types modules' attributes loosely
