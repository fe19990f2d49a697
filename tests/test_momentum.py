import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information
from tiny import interrupt_after_checkpoint, tiny_encoder, tiny_items

from pairloom.models.batches.feed import BatchSource
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch, Setting
from pairloom.models.objectives.clip import clip_loss
from pairloom.models.objectives.config import ClipConfig, MomentumConfig, wants
from pairloom.models.objectives.momentum import MomentumTerm, Rows, follow, known_positives, queue_losses
from pairloom.models.towers.config import LoraConfig, ModelConfig
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.micro_batches import MicroBatches
from pairloom.models.training.trainer import Recipe, TrainingResult, train

STEPS = TrainingConfig(max_minutes=None, max_steps=30, batch_size=12, threads=1, checkpoint_seconds=1e-6)
EVERYTHING = MomentumConfig(contrasts=("image_text", "image_image", "text_text"), queue=40, momentum=0.9)


def directions(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def run(folder: Path, name: str, *, cut: bool = False) -> TrainingResult:
    start = tiny_encoder(folder)
    if cut:
        interrupt_after_checkpoint(start, folder / name)
    recipe = Recipe(STEPS, [ClipConfig(), EVERYTHING])
    return train(start, tiny_items(folder, start), recipe, workdir=folder / name)


def state(result: TrainingResult) -> dict[str, bytes]:
    tensors = {**result.encoder.network.state_dict(), **result.objectives.state_dict()}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_the_loss_matches_nested_loops() -> None:
    query_bD, batch_BD, queue_KD = directions(2, 0), directions(4, 1), directions(3, 2)
    weights_BB = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 1, 0.25], [0, 0, 0, 1]], dtype=np.float32)
    left_out_bK = torch.tensor([[False, True, False], [False, False, False]])
    targets = Targets.from_sparse(sparse.csr_matrix(weights_BB))
    found_b = queue_losses(
        query_bD, torch.cat([batch_BD, queue_KD]), targets.of_rows(slice(1, 3), 4), 1, left_out_bK, torch.tensor(6.0)
    )
    expected = []
    for row in range(2):
        logits = [6 * float(query_bD[row] @ key) for key in batch_BD]
        queued = [6 * float(query_bD[row] @ queue_KD[k]) for k in range(3) if not left_out_bK[row, k]]
        normaliser = math.log(sum(math.exp(logit) for logit in [*logits, *queued]))
        own = weights_BB[row + 1]
        expected.append(normaliser - sum(own[k] * logits[k] for k in range(4)) / own.sum())
    torch.testing.assert_close(found_b, torch.tensor(expected))


def test_without_queue_and_momentum_it_is_clips_loss_against_keys_without_gradient(tmp_path: Path) -> None:
    term, batch = term_and_batch(tmp_path, MomentumConfig(queue=0, momentum=0))
    image_BD, text_BD = batch.sides["image"], batch.sides["text"]
    expected = clip_loss(image_BD, text_BD, batch.ready.targets, batch.logit_scale)
    torch.testing.assert_close(term(batch), expected)
    (gradient,) = torch.autograd.grad(term(batch), image_BD, retain_graph=True)
    one_way = queue_losses(
        image_BD, text_BD.detach(), batch.ready.targets, 0, torch.zeros(12, 0, dtype=torch.bool), batch.logit_scale
    )
    (expected,) = torch.autograd.grad(one_way.mean() / 2, image_BD)
    torch.testing.assert_close(gradient, expected)


def term_and_batch(folder: Path, config: MomentumConfig) -> tuple[MomentumTerm, EmbeddedBatch]:
    encoder = tiny_encoder(folder)
    items = tiny_items(folder, encoder)
    plan = BatchPlan(items.relations.item_texts, None, 12, 0.0, seed=1)
    wanted = wants([config])
    ready = BatchSource(items, plan, encoder, encoder.tokenize(items.relations.texts), None, wants=wanted).batch(0)
    term = config.build(Setting(encoder, 32, 0, items.relations))
    assert isinstance(term, MomentumTerm)
    sides = MicroBatches(encoder, None, half=False, seed=(0,)).embed(ready, wanted)
    return term, EmbeddedBatch(ready, sides, torch.tensor(9.0))


