import json
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from pydantic import ValidationError
from tiny import tiny_architecture, tiny_texts
from transformers import RobertaConfig, RobertaModel

from pairloom.models.towers.config import LoraConfig, ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.finetuning import finish, match_layout, parameter_groups, prepare, training_mode

TEXTS = [text for own in tiny_texts() for text in own]
TIMM = {"timm_model_name": "resnet10t", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear"}
TIMM_VIT = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "token", "timm_proj": "linear"}


def architecture(folder: Path, *, custom_text: bool = False, vision: dict[str, Any] | None = None, **text: Any) -> str:
    """The tiny architecture, changed: two layers a tower."""
    path = Path(tiny_architecture(folder))
    content = json.loads(path.read_text())
    model_cfg = content["model_cfg"]
    model_cfg["vision_cfg"]["layers"] = model_cfg["text_cfg"]["layers"] = 2
    if vision:
        model_cfg["vision_cfg"] = {"image_size": 32, **vision}
    model_cfg["text_cfg"] |= text
    model_cfg["custom_text"] = custom_text
    path.write_text(json.dumps(content))
    return str(path)


def trained(encoder: DualEncoder, config: ModelConfig, steps: int = 2) -> set[str]:
    """Trains a prepared encoder on noise and returns the names of the state that moved."""
    before = {name: tensor.clone() for name, tensor in encoder.network.state_dict().items()}
    optimizer = torch.optim.AdamW(parameter_groups(encoder, config, learning_rate=0.01, weight_decay=0.1), fused=True)
    token_BL = encoder.tokenize(TEXTS[:4])
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        image_BD = encoder.encode_images(images(encoder, generator))
        text_BD = encoder.encode_texts(encoder.trim(token_BL))
        logits_BB = encoder.network.logit_scale.exp() * image_BD @ text_BD.T  # type: ignore[operator]
        loss = torch.nn.functional.cross_entropy(logits_BB, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = encoder.network.state_dict()
    assert list(after) == list(before)
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def images(encoder: DualEncoder, generator: torch.Generator | None = None) -> torch.Tensor:
    size = encoder.preprocess_cfg["size"]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return torch.randn(4, 3, *sides, generator=generator or torch.Generator().manual_seed(0))


def embeddings(encoder: DualEncoder) -> torch.Tensor:
    encoder.network.eval()
    with torch.no_grad():
        texts_BD = encoder.encode_texts(encoder.trim(encoder.tokenize(TEXTS[:4])))
        return torch.cat([encoder.encode_images(images(encoder)), texts_BD])


@pytest.mark.parametrize("custom_text", [False, True])
def test_locked_towers_stay_and_unlocked_groups_move(custom_text: bool, tmp_path: Path) -> None:
    name = architecture(tmp_path, custom_text=custom_text)
    config = ModelConfig(architecture=name, lock_image=True, lock_text=True, unlocked_text_groups=2)
    encoder = create(config, TEXTS, seed=0)
    prepare(encoder, config, seed=0)
    moved = trained(encoder, config)
    assert {name.removeprefix("text.").split(".")[0] for name in moved} == {
        "transformer",
        "ln_final",
        "text_projection",
        "logit_scale",
    }
    assert all(".resblocks.1." in name for name in moved if "resblocks" in name)
    finish(encoder, config)
    assert all(parameter.requires_grad for parameter in encoder.network.parameters())


@pytest.mark.parametrize(("groups", "still"), [(0, {"trunk"}), (2, set())])
def test_a_locked_timm_tower_keeps_its_batch_statistics(groups: int, still: set[str], tmp_path: Path) -> None:
    name = architecture(tmp_path, vision=TIMM)
    config = ModelConfig(architecture=name, lock_image=True, unlocked_image_groups=groups, channels_last=True)
    encoder = create(config, TEXTS, seed=0)
    prepare(encoder, config, seed=0)
    moved = {name for name in trained(encoder, config) if name.startswith("visual.")}
    assert "visual.head.proj.weight" in moved
    if still:
        assert moved == {"visual.head.proj.weight"}
    else:
        assert any(name.startswith("visual.trunk.layer4.") and "running_mean" in name for name in moved)
        assert not any(
            name.startswith(("visual.trunk.conv1", "visual.trunk.bn1", "visual.trunk.layer1")) for name in moved
        )
    finish(encoder, config)
    encoder.save(tmp_path / "model")
    plain = open_clip.create_model(f"local-dir:{tmp_path / 'model'}").eval()
    with torch.no_grad():
        image_BD = plain.encode_image(images(encoder), normalize=True)
    torch.testing.assert_close(image_BD, embeddings(encoder)[:4], atol=1e-5, rtol=0)


def test_layer_decay_is_as_written_out(tmp_path: Path) -> None:
    config = ModelConfig(architecture=architecture(tmp_path), layer_decay=0.5)
    encoder = create(config, TEXTS, seed=0)
    names = {id(parameter): name for name, parameter in encoder.network.named_parameters()}
    found = {}
    for group in parameter_groups(encoder, config, learning_rate=0.1, weight_decay=0.2):
        assert group["lr"] == pytest.approx(0.1 * group["lr_scale"])
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.2 if parameter.ndim >= 2 else 0)
            found[names[id(parameter)]] = group["lr_scale"]
    assert set(found) == set(names.values())
    table = {
        "visual.conv1.weight": 0.125,
        "visual.class_embedding": 0.125,
        "visual.positional_embedding": 0.125,
        "visual.ln_pre.weight": 0.125,
        "visual.transformer.resblocks.0.attn.in_proj_weight": 0.25,
        "visual.transformer.resblocks.1.mlp.c_fc.bias": 0.5,
        "visual.ln_post.weight": 1,
        "visual.proj": 1,
        "token_embedding.weight": 0.125,
        "positional_embedding": 0.125,
        "transformer.resblocks.0.ln_1.weight": 0.25,
        "transformer.resblocks.1.mlp.c_proj.weight": 0.5,
        "ln_final.bias": 1,
        "text_projection": 1,
        "logit_scale": 1,
    }
    assert {name: found[name] for name in table} == table


