"""The text tower in NumPy against the whole open_clip, and when the whole one is asked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pairloom.models.encoder import Encoder
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.layout import CONFIG_NAME, WEIGHTS_NAME
from pairloom.models.towers.names import ARCHITECTURES
from pairloom.models.towers.query_tower import QueryTower
from pairloom.models.towers.vocabulary import SETTINGS_NAME

TEXTS = [
    "a red apple", "x", "", " \t\n ", "A RED\nAPPLE!!", "red " * 80, "séance Ã©tÃ© l’été", "红色的鞋 👟🏽",
    "&lt;b&gt; &amp;amp; <eot> red <pad>", "zero\u200bwidth\ufeff",
]  # fmt: skip


def saved(folder: Path, architecture: str) -> Path:
    """A model whose weights are far from where they start: biases and norms count."""
    encoder = create(ModelConfig(architecture=architecture), TEXTS, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    encoder.save(folder)
    return folder


def deeper(folder: Path) -> str:
    """An architecture of ours with three layers and eight heads in its text tower."""
    config = json.loads((ARCHITECTURES / "tiny-32.json").read_bytes())
    config["model_cfg"]["text_cfg"] |= {"layers": 3, "heads": 8, "context_length": 9}
    (folder / "deeper.json").write_text(json.dumps(config))
    return str(folder / "deeper.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", "tiny-32")


def change_text_cfg(model: Path, **changes: Any) -> None:
    config = json.loads((model / CONFIG_NAME).read_bytes())
    config["model_cfg"]["text_cfg"] |= changes
    (model / CONFIG_NAME).write_text(json.dumps(config))


@pytest.mark.parametrize("architecture", ["tiny-32", "tiny-64", "deeper"])
def test_its_embeddings_are_those_of_the_whole_model(architecture: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", deeper(tmp_path) if architecture == "deeper" else architecture)
    tower = QueryTower.load(model)
    assert tower is not None
    whole = Encoder.load(model)
    assert tower.dimension == whole.dimension
    found_ND, wanted_ND = tower.embed_texts(TEXTS), whole.embed_texts(TEXTS)
    assert found_ND.dtype == np.float32
    np.testing.assert_allclose(found_ND, wanted_ND, atol=1e-6, rtol=0)
    # Equal texts apart, the embeddings must differ, or the comparison would say nothing.
    assert np.abs(wanted_ND[0] - wanted_ND[5]).max() > 0.01


def test_a_recurrent_tower_and_open_clips_own_vocabulary_are_left_to_the_whole_model(tmp_path: Path) -> None:
    assert QueryTower.load(saved(tmp_path / "lstm", "tiny-32-lstm")) is None
    config = json.loads((ARCHITECTURES / "tiny-32.json").read_bytes())
    text_cfg = config["model_cfg"]["text_cfg"]
    del text_cfg["hf_tokenizer_name"]
    text_cfg |= {"vocab_size": 49408, "pool_type": "argmax"}
    (tmp_path / "builtin.json").write_text(json.dumps(config))
    assert QueryTower.load(saved(tmp_path / "builtin", str(tmp_path / "builtin.json"))) is None


@pytest.mark.parametrize(
    "changes", [{"no_causal_mask": True}, {"pool_type": "last"}, {"eos_id": 2}, {"mlp_ratio": 2.0}]
)
def test_what_is_said_beyond_a_plain_tower_is_left_to_the_whole_model(model: Path, changes: dict[str, Any]) -> None:
    assert QueryTower.load(model) is not None
    change_text_cfg(model, **changes)
    assert QueryTower.load(model) is None


def test_another_activation_is_left_to_the_whole_model(model: Path) -> None:
    config = json.loads((model / CONFIG_NAME).read_bytes())
    config["model_cfg"]["quick_gelu"] = True
    (model / CONFIG_NAME).write_text(json.dumps(config))
    assert QueryTower.load(model) is None


def test_other_weights_or_another_tokenizer_are_left_to_the_whole_model(model: Path) -> None:
    weights = load_file(model / WEIGHTS_NAME)
    save_file(weights | {"transformer.resblocks.0.ls_1.gamma": torch.ones(128)}, model / WEIGHTS_NAME)
    assert QueryTower.load(model) is None
    save_file({name: each.half() for name, each in weights.items()}, model / WEIGHTS_NAME)
    assert QueryTower.load(model) is None
    save_file(weights, model / WEIGHTS_NAME)
    assert QueryTower.load(model) is not None
    settings = json.loads((model / SETTINGS_NAME).read_bytes())
    (model / SETTINGS_NAME).write_text(json.dumps(settings | {"truncation_side": "left"}))
    assert QueryTower.load(model) is None
