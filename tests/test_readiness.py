"""What a night finds missing before it reads anything."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_architecture

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.layout import WEIGHTS_NAME
from pairloom.models.towers.names import require_towers
from pairloom.tasks.readiness import require_extras

WritePipelines = Callable[..., Path]


@pytest.fixture
def file(tmp_path: Path, shapes: Path, write_pipelines: WritePipelines) -> Path:
    return write_pipelines(tmp_path, shapes)


@pytest.mark.parametrize(
    ("said", "override"),
    [
        ("no open_clip_config.json", "model.architecture=local-dir:absent"),
        ("there is no file", "model.architecture=absent.json"),
        ("nothing is called 'tiny-65'; nearest: tiny-64", "model.architecture=tiny-65"),
        ("'absent.safetensors' is no file; 'tiny-64' is no open_clip model", "model.pretrained=absent.safetensors"),
        ("pairs: ", "pairs=[absent.csv]"),
    ],
)
def test_what_a_first_night_lacks_is_told_before_any_row_is_read(file: Path, said: str, override: str) -> None:
    pipeline = load_pipeline(file, overrides=[override])
    with pytest.raises(ValueError, match=r"^\S") as caught:
        nightly(pipeline)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not pipeline.folder.exists()


def test_a_weights_file_that_is_none_is_told_of_an_open_clip_model_too() -> None:
    with pytest.raises(ValueError, match=r"model.pretrained: there is no file weights/b32\.pt"):
        require_towers(ModelConfig(architecture="ViT-B-32", pretrained="weights/b32.pt"))
    require_towers(ModelConfig(architecture="ViT-B-32", pretrained="laion2b_s34b_b79k"))
    require_towers(ModelConfig(architecture="hf-hub:someone/model"))


@pytest.mark.parametrize(
    ("module", "extra", "override"),
    [
        ("peft", "lora", "model.lora={}"),
        ("gensim", "objectives", "model.word_vectors={}"),
        ("ot", "objectives", "mining.distances={}"),
        ("pytorch_metric_learning", "objectives", "objective=[{loss: triplet}]"),
        ("tensorboard", "tensorboard", "training.tensorboard=board"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    file: Path, module: str, extra: str, override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    require_extras(load_pipeline(file))
    with pytest.raises(ValueError, match=rf"isn't installed: pip install 'pairloom\[{extra}\]'"):
        require_extras(load_pipeline(file, overrides=[override]))


def test_a_night_that_starts_from_its_champion_needs_no_first_weights(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines
) -> None:
    first = tmp_path / "first"
    create(ModelConfig(architecture=tiny_architecture(tmp_path)), ["a red square"], seed=0).save(first)
    file = write_pipelines(tmp_path, shapes, model={"architecture": f"local-dir:{first}"})
    assert nightly(load_pipeline(file)).outcome == "released"
    (first / WEIGHTS_NAME).unlink()
    again = nightly(load_pipeline(file, overrides=["training.seed=1", "gate.max_regression=1"]))
    assert again.outcome == "released"
    shutil.copytree(first, tmp_path / "other")
    with pytest.raises(ValueError, match=f"other: no {WEIGHTS_NAME}"):
        nightly(load_pipeline(file, overrides=[f"model.architecture=local-dir:{tmp_path / 'other'}"]))
