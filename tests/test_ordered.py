import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import COLOURS, SHAPES, tiny_encoder, tiny_images, tiny_items

from pairloom.models.batches.pairs import ItemPairs
from pairloom.models.encoder import Encoder
from pairloom.models.objectives.batch import Setting
from pairloom.models.objectives.config import OrderedConfig
from pairloom.models.objectives.ordered import OrderedClassifier, ordered_loss
from pairloom.models.objectives.terms import Objectives
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

PER_COLOUR = 2 * len(SHAPES)
COLOUR = np.repeat(np.arange(len(COLOURS)), PER_COLOUR)
THREE = np.flatnonzero(COLOUR < 3).tolist()
"""Red beats green beats blue beats red; grey takes no part."""


def ordered_pairs(rows: list[tuple[int, int, float]], count: int = 32) -> ItemPairs:
    firsts, seconds, targets = (np.array(column) for column in zip(*rows, strict=True))
    return ItemPairs.once(count, firsts, seconds, targets.astype(np.float32), np.ones(len(rows), np.float32))


def result_of(first: int, second: int) -> float:
    return (0.0, 1.0, -1.0)[(COLOUR[second] - COLOUR[first]) % 3]


def setting(encoder: DualEncoder, pairs: ItemPairs) -> Setting:
    return Setting(encoder, 32, 0, pairs={"ordered": pairs})


def test_the_loss_matches_a_loop_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_MC, place_M = torch.randn(5, 3, generator=generator), torch.tensor([0, 2, 1, 1, 0])
    weight_M = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0])
    total = 0.0
    for row, place, weight in zip(logits_MC.tolist(), place_M.tolist(), weight_M.tolist(), strict=True):
        total += weight * (math.log(sum(math.exp(each) for each in row)) - row[place])
    torch.testing.assert_close(ordered_loss(logits_MC, place_M, weight_M), torch.tensor(total / 5.5))
    assert ordered_loss(logits_MC[:0], place_M[:0], weight_M[:0]) == 0


def test_the_classifier_reads_the_two_sides_with_projections_of_their_own() -> None:
    torch.manual_seed(0)
    classifier = OrderedClassifier(4, 3, [-1.0, 1.0])
    embedding_BD, first_M, second_M = torch.randn(5, 4), torch.tensor([0, 3]), torch.tensor([4, 3])
    mean_D, spread_D = embedding_BD.mean(dim=0), embedding_BD.var(dim=0, unbiased=False).sqrt()
    found_MC = classifier(embedding_BD, first_M, second_M)
    for row, (first, second) in enumerate([(0, 4), (3, 3)]):
        left_D, right_D = ((embedding_BD[each] - mean_D) / spread_D for each in (first, second))
        hidden = [
            (classifier.left.weight[w] @ left_D + classifier.left.bias[w] + classifier.right.weight[w] @ right_D).item()
            for w in range(3)
        ]
        hidden_W = torch.tensor([max(0.0, each) for each in hidden])
        logits_C = classifier.classifier.weight @ hidden_W + classifier.classifier.bias
        torch.testing.assert_close(found_MC[row], logits_C)
    assert not torch.equal(classifier(embedding_BD, second_M, first_M)[0], found_MC[0])


def test_a_cycle_is_learned_from_pairs_alone_and_kept_beside_the_model(tmp_path: Path) -> None:
    start = tiny_encoder(tmp_path)
    items = tiny_items(tmp_path, start)
    training = [item for item in THREE if item % 2 == 0]  # of two copies of a drawing, the first
    pairs = ordered_pairs([(a, b, result_of(a, b)) for a in training for b in training if a != b])
    steps = TrainingConfig(
        max_minutes=None,
        max_steps=150,
        batch_size=24,
        threads=1,
        learning_rate=3e-3,
        hard_fraction=0,
        augmentation=None,
    )
    result = train(start, replace(items, pairs={"ordered": pairs}), Recipe(steps, [OrderedConfig()]), workdir=tmp_path)
    result.objectives.save_kept(tmp_path / "model")
    embedding_ND = Encoder(result.encoder).embed_images(tiny_images())
    classifier = OrderedClassifier.load(tmp_path / "model")
    unseen = [(a, b) for a in THREE for b in THREE if a % 2 and b % 2 and a != b]
    firsts, seconds = np.array(unseen).T
    found = classifier.labels(embedding_ND, firsts, seconds)
    wanted = np.array([result_of(a, b) for a, b in unseen])
    assert np.mean(found == wanted) > 0.95
    assert np.mean(classifier.labels(embedding_ND, seconds, firsts) == -wanted) > 0.95


def test_labels_come_from_the_pairs_and_none_means_one(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    term = OrderedConfig().build(setting(encoder, ordered_pairs([(0, 1, math.nan), (1, 2, 5), (2, 3, -1)])))
    assert term.state_dict()["pairs.label_C"].tolist() == [-1, 1, 5]
    with pytest.raises(ValueError, match="have 1 different values: give them labels"):
        OrderedConfig().build(setting(encoder, ordered_pairs([(0, 1, 2), (1, 2, 2)])))
    with pytest.raises(ValueError, match="relation 'ordered', and there are none"):
        OrderedConfig().build(Setting(encoder, 32, 0))


def test_a_champions_classifier_is_taken_over_where_it_knows_the_same_labels(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    first = Objectives([OrderedConfig()], setting(encoder, ordered_pairs([(0, 1, 1), (1, 2, 0)])))
    first.save_kept(tmp_path)
    for seed, (label, same) in enumerate([(0, True), (-1, False)], 1):
        wanted = setting(encoder, ordered_pairs([(0, 1, 1), (1, 2, label)]))
        again = Objectives([OrderedConfig()], replace(wanted, seed=seed))
        again.load_kept(tmp_path)
        weights = [each.state_dict()["terms.ordered.pairs.left.weight"] for each in (first, again)]
        assert torch.equal(*weights) == same
        assert again.state_dict()["terms.ordered.pairs.label_C"].tolist() == [label, 1]


def test_a_model_without_a_classifier_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no objective 'ordered'"):
        OrderedClassifier.load(tmp_path)
