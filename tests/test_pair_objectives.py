"""The pair objectives at work: in the trainer, and as pipelines.yaml names them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_encoder, tiny_items

from pairloom.flows.config import load_pipeline, pipeline_names
from pairloom.models.batches.pairs import ItemPairs
from pairloom.models.objectives.config import (
    ContrastiveConfig,
    NPairConfig,
    NtXentConfig,
    Objective,
    SiglipConfig,
    SupConConfig,
    TripletConfig,
)
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

PIPELINES = Path(__file__).parents[1] / "benchmarks" / "objectives" / "pairs.yaml"
STEPS = TrainingConfig(max_minutes=None, max_steps=3, batch_size=16, threads=1, micro_batch=8)
ROWS = np.arange(0, 30, 2)
NEGATIVES = ItemPairs.once(32, ROWS, ROWS + 2, np.full(15, np.nan, np.float32), np.ones(15, np.float32))


@pytest.mark.parametrize(
    "objective",
    [
        SiglipConfig(),
        ContrastiveConfig(),
        ContrastiveConfig(between="image_image", negatives="pairs"),
        TripletConfig(between="text_text", choose="all", temperature=0.1),
        TripletConfig(between="image_image", negatives="pairs", choose="random"),
        NPairConfig(),
        NtXentConfig(),
        NtXentConfig(between="text_text"),
        SupConConfig(),
    ],
    ids=lambda objective: "-".join(str(value) for value in objective.model_dump(exclude_defaults=True).values()),
)
def test_an_objective_trains_its_towers_and_no_other(objective: Objective, tmp_path: Path) -> None:
    start = tiny_encoder(tmp_path)
    before = {name: weight.detach().clone() for name, weight in start.network.named_parameters()}
    items = replace(tiny_items(tmp_path, start), pairs={"negative": NEGATIVES})
    result = train(start, items, Recipe(STEPS, [objective]), workdir=tmp_path / "run")
    changed = {name for name, weight in start.network.named_parameters() if not torch.equal(weight, before[name])}
    assert math.isfinite(result.loss)
    assert result.loss > 0
    assert any(name.startswith("visual.") for name in changed) == ("image" in objective.wants)
    assert any(name.startswith("transformer.") for name in changed) == ("text" in objective.wants)


@pytest.mark.parametrize("name", pipeline_names(PIPELINES))
def test_a_pipeline_of_the_benchmarks_is_valid(name: str) -> None:
    pipeline = load_pipeline(PIPELINES, name)
    assert Path(pipeline.model.architecture).is_file()
    assert pipeline.gate.min


def test_the_pipeline_without_labels_reads_neither_group_nor_name() -> None:
    columns = load_pipeline(PIPELINES, "digits-nt-xent").columns
    assert columns.group is None
    assert columns.texts == ["id"]