def test_layer_decay_follows_timms_order_of_layers(tmp_path: Path) -> None:
    from timm.optim import param_groups_layer_decay

    config = ModelConfig(architecture=architecture(tmp_path, vision=TIMM), layer_decay=0.5)
    encoder = create(config, TEXTS, seed=0)
    groups = parameter_groups(encoder, config, learning_rate=0.1, weight_decay=0.2)
    ours = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    trunk: Any = encoder.network.visual.trunk  # type: ignore[union-attr]
    for group in param_groups_layer_decay(trunk, layer_decay=0.5):
        for parameter in group["params"]:
            assert ours[id(parameter)] == group["lr_scale"]


@pytest.mark.parametrize("custom_text", [False, True])
def test_adapters_train_alone_and_are_merged_into_a_plain_directory(custom_text: bool, tmp_path: Path) -> None:
    name = architecture(tmp_path, custom_text=custom_text)
    config = ModelConfig(architecture=name, lora=LoraConfig(rank=2, dropout=0.1), layer_decay=0.9)
    encoder = create(config, TEXTS, seed=0)
    plain_BD = embeddings(encoder)
    prepare(encoder, config, seed=0)
    torch.testing.assert_close(embeddings(encoder), plain_BD, atol=1e-6, rtol=0)
    training_mode(encoder)
    moved = trained(encoder, config)
    assert all(".lora_" in name or name == "logit_scale" for name in moved)
    for layer in ("attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"):
        assert f"visual.transformer.resblocks.1.{layer}.lora_B.default.weight" in moved
    adapted_BD = embeddings(encoder)
    whole_BD = encoder.encode_texts(encoder.tokenize(TEXTS[:4]))
    torch.testing.assert_close(adapted_BD[4:], whole_BD, atol=1e-6, rtol=0)  # trimming stays exact
    assert (adapted_BD - plain_BD).abs().max() > 1e-3
    finish(encoder, config)
    encoder.save(tmp_path / "model")
    network = open_clip.create_model(f"local-dir:{tmp_path / 'model'}").eval()
    token_BL = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'model'}")(TEXTS[:4])
    with torch.no_grad():
        found_BD = torch.cat(
            [network.encode_image(images(encoder), normalize=True), network.encode_text(token_BL, normalize=True)]
        )
    torch.testing.assert_close(found_BD, adapted_BD, atol=1e-5, rtol=0)
    assert set(network.state_dict()) == set(create(config, TEXTS, seed=0).network.state_dict())


def test_adapters_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    config = ModelConfig(architecture=architecture(tmp_path), lora=LoraConfig(targets=("c_fc",)), lock_image=True)
    first, second = (create(config, TEXTS, seed=0) for _ in range(2))
    prepare(first, config, seed=0)
    assert {name.split(".")[0] for name in trained(first, config)} == {"transformer", "logit_scale"}
    prepare(second, config, seed=0)
    second.network.load_state_dict(first.network.state_dict())
    assert torch.equal(embeddings(first), embeddings(second))


