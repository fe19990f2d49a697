from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_encoder, tiny_images, tiny_items, tiny_texts

from benchmarks import classify, quality
from benchmarks.bundle import unrelated
from benchmarks.peer import train_open_clip
from pairloom.models.batches.pixels import normalize_pixels
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

IDS = [str(number) for number in range(32)]
OURS = [row for row in quality.ROWS if isinstance(row, quality.Ours)]


def test_unrelated_items_are_positives_of_their_own_texts_alone() -> None:
    relations = unrelated(IDS, tiny_texts())
    expected = np.array([[text in own for text in range(64)] for own in relations.item_texts])
    assert (relations.text_mask(np.arange(32), np.arange(64)) == expected).all()
    assert expected.sum() == 64


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_a_row_of_the_ablation_has_valid_settings_and_items(row: quality.Ours, tmp_path: Path) -> None:
    items = tiny_items(tmp_path, tiny_encoder(tmp_path))
    names = [own[:1] for own in tiny_texts()]
    keywords = [own[1:] for own in tiny_texts()]
    concepts = [own[0] for own in tiny_texts()]
    artist = quality.Artist(IDS, concepts, names, keywords, IDS, tiny_images())
    built = quality.our_items(row, artist, np.asarray(items.pixels, np.uint8))
    assert quality.our_config(row, quality.Trial(row.name, 3, 0.5, "tiny-32")).seed == 3
    # The two copies of a colour and shape are positives of one another where relations are known.
    assert built.relations.positive_mask(np.array([0]), np.array([1])).item() == row.related


def test_the_peer_takes_the_same_steps_as_our_loop(tmp_path: Path) -> None:
    start = tiny_encoder(tmp_path)
    stored = tiny_items(tmp_path, start)
    items = replace(stored, relations=unrelated(IDS, tiny_texts()))
    config = TrainingConfig(max_minutes=None, max_steps=6, batch_size=16, warmup_fraction=0.5, hard_fraction=0)
    config = config.model_copy(update={"augmentation": None})
    plan = BatchPlan(items.relations.item_texts, None, 16, 0, config.seed)
    tokens = start.tokenize(items.relations.texts)
    batches = [plan.batch(step) for step in range(6)]
    pixels = np.asarray(items.pixels, np.uint8)
    same = [(normalize_pixels(pixels[own.items_B], start.preprocess_cfg), tokens[own.texts_B]) for own in batches]
    rates = [0, 1e-3 / 3, 2e-3 / 3, 1e-3, 0.75e-3, 0.25e-3]
    losses = train_open_clip(tiny_encoder(tmp_path).network, same, lambda step: rates[step])
    result = train(start, items, Recipe(config), workdir=tmp_path / "run")
    assert losses[-1] == pytest.approx(result.loss, abs=1e-5)
    assert losses[-1] < losses[0]


def test_examples_of_added_classes_are_drawn_from_each_of_them_alone() -> None:
    classes, new_M = [*"abcab", *"aabbcc"], np.array([each != "c" for each in [*"abcab", *"aabbcc"]])
    drawn = [classify.draw_examples(classes, new_M, 2, seed) for seed in range(8)]
    for example_M in drawn:
        assert sorted(np.array(classes)[example_M]) == [*"aabb"]
    assert len({tuple(example_M) for example_M in drawn}) > 1


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    random = np.random.default_rng(0)
    known_M = np.arange(40) < 15
    score_M = np.round(random.normal(size=40) + known_M, 1)
    pairs = [(ours > other) + (ours == other) / 2 for ours in score_M[known_M] for other in score_M[~known_M]]
    value, low, high = classify.auroc_interval(score_M, known_M)
    assert value == pytest.approx(np.mean(pairs))
    assert low < value < high
