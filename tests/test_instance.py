import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_encoder, tiny_items

from pairloom.models.batches.feed import BatchSource, TrainingItems
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.batches.relations import Relations
from pairloom.models.objectives.batch import EmbeddedBatch, Setting
from pairloom.models.objectives.config import InstanceConfig
from pairloom.models.objectives.instance import ClassesTerm, MemoryTerm, full_softmax_losses, sampled_softmax_losses
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, TrainingResult, train

STEPS = TrainingConfig(max_minutes=None, max_steps=10, batch_size=16, threads=1)


def directions(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_each_item_is_told_from_all_others_as_by_nested_loops() -> None:
    image_bD, class_ND, items_b = directions(3, 0), directions(8, 1), torch.tensor([6, 0, 3])
    expected = []
    for image, item in zip(image_bD, items_b.tolist(), strict=True):
        logits = [4.0 * float(image @ each) for each in class_ND]
        expected.append(math.log(sum(math.exp(logit) for logit in logits)) - logits[item])
    torch.testing.assert_close(full_softmax_losses(image_bD, class_ND, items_b, 4.0), torch.tensor(expected))


def test_sampled_negatives_match_nested_loops() -> None:
    image_bD, class_ND, items_b = directions(3, 0), directions(8, 1), torch.tensor([6, 0, 3])
    drawn_M = torch.tensor([6, 1, 1, 5])
    expected = []
    for image, item in zip(image_bD, items_b.tolist(), strict=True):
        others = [math.exp(4.0 * float(image @ class_ND[each])) for each in drawn_M.tolist() if each != item]
        own = math.exp(4.0 * float(image @ class_ND[item]))
        expected.append(-math.log(own / (own + 7 * sum(others) / len(others))))
    found_b = sampled_softmax_losses(image_bD, class_ND, items_b, drawn_M, 4.0)
    torch.testing.assert_close(found_b, torch.tensor(expected))


def test_all_items_sampled_once_are_the_full_softmax() -> None:
    image_bD, class_ND, items_b = directions(3, 0), directions(8, 1), torch.tensor([6, 0, 3])
    torch.testing.assert_close(
        sampled_softmax_losses(image_bD, class_ND, items_b, torch.arange(8), 4.0),
        full_softmax_losses(image_bD, class_ND, items_b, 4.0),
    )


def test_only_the_own_item_sampled_is_no_error() -> None:
    image_bD, class_ND = directions(2, 0), directions(8, 1)
    loss_b = sampled_softmax_losses(image_bD, class_ND, torch.tensor([2, 4]), torch.tensor([2, 2]), 4.0)
    assert loss_b[0] == 0
    assert loss_b[1] > 0


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (InstanceConfig(max_weights=32), ClassesTerm),
        (InstanceConfig(max_weights=31), MemoryTerm),
        (InstanceConfig(classes="memory"), MemoryTerm),
        (InstanceConfig(classes="weights", max_weights=1), ClassesTerm),
    ],
)
def test_the_size_of_the_corpus_or_the_config_chooses_the_classes(
    tmp_path: Path, config: InstanceConfig, kind: type
) -> None:
    assert type(config.build(Setting(tiny_encoder(tmp_path), 32, 0))) is kind


def instance_training(folder: Path, name: str, items: TrainingItems, **changes: object) -> TrainingResult:
    recipe = Recipe(STEPS.model_copy(update=changes), [InstanceConfig(classes="memory", negatives=20)])
    return train(tiny_encoder(folder), items, recipe, workdir=folder / name)


def test_the_memory_mixes_in_what_the_batch_showed(tmp_path: Path) -> None:
    items = tiny_items(tmp_path, tiny_encoder(tmp_path))
    before, after = (
        instance_training(tmp_path, str(steps), items, max_steps=steps, learning_rate=1e-9).objectives.state_dict()
        for steps in (1, 2)
    )
    before_ND, after_ND = (state["terms.instance.memory_ND"] for state in (before, after))
    changed_N = (before_ND != after_ND).any(dim=1)
    assert int(changed_N.sum()) == 16  # a batch
    torch.testing.assert_close(after_ND.norm(dim=1), torch.ones(32))


def test_neither_groups_nor_texts_are_read(tmp_path: Path) -> None:
    items = tiny_items(tmp_path, tiny_encoder(tmp_path))
    ids = list(items.item_ids)
    # Each item still has two texts, so that the same are drawn.
    others = Relations.build(ids, [None] * 32, [[f"red bar {n}", f"blue frame {n}"] for n in ids], [None] * 32)
    first, second = (
        instance_training(tmp_path, name, TrainingItems(items.item_ids, items.pixels, relations))
        for name, relations in (("grouped", items.relations), ("alone", others))
    )
    weights = [result.encoder.network.get_parameter("visual.proj") for result in (first, second)]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], tiny_encoder(tmp_path).network.get_parameter("visual.proj"))


@pytest.mark.parametrize("classes", ["weights", "memory"])
def test_shares_of_two_ranks_add_up(tmp_path: Path, classes: str) -> None:
    encoder = tiny_encoder(tmp_path)
    items = tiny_items(tmp_path, encoder)
    plan = BatchPlan(items.relations.item_texts, None, 12, 0.0, seed=1)
    ready = BatchSource(items, plan, encoder, encoder.tokenize(items.relations.texts), None).batch(0)
    term = InstanceConfig.model_validate({"classes": classes}).build(Setting(encoder, 32, 0))
    batch = EmbeddedBatch(ready, {"image": encoder.encode_images(ready.image_bCHW)}, torch.tensor(1.0))
    shares = [term(replace(batch, own=own)) for own in (slice(0, 5), slice(5, 12))]
    torch.testing.assert_close(shares[0] + shares[1], term(batch))
