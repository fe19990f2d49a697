"""Self-attention in steps that a graph of any length can hold: torch's own has none, or fixes the length."""

# B = batch, L = tokens, W = width, H = heads, C = channels of a head

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


@contextmanager
def plain_attention(network: nn.Module) -> Iterator[None]:
    """Has the plain self-attentions of a network go step by step; what is no such attention stays as it is."""
    ours = [module for module in network.modules() if isinstance(module, nn.MultiheadAttention) and _plain(module)]
    for module in ours:
        module.forward = partial(_attend, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in ours:
            del module.__dict__["forward"]


def _plain(module: nn.MultiheadAttention) -> bool:
    packed = module._qkv_same_embed_dim and module.in_proj_bias is not None
    return packed and module.batch_first and module.bias_k is None and not module.add_zero_attn


def _attend(
    module: nn.MultiheadAttention,
    query_BLW: torch.Tensor,
    key_BLW: torch.Tensor,
    value_BLW: torch.Tensor,
    *,
    attn_mask: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`module(…, need_weights=False)` in evaluation mode."""
    assert query_BLW is key_BLW is value_BLW, "a self-attention"
    batch, length, _width = query_BLW.shape
    mixed = F.linear(query_BLW, module.in_proj_weight, module.in_proj_bias)
    shape = (batch, length, 3, module.num_heads, module.head_dim)
    query_BHLC, key_BHLC, value_BHLC = mixed.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
    score_BHLL = query_BHLC * module.head_dim**-0.5 @ key_BHLC.transpose(2, 3)
    if attn_mask is not None:
        # One for all, or one for each head of each row.
        one = attn_mask.dim() == 2
        score_BHLL = score_BHLL + (attn_mask if one else attn_mask.reshape(batch, module.num_heads, length, length))
    mixed_BLW = (score_BHLL.softmax(dim=3) @ value_BHLC).transpose(1, 2).flatten(2)
    return F.linear(mixed_BLW, module.out_proj.weight, module.out_proj.bias), None
