"""Low-rank adapters (LoRA, Hu et al. 2021) by `peft`: put into a network for training, then merged into its weights."""

# B = batch, L = tokens, W = width of the tower, H = heads

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.towers.config import LoraConfig


class SelfAttention(nn.Module):
    """The computation of torch's self-attention, with its projections as layers that an adapter can be put on.

    peft's own adapter of `nn.MultiheadAttention` adds its product to the frozen weights and takes it away again in each
    forward, so that they drift by rounding, and can't have dropout.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        width = attention.embed_dim
        self.num_heads = attention.num_heads
        self.in_proj = nn.Linear(width, 3 * width, device="meta")
        self.out_proj = nn.Linear(width, width, device="meta")
        self.in_proj.weight, self.in_proj.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj.weight, self.out_proj.bias = attention.out_proj.weight, attention.out_proj.bias

    def forward(self, x_BLW: torch.Tensor, *_: torch.Tensor, attn_mask: torch.Tensor | None, **__: bool) -> Any:
        """As the layer that it stands for: (output, no weights). Keys and values are the queries."""
        batch, length, width = x_BLW.shape
        q_BHLd, k_BHLd, v_BHLd = (
            self.in_proj(x_BLW).view(batch, length, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        )
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.view(batch, self.num_heads, length, length)
        out_BHLd = F.scaled_dot_product_attention(q_BHLd, k_BHLd, v_BHLd, attn_mask=attn_mask)
        return self.out_proj(out_BHLd.transpose(1, 2).reshape(batch, length, width)), None

    def original(self) -> nn.Module:
        """torch's own layer with these weights."""
        width = self.out_proj.in_features
        attention = nn.MultiheadAttention(width, self.num_heads, batch_first=True, device="meta")
        attention.register_parameter("in_proj_weight", self.in_proj.get_parameter("weight"))
        attention.register_parameter("in_proj_bias", self.in_proj.get_parameter("bias"))
        attention.out_proj.weight, attention.out_proj.bias = self.out_proj.weight, self.out_proj.bias
        return attention


def add_adapters(network: nn.Module, config: LoraConfig, *, seed: int) -> None:
    """Freezes an open_clip network and puts adapters, which train, on those target layers that trained until now.

    A new adapter changes no output. ValueError where peft isn't installed or no layer has a target's name.
    """
    peft = _peft()
    for name, module in list(network.named_modules()):
        if _is_self_attention(network, name, module):
            network.set_submodule(name, SelfAttention(module))
    names = _target_names(network, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                # A pattern of whole names: the text tower's are ends of the image tower's.
                target_modules="|".join(map(re.escape, names)),
            ),
            network,
        )


def merge_adapters(network: nn.Module) -> None:
    """Adds the adapters to the weights they stand beside: the same embeddings from the layers there were before."""
    layer = _peft().tuners.tuners_utils.BaseTunerLayer
    for name, module in list(network.named_modules()):
        if isinstance(module, layer):
            module.merge()
            network.set_submodule(name, module.get_base_layer())
    for name, module in list(network.named_modules()):
        if isinstance(module, SelfAttention):
            network.set_submodule(name, module.original())


def _is_self_attention(network: nn.Module, name: str, module: nn.Module) -> bool:
    """Whether it is the attention of one of open_clip's blocks, not of a pooling or cross-attention."""
    if not isinstance(module, nn.MultiheadAttention) or not module.batch_first:
        return False
    block = network.get_submodule(name.rpartition(".")[0])
    return type(block).__name__ == "ResidualAttentionBlock" and not hasattr(block, "ln_1_kv")


def _target_names(network: nn.Module, config: LoraConfig) -> list[str]:
    linear: list[str] = []
    convolutional: list[str] = []
    for name, module in network.named_modules():
        # A subclass of Linear, or OpenAI's attention pooling, uses the weights without calling the layer.
        if type(module) not in (nn.Linear, nn.Conv2d) or ".attnpool." in name:
            continue
        if all(parameter.requires_grad for parameter in module.parameters()):
            (linear if type(module) is nn.Linear else convolutional).append(name)
    if config.targets is None:
        names, unknown = linear, []
    else:
        candidates = linear + convolutional
        found = {end: [name for name in candidates if f".{name}".endswith(f".{end}")] for end in config.targets}
        names = [name for name in candidates if any(name in each for each in found.values())]
        unknown = [end for end, each in found.items() if not each]
    if unknown or not names:
        ends = sorted({re.sub(r".*\.\d+\.", "", name) for name in linear + convolutional})
        raise ValueError(
            f"model.lora.targets: no layer that isn't locked is called {', '.join(unknown) or 'linear'}; "
            f"there are {', '.join(ends) or 'none'}"
        )
    return names


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError("model.lora needs peft, which isn't installed: pip install 'pairloom[lora]'") from error
    return peft
