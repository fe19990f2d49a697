"""Prepares a dual encoder for training: what is frozen, adapted, dropped and at which learning rate; and undoes it."""

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.lora import add_adapters, merge_adapters
from pairloom.models.towers.recurrent import LstmTextTower
from pairloom.models.towers.trunk import has_token_head

FITTED_RATE = 0.1
"""Share of the learning rate at which towers go on that a closed form has fitted: more spoils what they know of items
that the training doesn't show (benchmarks/pretrained.md)."""


def prepare(encoder: DualEncoder, config: ModelConfig, *, seed: int) -> None:
    """Makes the encoder, in place, the one to train: locks, adapters, patch dropout, memory layout, compilation.

    Leaves it in training mode. Names of the state are the same for the same `config`; without `lora` they are those of
    the saved model. ValueError where the architecture can't do what is asked for.
    """
    network: Any = encoder.network
    image_towers: list[Any] = list(encoder.image_towers.values())
    if config.lock_image:
        for tower in image_towers:
            _lock("image", tower.lock, config.unlocked_image_groups)
            if config.closed_form_start and has_token_head(tower):
                tower.ln_post.requires_grad_(True)
                tower.proj.requires_grad_(True)
    if config.lock_text:
        _lock("text", network.lock_text_tower, config.unlocked_text_groups)
    if config.lora is not None:
        if isinstance(getattr(network, "text", None), LstmTextTower) and not config.lock_text:
            raise ValueError(
                "model.lora: an LSTM has no linear layers that adapters fit on; lock_text: true adapts the image tower "
                "alone, without lora all is trained"
            )
        add_adapters(network, config.lora, seed=seed)
        _scale_parameters(network, requires_grad=True)
    if config.patch_dropout:
        for tower in image_towers:
            _set_patch_dropout(tower, config.patch_dropout)
    if config.channels_last:
        for tower in image_towers:
            tower.to(memory_format=torch.channels_last)
    training_mode(encoder)
    if config.compile:
        _compile(encoder)


def training_mode(encoder: DualEncoder) -> None:
    """Training mode, except for frozen batch normalisation: it keeps its statistics as it keeps its weights."""
    encoder.network.train()
    for module in encoder.network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
            module.train(module.weight.requires_grad)


def finish(encoder: DualEncoder, config: ModelConfig) -> None:
    """Makes the encoder, in place, a plain open_clip network again, in evaluation mode, with nothing frozen."""
    network: Any = encoder.network
    image_towers = list(encoder.image_towers.values())
    for module in _compiled_parts(encoder) if config.compile else []:
        module._compiled_call_impl = None
    if config.lora is not None:
        merge_adapters(network)
    if config.patch_dropout:
        for tower in image_towers:
            _set_patch_dropout(tower, 0)
    if config.channels_last:
        for tower in image_towers:
            tower.to(memory_format=torch.contiguous_format)
    network.requires_grad_(True).eval()


