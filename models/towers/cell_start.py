"""Weights written by hand for the last stage of a frozen EfficientNet-Lite0: what comes before it, place by place.

Its last stage was taught what a thousand kinds of photographed things have in common, those before it what shapes,
strokes and colours a picture has, and drawings are told apart by these. From the seventh stage on each layer only hands
on: the channels of the sixth, and where a place lies. The last layer has a unit for each channel and each of six cells,
open in its own cell alone, so that the mean over all places, which the tower takes last, is the channel's mean in that
cell. The cells are the first row of places, the last one and all between, each of them without its right end and
without its left end: three rows and three columns of 192 channels would be more units than the layer has.
"""

# C = channels of the sixth stage

import math
from typing import Any

import torch

SEEN = 5
"""The stage that is looked at, counted from 0."""
ROWS, HALVES = 3, 2
REACH = 3.0
"""Standard deviations of a channel, to either side of its mean, that the rectifiers, which cut at 0 and 6, let pass."""
SHUT = 12.0
"""What keeps a unit closed outside of its cell, more than anything that passes."""
AT_BORDERS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""The neighbours that a place lacks at the top, at the bottom, at the left and at the right."""


def start_from_cells(trunk: Any) -> None:
    """Gives timm's `tf_efficientnet_lite0` these weights, in place; its first six stages stay as they are.

    ValueError where it has another shape than they need.
    """
    channels = _seen_channels(trunk)
    above, below, left, right = range(channels, channels + len(AT_BORDERS))
    (last,) = trunk.blocks[SEEN + 1]
    norms = [block.bn3 for block in trunk.blocks[SEEN]]
    mean_C = sum(norm.bias.detach() for norm in norms)
    spread_C = torch.stack([norm.weight.detach() for norm in norms]).square().sum(dim=0).sqrt()
    with torch.no_grad():
        for part in (last, trunk.conv_head, trunk.bn2):
            for module in part.modules():
                _silence(module)

        last.conv_pw.weight[:channels, :, 0, 0] = torch.diag(1 / spread_C)
        last.bn1.bias[:channels] = REACH - mean_C / spread_C
        last.conv_dw.weight[:channels, 0, 1, 1] = 1
        # A constant, looked up at a neighbour: beyond the border there is nothing.
        for unit, (row, column) in zip((above, below, left, right), AT_BORDERS, strict=True):
            last.bn1.bias[unit] = 1
            last.conv_dw.weight[unit, 0, 1 + row, 1 + column] = 1
        last.conv_pwl.weight[: right + 1, : right + 1, 0, 0] = torch.eye(right + 1)

        for cell in range(ROWS * HALVES):
            units = slice(cell, channels * ROWS * HALVES, ROWS * HALVES)
            row, half = divmod(cell, HALVES)
            trunk.conv_head.weight[units, :channels, 0, 0] = torch.eye(channels)
            lacked, had = (((above,), ()), ((), (above, below)), ((below,), ()))[row]
            for neighbour in lacked:
                trunk.conv_head.weight[units, neighbour] = -SHUT
            for neighbour in (*had, (right, left)[half]):
                trunk.conv_head.weight[units, neighbour] = SHUT
                trunk.bn2.bias[units] -= SHUT


def _seen_channels(trunk: Any) -> int:
    blocks = getattr(trunk, "blocks", ())
    if [len(stage) for stage in blocks][SEEN - 1 :] != [3, 4, 1]:
        raise ValueError('an architecture with `"start": "cells"` needs timm_model_name: tf_efficientnet_lite0')
    channels: int = blocks[SEEN][-1].conv_pwl.out_channels
    return channels


def _silence(module: Any) -> None:
    """Convolutions of nothing, and norms that leave everything as it is."""
    if isinstance(module, torch.nn.Conv2d):
        module.weight.zero_()
    elif isinstance(module, torch.nn.BatchNorm2d):
        module.bias.zero_()
        module.running_mean.zero_()  # type: ignore[union-attr]  # it keeps statistics
        module.running_var.fill_(1)  # type: ignore[union-attr]
        module.weight.fill_(math.sqrt(1 + module.eps))
