from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_encoder, tiny_items

from pairloom.models.batches.feed import BatchSource, ReadyBatch
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.objectives.clip import clip_loss
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.finetuning import prepare
from pairloom.models.training.micro_batches import MicroBatches


def batch_of(encoder: DualEncoder, folder: Path) -> ReadyBatch:
    items = tiny_items(folder, encoder)
    plan = BatchPlan(items.relations.item_texts, None, 20, 0.0, seed=1)
    return BatchSource(items, plan, encoder, encoder.tokenize(items.relations.texts), None).batch(3)


def gradients(encoder: DualEncoder, batch: ReadyBatch, rows: int | None) -> dict[str, torch.Tensor]:
    network = encoder.network
    network.zero_grad()
    towers = MicroBatches(encoder, rows, half=False, seed=(0,))
    sides = towers.embed(batch)
    scale = network.get_parameter("logit_scale").exp()
    towers.backward(clip_loss(sides["image"], sides["text"], batch.targets, scale))
    return {name: tensor.grad.clone() for name, tensor in network.named_parameters() if tensor.grad is not None}


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_parts_add_up_to_the_gradient_of_the_whole_batch(
    tmp_path: Path, precision: torch.dtype, tolerance: float
) -> None:
    encoder = tiny_encoder(tmp_path)
    batch = batch_of(encoder, tmp_path)
    encoder.network.to(precision)
    object.__setattr__(batch, "image_bCHW", batch.image_bCHW.to(precision))
    whole = gradients(encoder, batch, None)
    for rows in (1, 7, 19):
        parts = gradients(encoder, batch, rows)
        assert parts.keys() == whole.keys()
        for name, expected in whole.items():
            difference = (parts[name] - expected).norm() / expected.norm().clamp_min(1e-12)
            assert difference < tolerance, (name, rows)


def test_parts_meet_the_same_random_numbers_on_both_passes(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    batch = batch_of(encoder, tmp_path)
    prepare(encoder, ModelConfig(patch_dropout=0.5), seed=0)
    cached = gradients(encoder, batch, 8)

    # The slow answer: the graph of every part is kept, so that nothing has to be computed again.
    encoder.network.zero_grad()
    towers = MicroBatches(encoder, 8, half=False, seed=(0,))
    with torch.no_grad():
        towers.embed(batch)
    sides = [torch.cat([part.encode() for part in towers._parts if part.side == side]) for side in ("image", "text")]
    scale = encoder.network.get_parameter("logit_scale").exp()
    clip_loss(sides[0], sides[1][batch.text_b], batch.targets, scale).backward()  # type: ignore[no-untyped-call]
    for name, parameter in encoder.network.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(cached[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_batch_statistics_are_taken_once(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    batch = batch_of(encoder, tmp_path)
    norm = torch.nn.BatchNorm2d(3)
    visual = encoder.network.get_submodule("visual")
    visual.register_forward_pre_hook(lambda _module, inputs: norm(inputs[0]))
    visual.add_module("norm", norm)
    encoder.network.train()
    gradients(encoder, batch, 10)
    expected = torch.zeros(3)
    for part in torch.split(batch.image_bCHW, 10):
        expected = 0.9 * expected + 0.1 * part.mean(dim=(0, 2, 3))
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, expected)


def test_a_batch_is_the_same_for_any_number_of_ranks(tmp_path: Path) -> None:
    from pairloom.models.batches.config import AugmentationConfig
    from pairloom.models.ranks import Ranks

    encoder = tiny_encoder(tmp_path)
    items = tiny_items(tmp_path, encoder)
    plan = BatchPlan(items.relations.item_texts, None, 20, 0.0, seed=1)
    token_TL = encoder.tokenize(items.relations.texts)

    def make(ranks: Ranks) -> ReadyBatch:
        return BatchSource(items, plan, encoder, token_TL, AugmentationConfig(), ranks).batch(5)

    whole, shares = make(Ranks()), [make(Ranks(rank, 3)) for rank in range(3)]
    assert torch.equal(torch.cat([share.image_bCHW for share in shares]), whole.image_bCHW)
    texts = [encoder.encode_texts(each.token_UL)[each.text_b] for each in (whole, *shares)]
    torch.testing.assert_close(torch.cat(texts[1:]), texts[0])
    assert all(np.array_equal(share.targets.rows_P, whole.targets.rows_P) for share in shares)