def test_known_positives_in_the_queue_are_no_negatives(tmp_path: Path) -> None:
    relations = tiny_items(tmp_path, tiny_encoder(tmp_path)).relations
    # An item's other texts and its group-mates' (two of every colour and shape), whatever stands between.
    queries, keys = Rows(np.array([0, 5]), np.array([0, 5])), Rows(np.array([1, 0, 4, 9]), np.array([1, 0, 4, 9]))
    for query, key in (("image", "text"), ("text", "image"), ("image_view", "image"), ("text_view", "text")):
        found_RC = known_positives(relations, query, key, queries, keys)  # type: ignore[arg-type]  # a tuple of literals widens
        for row, column in itertools.product(range(2), range(4)):
            item, other = queries.items[row], keys.items[column]
            if (query, key) == ("image", "text"):
                carriers = [n for n in range(32) if keys.texts[column] in relations.item_texts[n]]
                expected = any(relations.group_N[item] == relations.group_N[n] for n in carriers)
            elif (query, key) == ("text", "image"):
                carriers = [n for n in range(32) if queries.texts[row] in relations.item_texts[n]]
                expected = any(relations.group_N[other] == relations.group_N[n] for n in carriers)
            else:
                expected = relations.group_N[item] == relations.group_N[other]
            assert found_RC[row, column] == expected, (query, key, row, column)


def test_a_batch_met_again_in_the_queue_counts_but_for_its_positives(tmp_path: Path) -> None:
    term, batch = term_and_batch(tmp_path, MomentumConfig(queue=30))
    term(batch)
    term.after_step(batch)
    found = term(batch)
    targets, empty_BK = batch.ready.targets, torch.ones(12, 18, dtype=torch.bool)
    positive_BB = torch.zeros(12, 12, dtype=torch.bool)
    positive_BB[targets.rows_P, targets.columns_P] = True
    losses = []
    for query, key, own, mask_BB in (
        ("image", "text", targets, positive_BB),
        ("text", "image", targets.transposed, positive_BB.T),
    ):
        candidate_CD = torch.cat([term._fresh[key], term.get_buffer(f"{key}_KD")])  # type: ignore[index]  # a tuple of literals widens
        left_out_BK = torch.cat([mask_BB, empty_BK], dim=1)
        losses.append(
            queue_losses(batch.sides[query], candidate_CD, own, 0, left_out_BK, batch.logit_scale).mean()  # type: ignore[index]  # likewise
        )
    assert positive_BB.sum() > 12
    torch.testing.assert_close(found, (losses[0] + losses[1]) / 2)


def test_shares_of_two_ranks_add_up(tmp_path: Path) -> None:
    term, batch = term_and_batch(tmp_path, EVERYTHING)
    term(batch)
    term.after_step(batch)
    shares = [term(replace(batch, own=own)) for own in (slice(0, 5), slice(5, 12))]
    torch.testing.assert_close(shares[0] + shares[1], term(batch))


def test_the_queue_is_a_ring_of_the_newest_keys(tmp_path: Path) -> None:
    term, batch = term_and_batch(tmp_path, MomentumConfig(queue=20))
    seen: list[tuple[int, torch.Tensor]] = []
    for step in range(4):
        items_B = (batch.ready.items_B + step) % 32
        moved = replace(batch, ready=replace(batch.ready, items_B=items_B))
        term(moved)
        term.after_step(moved)
        seen += list(zip(items_B.tolist(), term._fresh["image"], strict=True))
    expected = {(item, tuple(key.tolist())) for item, key in seen[-20:]}
    found = zip(term.items_K.tolist(), term.get_buffer("image_KD"), strict=True)
    assert {(item, tuple(key.tolist())) for item, key in found} == expected


def test_a_batch_longer_than_the_queue_leaves_its_end(tmp_path: Path) -> None:
    term, batch = term_and_batch(tmp_path, MomentumConfig(queue=5))
    for _ in range(2):
        term(batch)
        term.after_step(batch)
    assert sorted(term.items_K.tolist()) == sorted(batch.ready.items_B[-5:].tolist())


def test_the_slow_towers_follow() -> None:
    slow, fast = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        fast.weight.fill_(3)
    assert fast.running_mean is not None
    fast.running_mean.fill_(7)
    slow.requires_grad_(False)
    with torch.no_grad():
        follow(slow, fast, 0.75)
    torch.testing.assert_close(slow.weight, torch.full((3,), 1.5))
    torch.testing.assert_close(slow.running_mean, torch.full((3,), 7.0))


def test_adapters_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    start = tiny_encoder(tmp_path)
    recipe = Recipe(STEPS, [MomentumConfig()], ModelConfig(lora=LoraConfig()))
    with pytest.raises(ValueError, match=r"model\.lora trains adapters instead"):
        train(start, tiny_items(tmp_path, start), recipe, workdir=tmp_path / "run")


def test_an_interrupted_training_ends_bit_identical(tmp_path: Path) -> None:
    expected = state(run(tmp_path, "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "cut", cut=True)
    result = run(tmp_path, "cut")
    assert 0 < result.resumed_from_step < 30
    assert state(result) == expected
    queues = {"image_KD", "text_KD", "items_K", "texts_K", "place", "network.visual.proj"}
    assert {f"terms.momentum.{name}" for name in queues} <= expected.keys()