def test_fused_adamw_goes_on_with_channels_last_from_contiguous_state() -> None:
    start = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))

    def stepped(parameter: torch.nn.Parameter, optimizer: torch.optim.AdamW, factor: float) -> torch.Tensor:
        parameter.grad = (factor * start + 1).to(memory_format=torch.channels_last)
        optimizer.step()
        return parameter.detach()

    ends = []
    for resumed in (False, True):
        parameter = torch.nn.Parameter(start.clone().to(memory_format=torch.channels_last))
        optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
        stepped(parameter, optimizer, 1)
        if resumed:
            state = optimizer.state_dict()
            for key in ("exp_avg", "exp_avg_sq"):
                state["state"][0][key] = state["state"][0][key].contiguous()
            optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
            optimizer.load_state_dict(state)
            match_layout(optimizer)
        ends.append(stepped(parameter, optimizer, -2))
    assert torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("vision", [None, TIMM_VIT])
def test_patches_are_left_out_in_training_only(vision: dict[str, Any] | None, tmp_path: Path) -> None:
    config = ModelConfig(architecture=architecture(tmp_path, vision=vision), patch_dropout=0.5)
    encoder = create(config, TEXTS, seed=0)
    pixels_BCHW = torch.randn(2, 3, *images(encoder).shape[2:])
    if vision:
        pixels_BCHW = torch.randn(2, 3, 160, 160)
    encoder.network.eval()
    plain_BD = encoder.encode_images(pixels_BCHW)
    prepare(encoder, config, seed=0)
    torch.manual_seed(0)
    assert not torch.allclose(encoder.encode_images(pixels_BCHW), plain_BD, atol=1e-4)
    encoder.network.eval()
    assert torch.equal(encoder.encode_images(pixels_BCHW), plain_BD)
    finish(encoder, config)
    encoder.network.train()
    torch.testing.assert_close(encoder.encode_images(pixels_BCHW), plain_BD, atol=1e-6, rtol=0)


