"""Weights written by hand for a vision transformer: which colours, edges and textures a photograph has, and where.

A dictionary of small filters (Coates, Ng and Lee 2011) is laid over each picture: Gabor functions of lightness and of
opponent colours, in the shape that they have once pictures are whitened, and their mirror images, so that a picture and
its mirror image are the same. A filter's response counts from a threshold on. The class token takes the mean response
of each filter in each of four regions, and bends it: a little of something tells more than more of much.
"""

# W = width, K = filters, P = pixels along a patch, R = pixels along a filter, C = colours, H = regions = heads

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pairloom.models.arrays import Values

SIDE, STEP = 4, 2
"""Pixels along a filter, and from one place in a patch to the next."""
SPARE = 8
"""Dimensions of each head that hold no filter, and in all hold what is constant."""
LAYERS = 2
REGIONS = 4
COLOURED = 0.5
"""Share of the filters that see opponent colours."""
COLOURS = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (-0.5, -0.5, 1.0))
"""Lightness, red against green, blue against both."""
REACH = 12.0
"""Pixels after which two places of a photograph are alike by 1 / e."""
VARIANCE, OPPONENT = 0.8, 0.04
"""Of pixels from -1 to 1, along lightness, and the share of it along the other colours."""
NOISE = 0.01
"""Variance that is taken for noise, and not whitened."""
MEAN = 0.1
"""Of pixels from -1 to 1."""
THRESHOLD = 0.7
"""In standard deviations of a response."""
BENDS = (0.00625, 0.025, 0.1, 0.4)
"""Mean responses at which the curve bends that stands in for their square root."""
SLOPES = (1.0, 1 / 3, 1 / 6, 1 / 12, 1 / 24)
"""What more of a response counts before, between and after them."""
SHARPNESS = 60.0
"""Responses are multiplied by this, so that the soft rectifier is nearly a hard one."""
BENT = 200.0
"""The same for mean responses."""
STEADY = 200.0
"""Constants beside the content that keep layer normalisation from changing its scale; one of a token is twice as large,
so that their sum is nothing and no digits are lost to the mean."""
SURE = 30.0
"""What an attention's score loses by a patch of another region."""
SHUT = 1000.0
"""What keeps the class token out of the hidden layer, in standard deviations of a response."""


@dataclass(frozen=True)
class _Layout:
    """Which dimensions of a token hold what; what is constant lies where no head of the class token puts anything."""

    pixels: slice
    sums: slice
    plus: int
    minus: int
    of_class: int
    zero: int
    regions: tuple[int, ...]

    @classmethod
    def of(cls, width: int, patch: int) -> "_Layout":
        head = width // REGIONS
        spare = [dimension for dimension in range(width) if dimension % head >= head - SPARE]
        plus, minus, of_class, zero, *regions = spare[: 4 + REGIONS]
        sums = slice(head, 2 * head - SPARE)
        return cls(slice(0, 3 * patch**2), sums, plus, minus, of_class, zero, tuple(regions))


def start_from_textures(visual: Any) -> None:
    """Gives open_clip's vision transformer these weights, in place; its last norm and projection stay as they are.

    ValueError where it has another shape than they need.
    """
    patch, (rows, columns) = visual.patch_size[0], visual.grid_size
    width, blocks = visual.conv1.out_channels, visual.transformer.resblocks
    filters = width // REGIONS - SPARE
    places = _places(patch)
    units = max(2 * len(places) * filters, REGIONS * filters * len(BENDS))
    hidden = blocks[0].mlp.c_fc.out_features
    wrong = {
        f"a head for each of {REGIONS} regions, and a width of theirs": width % REGIONS != 0
        or blocks[0].attn.num_heads != REGIONS,
        f"heads of {3 * patch**2 + SPARE} or more": filters < 3 * patch**2,
        f"patch_size {SIDE} or more": patch < SIDE,
        f"{LAYERS} layers": len(blocks) != LAYERS,
        f"{units} hidden units or more": hidden < units,
        "as many rows as columns, four or more": rows != columns or rows < 4,
        "no_ln_pre: true": not isinstance(visual.ln_pre, torch.nn.Identity),
        "pool_type: tok and final_ln_after_pool: true": visual.pool_type != "tok" or not visual.final_ln_after_pool,
    }
    if any(wrong.values()):
        needs = "; ".join(need for need, lacks in wrong.items() if lacks)
        raise ValueError(f'an architecture with `"start": "textures"` needs {needs}')
    layout, scale = _Layout.of(width, patch), STEADY * math.sqrt(6 / width)
    first, second = blocks
    with torch.no_grad():
        _write_tokens(visual, layout, patch)
        for block in blocks:
            for parameter in (*block.attn.parameters(), *block.mlp.parameters()):
                parameter.zero_()
        _respond(first.mlp, layout, patch, places, scale)
        _read_regions(second.attn, layout, scale)
        _bend(second.mlp, layout, scale)


