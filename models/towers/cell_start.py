"""Weights written by hand for the last stages of a frozen EfficientNet-Lite0: what its middle shows, place by place.

Its last stages were taught what a thousand kinds of photographed things have in common, its middle ones what shapes,
strokes and colours a picture has, and drawings are told apart by these. From the fifth stage on each layer only hands
on: channels of the middle, halved in resolution, and where a place lies. The last layer has a unit for each channel and
each of nine cells, open in its own cell alone, so that the mean over all places, which the tower takes last, is
the channel's mean in that cell.
"""

# C = channels of the middle, N = their places

import math
from typing import Any

import torch

MIDDLE = 4
"""The stage that is looked at, counted from 0."""
CELLS = 3
"""A side: the first row of places, the last one, and all between."""
REACH = 3.0
"""Standard deviations of a channel, to either side of its mean, that the rectifiers, which cut at 0 and 6, let pass."""
SHUT = 12.0
"""What keeps a unit closed outside of its cell, more than anything that passes."""
AT_BORDERS = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""The neighbours that a place lacks at the top, at the bottom, at the left and at the right."""


def start_from_cells(trunk: Any) -> None:
    """Gives timm's `tf_efficientnet_lite0` these weights, in place; its first five stages stay as they are.

    ValueError where it has another shape than they need.
    """
    ones = channels = _middle_channels(trunk)
    borders = range(ones + 1, ones + 1 + len(AT_BORDERS))
    (halve, *rest), (last,) = trunk.blocks[MIDDLE + 1], trunk.blocks[MIDDLE + 2]
    norms = [block.bn3 for block in trunk.blocks[MIDDLE]]
    mean_C = sum(norm.bias.detach() for norm in norms)
    spread_C = torch.stack([norm.weight.detach() for norm in norms]).square().sum(dim=0).sqrt()
    with torch.no_grad():
        for part in (halve, *rest, last, trunk.conv_head, trunk.bn2):
            for module in part.modules():
                _silence(module)

        halve.conv_pw.weight[:channels, :, 0, 0] = torch.diag(1 / spread_C)
        halve.bn1.bias[:channels] = REACH - mean_C / spread_C
        halve.bn1.bias[ones] = 1
        # Padded by one at the top and left, so that these four taps cover each place once.
        halve.conv_dw.weight[: ones + 1, 0, 1:3, 1:3] = 1 / 4
        _hand_on(halve.conv_pwl, ones + 1)

        first = rest[0]
        for unit, (row, column) in enumerate(AT_BORDERS):
            first.conv_pw.weight[unit, ones] = 1
            first.conv_dw.weight[unit, 0, 2 + row, 2 + column] = 1
            first.conv_pwl.weight[borders[unit], unit] = 1

        _hand_on(last.conv_pw, borders.stop)
        last.conv_dw.weight[: borders.stop, 0, 1, 1] = 1
        _hand_on(last.conv_pwl, borders.stop)

        for cell in range(CELLS**2):
            units = slice(cell, channels * CELLS**2, CELLS**2)
            trunk.conv_head.weight[units, :channels, 0, 0] = torch.eye(channels)
            for place, (before, after) in ((cell // CELLS, borders[:2]), (cell % CELLS, borders[2:])):
                if place == 1:
                    trunk.conv_head.weight[units, [before, after]] = SHUT
                    trunk.bn2.bias[units] -= 2 * SHUT
                else:
                    trunk.conv_head.weight[units, before if place == 0 else after] = -SHUT


def _middle_channels(trunk: Any) -> int:
    blocks = getattr(trunk, "blocks", ())
    if [len(stage) for stage in blocks][MIDDLE:] != [3, 4, 1]:
        raise ValueError('an architecture with `"start": "cells"` needs timm_model_name: tf_efficientnet_lite0')
    channels: int = blocks[MIDDLE][-1].conv_pwl.out_channels
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


def _hand_on(convolution: torch.nn.Conv2d, channels: int) -> None:
    convolution.weight[:channels, :channels, 0, 0] = torch.eye(channels)