def parameter_groups(
    encoder: DualEncoder, config: ModelConfig, *, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's parameter groups of what is trained, in the network's order.

    A group has `lr_scale`, its share of the learning rate (`config.layer_decay`, or `FITTED_RATE` of towers that were
    fitted in closed form; else 1), and `lr`, the learning rate times it. Gains, biases and the logit scale (fewer than
    two dimensions) aren't decayed.
    """
    if config.closed_form_start:
        scales = {name: FITTED_RATE for name, _ in encoder.network.named_parameters()}
    else:
        scales = _layer_scales(encoder, config.layer_decay)
    return _groups(encoder.network, scales, learning_rate, weight_decay)


def own_groups(objectives: nn.Module, *, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """The same of what objectives train of their own, at the full learning rate."""
    return _groups(objectives, {}, learning_rate, weight_decay)


def _groups(
    module: nn.Module, scales: Mapping[str, float], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((scales.get(name, 1.0), parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * scale,
            "lr_scale": scale,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (scale, decayed), parameters in groups.items()
    ]


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Gives the state that an optimizer was loaded with the memory layout of its parameters.

    Needed with `channels_last`: a checkpoint's tensors are contiguous, and fused AdamW, which walks through parameter
    and state as flat memory, would silently pair the wrong numbers.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _lock(tower: str, lock: Callable[..., None], groups: int) -> None:
    try:
        # open_clip's Hugging Face towers print.
        with contextlib.redirect_stdout(io.StringIO()):
            if tower == "image" and groups and isinstance(_trunk(lock), nn.Module):
                _lock_timm(_trunk(lock), groups)
            else:
                lock(groups)
    except (AssertionError, AttributeError, KeyError) as error:
        raise ValueError(
            f"model.unlocked_{tower}_groups: {groups}: open_clip can't lock a part of this {tower} tower ({error}); "
            f"leave it at 0 to lock all of it, or lock_{tower}: false"
        ) from error


def _trunk(lock: Any) -> Any:
    return getattr(lock.__self__, "trunk", None)


def _lock_timm(trunk: Any, groups: int) -> None:
    """open_clip's partial lock of a timm tower, which imports by a path that timm is to drop."""
    from timm.models import group_parameters

    grouped = group_parameters(trunk, trunk.group_matcher())
    for number in range(max(grouped) - groups + 1):
        for name in grouped[number]:
            trunk.get_parameter(name).requires_grad_(False)


def _scale_parameters(network: Any, *, requires_grad: bool) -> None:
    """The loss's own parameters, which belong to no tower."""
    for parameter in (network.logit_scale, network.logit_bias):
        if parameter is not None:
            parameter.requires_grad_(requires_grad)


def _set_patch_dropout(visual: Any, share: float) -> None:
    """Patches are left out in training only (Li et al. 2022, Scaling Language-Image Pre-training via Masking)."""
    import timm
    from open_clip.transformer import PatchDropout, VisionTransformer

    trunk = getattr(visual, "trunk", None)
    if isinstance(visual, VisionTransformer):
        visual.patch_dropout = PatchDropout(share) if share else nn.Identity()
    elif isinstance(trunk, timm.models.VisionTransformer):
        dropout = timm.layers.PatchDropout(share, num_prefix_tokens=trunk.num_prefix_tokens)
        trunk.patch_drop = dropout if share else nn.Identity()
    else:
        raise ValueError(
            f"model.patch_dropout: {share}: a {type(trunk or visual).__name__} has no patches to leave out; use 0"
        )


def _compiled_parts(encoder: DualEncoder) -> list[nn.Module]:
    """The image towers, and a text transformer's layers: CLIP's text tower isn't a module of its own."""
    network: Any = encoder.network
    text = getattr(network, "text", network)
    # An LSTM is one call of a compiled library already.
    return [*encoder.image_towers.values(), *([] if isinstance(text, LstmTextTower) else [text.transformer])]


def _compile(encoder: DualEncoder) -> None:
    try:
        # Compiling happens at the first call, deep in the training: find out now whether it works here.
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=encoder.device))
    except Exception as error:
        raise ValueError(
            f"model.compile: torch.compile doesn't work here ({str(error).splitlines()[0]}); on a CPU it needs a C++ "
            "compiler such as g++. Install one, or set compile: false"
        ) from error
    for module in _compiled_parts(encoder):
        module.compile()  # in place: names of the state stay as they are


def _layer_scales(encoder: DualEncoder, decay: float | None) -> dict[str, float]:
    """Each tower parameter's share of the learning rate (BEiT, Bao et al. 2021): `decay` to the power of its distance
    from the tower's head; embeddings are farthest."""
    if decay is None:
        return {}
    towers: dict[str, dict[str, int]] = {"": {}}
    for prefix, tower in encoder.image_towers.items():
        towers[prefix] = _timm_layers(prefix, tower) if hasattr(tower, "trunk") else {}
        if not hasattr(tower, "trunk") and not hasattr(tower, "transformer"):
            raise ValueError(f"model.layer_decay: a {type(tower).__name__} has no order of layers; leave it out")
    for name, _ in encoder.network.named_parameters():
        own = towers[next((prefix for prefix in encoder.image_towers if name.startswith(prefix)), "")]
        if name not in ("logit_scale", "logit_bias") and name not in own:
            own[name] = _transformer_layer(name)
    scales: dict[str, float] = {}
    for layers in towers.values():
        head = max(max(layers.values(), default=0), 0)
        # -1 stands for what follows the blocks.
        head += 1 if -1 in layers.values() else 0
        scales |= {name: decay ** (head - (head if layer == -1 else layer)) for name, layer in layers.items()}
    return scales


def _timm_layers(prefix: str, visual: Any) -> dict[str, int]:
    """timm's own order of its layers; open_clip's projection is as far as timm's head."""
    from timm.models import group_parameters

    trunk = visual.trunk
    if not hasattr(trunk, "group_matcher"):
        raise ValueError(f"model.layer_decay: timm doesn't order the layers of {type(trunk).__name__}; leave it out")
    layers = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
    head = max(layers.values())
    return {f"{prefix}trunk.{name}": layer for name, layer in layers.items()} | {
        f"{prefix}head.{name}": head for name, _ in visual.head.named_parameters()
    }


def _transformer_layer(name: str) -> int:
    """0 for embeddings, 1 and up for blocks, -1 for what follows them; open_clip's, Hugging Face's and our names."""
    if block := re.search(r"transformer\.(?:\w+\.)*?(\d+)\.|lstm\.\w+_l(\d+)", name):
        return int(block[1] or block[2]) + 1
    return 0 if re.search(r"emb|conv1\.|ln_pre", name) else -1
