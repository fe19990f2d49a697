import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_encoder, tiny_images, tiny_items

from pairloom.models.batches.feed import BatchSource, ReadyBatch, TrainingItems
from pairloom.models.batches.pairs import ItemPairs
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.encoder import Encoder
from pairloom.models.objectives.batch import EmbeddedBatch, Setting
from pairloom.models.objectives.config import DistanceConfig
from pairloom.models.objectives.distance import START, learned_scale
from pairloom.models.objectives.terms import Objectives
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train


def pairs_with(targets: np.ndarray) -> ItemPairs:
    """All pairs of 32 items, each once, weighted by turns."""
    firsts_M, seconds_M = np.triu_indices(32, 1)
    weights_M = np.resize([1.0, 0.5, 2.0], len(firsts_M))
    return ItemPairs.once(32, firsts_M, seconds_M, targets.astype(np.float32), weights_M.astype(np.float32))


def shade_distances() -> np.ndarray:
    """How different the mean colours of two pictures are."""
    mean_N3 = np.array([np.asarray(image, dtype=float).mean(axis=(0, 1)) for image in tiny_images()]) / 255
    firsts_M, seconds_M = np.triu_indices(32, 1)
    far_M: np.ndarray = np.linalg.norm(mean_N3[firsts_M] - mean_N3[seconds_M], axis=1)
    return far_M


@pytest.fixture
def encoder(tmp_path: Path) -> DualEncoder:
    return tiny_encoder(tmp_path)


def ready(encoder: DualEncoder, items: TrainingItems) -> ReadyBatch:
    plan = BatchPlan(items.relations.item_texts, None, 8, 0, 0)
    tokens = encoder.tokenize(items.relations.texts)
    return BatchSource(items, plan, encoder, tokens, None, wants={"image", "pairs"}).batch(0)


def embedded(batch: ReadyBatch, own: slice | None = None) -> EmbeddedBatch:
    embedding_BD = F.normalize(torch.randn(batch.count, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    return EmbeddedBatch(batch, {"image": embedding_BD}, torch.tensor(1.0), own)


def test_the_loss_matches_a_loop_over_pairs(tmp_path: Path, encoder: DualEncoder) -> None:
    targets = np.linspace(0, 3, 32 * 31 // 2)
    items = replace(tiny_items(tmp_path, encoder), pairs={"target": pairs_with(targets)})
    term = DistanceConfig().build(Setting(encoder, 32, 0, pairs=items.pairs))
    batch = embedded(ready(encoder, items))
    pairs, embedding_BD = items.pairs["target"], batch.sides["image"]
    row = {item: number for number, item in enumerate(batch.ready.items_B.tolist())}
    total, weights = 0.0, 0.0
    for first, second, target, weight in zip(
        pairs.firsts_M, pairs.seconds_M, pairs.targets_M.tolist(), pairs.weights_M.tolist(), strict=True
    ):
        if first in row and second in row:
            distance = START * 3 * math.dist(embedding_BD[row[first]].tolist(), embedding_BD[row[second]].tolist())
            total += weight * (distance - target) ** 2 / np.mean(targets**2)
            weights += weight
    assert term(batch).item() == pytest.approx(total / weights, rel=1e-5)


@pytest.mark.parametrize("decoder_weight", [0.0, 0.5])
def test_the_shares_of_two_ranks_make_the_whole(tmp_path: Path, encoder: DualEncoder, decoder_weight: float) -> None:
    items = replace(tiny_items(tmp_path, encoder), pairs={"target": pairs_with(np.linspace(0, 3, 496))})
    term = DistanceConfig(decoder_weight=decoder_weight).build(Setting(encoder, 32, 0, pairs=items.pairs))
    batch = ready(encoder, items)
    shares = [
        term(embedded(replace(batch, image_bCHW=batch.image_bCHW[own]), own)) for own in (slice(0, 5), slice(5, 8))
    ]
    torch.testing.assert_close(sum(shares), term(embedded(batch)))


def test_a_decoder_costs_nothing_unless_asked_for(encoder: DualEncoder) -> None:
    setting = Setting(encoder, 32, 0, pairs={"target": pairs_with(np.ones(496))})
    assert list(DistanceConfig().build(setting).state_dict()) == ["log_scale"]
    drawn = DistanceConfig(decoder_weight=1, decoder_side=4).build(setting)
    assert drawn.state_dict()["decoder.layers.2.weight"].shape == (16, 128)


def test_equal_pictures_have_a_gradient(tmp_path: Path, encoder: DualEncoder) -> None:
    items = replace(tiny_items(tmp_path, encoder), pairs={"target": pairs_with(np.linspace(0, 3, 496))})
    term = DistanceConfig().build(Setting(encoder, 32, 0, pairs=items.pairs))
    embedding_BD = torch.ones(8, 16, requires_grad=True)
    term(EmbeddedBatch(ready(encoder, items), {"image": embedding_BD}, torch.tensor(1.0))).backward()
    assert embedding_BD.grad is not None
    assert embedding_BD.grad.isfinite().all()


def test_embeddings_learn_distances_and_the_scale_is_kept_beside_the_model(
    tmp_path: Path, encoder: DualEncoder
) -> None:
    wanted_M = 100 * shade_distances()
    items = replace(tiny_items(tmp_path, encoder), pairs={"target": pairs_with(wanted_M)})
    steps = TrainingConfig(
        max_minutes=None,
        max_steps=200,
        batch_size=32,
        threads=1,
        learning_rate=3e-3,
        weight_decay=0,
        hard_fraction=0,
        augmentation=None,
    )
    result = train(encoder, items, Recipe(steps, [DistanceConfig()]), workdir=tmp_path)
    result.objectives.save_kept(tmp_path / "model")
    embedding_ND = Encoder(result.encoder).embed_images(tiny_images())
    firsts_M, seconds_M = np.triu_indices(32, 1)
    distance_M = np.linalg.norm(embedding_ND[firsts_M] - embedding_ND[seconds_M], axis=1)
    found_M = learned_scale(tmp_path / "model") * distance_M
    assert np.corrcoef(found_M, wanted_M)[0, 1] > 0.93
    assert np.mean(np.abs(found_M - wanted_M)) < 0.1 * np.mean(wanted_M)
    again = Objectives([DistanceConfig()], Setting(encoder, 32, 1, pairs={"target": pairs_with(wanted_M)}))
    again.load_kept(tmp_path / "model")
    assert float(again.state_dict()["terms.distance.log_scale"].exp()) == learned_scale(tmp_path / "model")


def test_targets_that_are_no_distances_are_refused(encoder: DualEncoder) -> None:
    for targets in (-np.ones(496), np.zeros(496)):
        with pytest.raises(ValueError, match="give pairs 0 or more, and some more than 0"):
            DistanceConfig().build(Setting(encoder, 32, 0, pairs={"target": pairs_with(targets)}))


def test_a_model_without_a_scale_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no objective 'distance'"):
        learned_scale(tmp_path)