def test_a_hugging_face_text_tower_is_adapted_and_not_trimmed(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    RobertaModel(
        RobertaConfig(vocab_size=300, max_position_embeddings=32, **shape), add_pooling_layer=False
    ).save_pretrained(tmp_path / "roberta")
    name = architecture(
        tmp_path, hf_model_name=str(tmp_path / "roberta"), hf_proj_type="linear", hf_pooler_type="mean_pooler"
    )
    config = ModelConfig(architecture=name, lock_text=True, unlocked_text_groups=1, layer_decay=0.5)
    encoder = create(config, TEXTS, seed=0)
    token_BL = encoder.tokenize(TEXTS[:4])
    assert encoder.trim(token_BL).shape == token_BL.shape
    prepare(encoder, config, seed=0)
    assert {name.split("attention")[0] for name in trained(encoder, config) if "encoder.layer" in name} >= {
        "text.transformer.encoder.layer.1."
    }
    adapted = ModelConfig(architecture=name, lora=LoraConfig(targets=("query", "value")))
    encoder = create(adapted, TEXTS, seed=0)
    prepare(encoder, adapted, seed=0)
    assert all(".lora_" in name or name == "logit_scale" for name in trained(encoder, adapted))


@pytest.mark.parametrize("vision", [{**TIMM, "timm_model_name": "test_convnext"}, TIMM_VIT])
def test_other_architectures_take_a_step(vision: dict[str, Any], tmp_path: Path) -> None:
    # A timm tower at its own size, beside a text tower with open_clip's vocabulary.
    name = architecture(tmp_path, custom_text=True, vision={**vision, "image_size": 160})
    config = ModelConfig(architecture=name, layer_decay=0.7, lora=LoraConfig(rank=2))
    encoder = create(config, TEXTS, seed=0)
    prepare(encoder, config, seed=0)
    assert any(name.startswith("visual.trunk.") for name in trained(encoder, config, steps=1))
    adapted_BD = embeddings(encoder)
    finish(encoder, config)
    torch.testing.assert_close(embeddings(encoder), adapted_BD, atol=1e-5, rtol=0)


def test_weights_come_from_a_file_or_a_directory(tmp_path: Path) -> None:
    name = architecture(tmp_path)
    source = create(ModelConfig(architecture=name), TEXTS, seed=1)
    source.save(tmp_path / "model")
    torch.save(source.network.state_dict(), tmp_path / "weights.pt")
    torch.save({"epoch": 3, "state_dict": source.network.state_dict()}, tmp_path / "training.pt")
    for file in ("model/open_clip_model.safetensors", "weights.pt", "training.pt"):
        encoder = create(ModelConfig(architecture=name, pretrained=str(tmp_path / file)), TEXTS, seed=0)
        assert torch.equal(embeddings(encoder), embeddings(source)), file
    encoder = create(ModelConfig(architecture=f"local-dir:{tmp_path / 'model'}"), TEXTS, seed=0)
    assert torch.equal(embeddings(encoder), embeddings(source))
    # As open_clip's older directories on the hub have it.
    (tmp_path / "model" / "open_clip_model.safetensors").unlink()
    torch.save(source.network.state_dict(), tmp_path / "model" / "open_clip_pytorch_model.bin")
    assert torch.equal(embeddings(load(tmp_path / "model")), embeddings(source))


def test_weights_that_are_missing_or_others_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for settings in (
        {"architecture": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"},
        {"architecture": "hf-hub:nobody/nothing"},
        {"architecture": "ViT-B/32", "pretrained": "laion2b_s34b_b79k"},
    ):
        with pytest.raises(ValueError, match=r"needs files that aren't on this machine.*HF_HOME.*local-dir:DIR"):
            create(ModelConfig(**settings), [], seed=0)
    name = architecture(tmp_path)
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    torch.save({"visual.proj": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save({"state_dict": Path("pickled")}, tmp_path / "object.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    (tmp_path / "empty.pt").touch()
    for file in ("bad.pt", "empty.pt", "other.pt", "object.pt", "bad.safetensors"):
        with pytest.raises(ValueError, match=r"doesn't hold plain weights of"):
            create(ModelConfig(architecture=name, pretrained=str(tmp_path / file)), TEXTS, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unlocked_image_groups": 1}, "unlocked_image_groups: 1 needs lock_image: true"),
        ({"lock_text": True, "unlocked_text_groups": 1, "lora": {}}, "exclude each other"),
        ({"lock_text": True, "lock_image": True}, "leave nothing to train"),
        ({"architecture": "local-dir:model", "pretrained": "openai"}, "brings its own weights"),
        ({"layer_decay": 1.5}, "less than or equal to 1"),
        ({"patch_dropout": 1}, "less than 1"),
        ({"lora": {"rank": 0}}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**settings)


def test_what_an_architecture_cannot_do_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resnet = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 32}
    name = architecture(tmp_path, vision=resnet)
    for settings, message in (
        ({"lock_image": True, "unlocked_image_groups": 1}, r"unlocked_image_groups: 1: open_clip can't lock a part"),
        ({"patch_dropout": 0.5}, r"patch_dropout: 0.5: a ModifiedResNet has no patches"),
        ({"lora": {"targets": ["qkv"]}}, r"lora.targets: no layer that isn't locked is called qkv; there are .*c_fc"),
    ):
        config = ModelConfig(architecture=name, **settings)
        with pytest.raises(ValueError, match=message):
            prepare(create(config, TEXTS, seed=0), config, seed=0)
    config = ModelConfig(architecture=name, layer_decay=0.5)
    with pytest.raises(ValueError, match=r"layer_decay: a ModifiedResNet has no order of layers"):
        parameter_groups(create(config, TEXTS, seed=0), config, learning_rate=1, weight_decay=0)
    monkeypatch.setitem(sys.modules, "peft", None)
    config = ModelConfig(architecture=name, lora=LoraConfig())
    with pytest.raises(ValueError, match=r"pip install 'pairloom\[lora\]'"):
        prepare(create(config, TEXTS, seed=0), config, seed=0)


def test_a_missing_compiler_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "missing")))
    config = ModelConfig(architecture=architecture(tmp_path), compile=True)
    with pytest.raises(ValueError, match=r"model.compile: .*No working C\+\+ compiler.*compile: false"):
        prepare(create(config, TEXTS, seed=0), config, seed=0)


@pytest.mark.parametrize("name", ["ViT-S-32-alt", "MobileCLIP-S1"])
def test_open_clips_own_architectures_take_a_step(name: str) -> None:
    config = ModelConfig(architecture=name, lock_image=True, unlocked_image_groups=1, layer_decay=0.7)
    encoder = create(config, [], seed=0)
    prepare(encoder, config, seed=0)
    optimizer = torch.optim.AdamW(parameter_groups(encoder, config, learning_rate=1e-3, weight_decay=0.1))
    image_BD = encoder.encode_images(images(encoder)[:2])
    text_BD = encoder.encode_texts(encoder.trim(encoder.tokenize(["a cat", "a black dog"])))
    (image_BD @ text_BD.T).sum().backward()  # type: ignore[no-untyped-call]
    before = [parameter.detach().clone() for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.step()
    after = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True)) > len(after) / 2
