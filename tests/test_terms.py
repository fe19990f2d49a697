from pathlib import Path

import torch
from tiny import tiny_encoder

from pairloom.models.objectives.batch import Setting
from pairloom.models.objectives.config import ClipConfig, DistanceConfig, InstanceConfig, SiglipConfig, partners, wants
from pairloom.models.objectives.terms import Objectives


def test_objectives_that_no_pipeline_names_train_nothing(tmp_path: Path) -> None:
    objectives = Objectives([ClipConfig()], Setting(tiny_encoder(tmp_path), 32, 0))
    assert objectives.state_dict() == {}
    assert wants([ClipConfig()]) == {"image", "text"}
    assert partners([ClipConfig()]) == set()


def test_a_batch_brings_what_any_of_several_objectives_wants() -> None:
    together = [ClipConfig(), DistanceConfig()]
    assert wants(together) == ClipConfig().wants | DistanceConfig().wants
    assert partners(together) == {"target"}


def test_terms_of_one_loss_are_numbered_and_keep_their_own(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    configs = [SiglipConfig(), SiglipConfig(weight=0.5), InstanceConfig()]
    first = Objectives(configs, Setting(encoder, 32, 0))
    assert first.names == ["siglip_1", "siglip_2", "instance"]
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1)
    first.save_kept(tmp_path / "model")
    again = Objectives(configs, Setting(encoder, 32, 0))
    before = {name: tensor.clone() for name, tensor in again.state_dict().items()}
    again.load_kept(tmp_path / "model")
    for name, tensor in again.state_dict().items():
        kept = name.startswith("terms.siglip")
        assert torch.equal(tensor, first.state_dict()[name] if kept else before[name]), name
    assert any(name.startswith("terms.instance") for name in before)