def _write_tokens(visual: Any, layout: _Layout, patch: int) -> None:
    """The pixels of each patch as they are, and of which region it is."""
    kernel_WCPP, place_NW = visual.conv1.weight, visual.positional_embedding
    kernel_WCPP.zero_()
    kernel_WCPP[layout.pixels] = torch.eye(3 * patch**2).reshape(-1, 3, patch, patch)
    visual.class_embedding.zero_()
    place_NW.zero_()
    place_NW[:, layout.plus], place_NW[:, layout.minus] = STEADY, -2 * STEADY
    place_NW[0, layout.of_class] = STEADY
    for place, region in enumerate(regions(visual.grid_size[0])):
        place_NW[1 + place, layout.regions[region]] = STEADY


def regions(side: int) -> list[int]:
    """Of each patch of `side` x `side`: upper or lower half, and there the middle or both sides."""
    place = np.arange(side)
    beside_L = (place < side // 4) | (place >= side - side // 4)
    return [int(region) for region in (2 * (place >= side // 2)[:, None] + beside_L).ravel()]


def _respond(mlp: Any, layout: _Layout, patch: int, places: list[tuple[int, int]], scale: float) -> None:
    """Hidden units are filters and their mirror images, each at each place of a patch, rectified above a threshold."""
    size = layout.sums.stop - layout.sums.start
    kernel_KCRR, offset_K = dictionary(size)
    kernel = torch.tensor(kernel_KCRR, dtype=torch.float32)
    bias_K = -SHARPNESS * torch.tensor(offset_K + THRESHOLD, dtype=torch.float32)
    units = torch.arange(size)
    for turned in (kernel, kernel.flip(3)):
        for row, column in places:
            whole = torch.zeros(size, 3, patch, patch)
            whole[:, :, row : row + SIDE, column : column + SIDE] = SHARPNESS * scale * turned
            mlp.c_fc.weight[units, layout.pixels] = whole.flatten(1)
            mlp.c_fc.weight[units, layout.zero] = -whole.flatten(1).sum(dim=1) + SHUT
            mlp.c_fc.weight[units, layout.of_class] = -SHUT
            mlp.c_fc.bias[units] = bias_K
            mlp.c_proj.weight[layout.sums, units] = torch.eye(size) / (2 * len(places) * SHARPNESS)
            units = units + size


def _read_regions(attention: Any, layout: _Layout, scale: float) -> None:
    """Each head is the mean of all patches of its region; values are the responses."""
    width, size = attention.embed_dim, layout.sums.stop - layout.sums.start
    head = width // REGIONS
    attention.out_proj.weight.copy_(torch.eye(width))
    for number, region in enumerate(layout.regions):
        row = number * head
        attention.in_proj_bias[row] = 1
        sure = SURE * math.sqrt(head) * scale / STEADY
        attention.in_proj_weight[width + row, region] = sure
        attention.in_proj_weight[width + row, layout.zero] = -sure
        values = slice(2 * width + row, 2 * width + row + size)
        attention.in_proj_weight[values, layout.sums] = scale * torch.eye(size)
        attention.in_proj_weight[values, layout.zero] = -scale


def _bend(mlp: Any, layout: _Layout, scale: float) -> None:
    """Hidden units are mean responses above where they bend; they take off what counts less from there on."""
    width = mlp.c_fc.in_features
    head = width // REGIONS
    told = [dimension for dimension in range(width) if dimension % head < head - SPARE]
    for number, (start, before, after) in enumerate(zip(BENDS, SLOPES[:-1], SLOPES[1:], strict=True)):
        units = torch.arange(number * len(told), (number + 1) * len(told))
        mlp.c_fc.weight[units, told] = BENT * scale
        mlp.c_fc.weight[units, layout.zero] = -BENT * scale
        mlp.c_fc.bias[units] = -BENT * start
        mlp.c_proj.weight[told, units] = (after - before) / BENT
    # The last norm sees the content alone: beside constants, rounding would show in what is projected.
    for constant, share in ((layout.plus, 1), (layout.minus, -2), (layout.of_class, 1)):
        mlp.c_proj.bias[constant] = -share * STEADY


def dictionary(count: int) -> tuple[Values, Values]:
    """Filters (K, C, R, R), whose responses to usual pictures have variance 1, and the mean of each response (K,)."""
    covariance, root = _pictures()
    shape = _gabors(count)
    kernel = (shape / np.linalg.norm(shape, axis=1, keepdims=True)) @ root
    kernel /= np.sqrt(np.einsum("ki,ij,kj->k", kernel, covariance, kernel))[:, None]
    return kernel.reshape(count, 3, SIDE, SIDE), MEAN * kernel.sum(axis=1)


def _pictures() -> tuple[Values, Values]:
    """What pixels of pictures usually have in common, colour by place, and what whitens it."""
    place = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1).reshape(-1, 2)
    apart = np.linalg.norm(place[:, None] - place[None], axis=2)
    axis_CC = np.array(COLOURS) / np.linalg.norm(COLOURS, axis=1, keepdims=True)
    colour_CC = axis_CC.T @ np.diag([1, OPPONENT, OPPONENT]) @ axis_CC
    covariance = VARIANCE * np.kron(colour_CC, np.exp(-apart / REACH))
    variance, axes = np.linalg.eigh(covariance)
    return covariance, axes @ np.diag(1 / np.sqrt(variance + NOISE)) @ axes.T


def _gabors(count: int) -> Values:
    """(K, C x R x R): Gabor functions of all orientations, frequencies, phases, places, sizes and colours.

    Their settings are spread evenly (an additive recurrence by powers of the generalised golden ratio), not drawn.
    """
    turn, octave, phase, down, right, size, colour, hue = _spread(count, 8).T[:, :, None, None]
    angle, frequency = 2 * np.pi * turn, 0.5 / SIDE * (0.7 * SIDE) ** octave
    place = np.arange(SIDE) - (SIDE - 1) / 2
    y, x = place[:, None] - 0.6 * SIDE * (down - 0.5), place - 0.6 * SIDE * (right - 0.5)
    wave = np.cos(2 * np.pi * (frequency * (y * np.sin(angle) + x * np.cos(angle)) + phase))
    shape_KRR = wave * np.exp(-(x**2 + y**2) / 2 / ((0.2 + 0.3 * size) * SIDE) ** 2)
    height = np.clip(2 * (colour - (1 - COLOURED)) / COLOURED - 1, -1, 1)[:, 0]
    around, flat = 2 * np.pi * hue[:, 0], np.sqrt(1 - height**2)
    axis_KC = np.concatenate([0.5 * height, flat * np.cos(around), flat * np.sin(around)], axis=1)
    axis_KC[colour[:, 0, 0] < 1 - COLOURED] = (1, 0, 0)
    colour_KC = axis_KC @ (np.array(COLOURS) / np.linalg.norm(COLOURS, axis=1, keepdims=True))
    return np.asarray((colour_KC[:, :, None, None] * shape_KRR[:, None]).reshape(count, -1), np.float64)


def _spread(count: int, dimensions: int) -> Values:
    """(K, dimensions), from 0 to 1."""
    ratio = 2.0
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    step = ratio ** -np.arange(1, dimensions + 1.0)
    return np.asarray((0.5 + np.arange(1, count + 1)[:, None] * step) % 1, np.float64)


def _places(patch: int) -> list[tuple[int, int]]:
    """Where a filter lies in a patch, without crossing its border."""
    starts = range(0, patch - SIDE + 1, STEP)
    return [(row, column) for row in starts for column in starts]
