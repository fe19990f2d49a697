"""Weights written by hand for a vision transformer: how a picture's edges run and which colours it has, place by place.

Each patch sums up how strong its edges of each orientation are, normalised by the root of their sum of squares, as
histograms of oriented gradients are (Dalal and Triggs 2005). The class token reads each patch with a head of its own:
first its mean colour, then its edges. What is pooled is the list of all patches.
"""

# W = width, N = patches = heads, P = pixels along a patch, J = directions of derivatives, O = orientations, C = colours

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pairloom.models.arrays import Values

ORIENTATIONS = 9
DIRECTIONS = 12
"""Of the derivatives whose absolute values make up the orientations."""
COLOURS = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, -1 / 2, 0.0), (-1 / 4, -1 / 4, 1 / 2))
"""Lightness, red against green, blue against both."""
HEAD_WIDTH = ORIENTATIONS + len(COLOURS)
LAYERS = 2
FAINT = 2e-4
"""Added to a patch's squared edges, so that a blank one isn't made much of; pixels are from 0 to 1."""
COLOUR_SHARE = 0.75
"""What colours, from -1 to 1, weigh beside a patch's edges, whose vector has at most length 1."""
SHARPNESS = 60.0
"""A derivative, of pixels from -1 to 1, is multiplied by this, so that the soft rectifier is nearly a hard one."""
STEADY = 50.0
"""Constants beside the content that keep layer normalisation from changing its scale."""
MARK = 10.0
SURE = 2000.0
"""Steepness of attention: a head looks at one patch and no other."""
SHUT = 1000.0
"""Steepness of what keeps the class token out of the hidden layer."""


@dataclass(frozen=True)
class _Layout:
    """Which dimensions of a token hold what."""

    light: slice
    colour: slice
    place: slice
    edges: slice
    plus: int
    minus: int
    of_class: int
    of_patch: int
    zero: int

    @classmethod
    def of(cls, patch: int, patches: int) -> "_Layout":
        light = slice(0, patch * patch)
        colour = slice(light.stop, light.stop + len(COLOURS))
        place = slice(colour.stop, colour.stop + patches)
        edges = slice(place.stop, place.stop + ORIENTATIONS)
        return cls(light, colour, place, edges, *range(edges.stop, edges.stop + 5))

    @property
    def size(self) -> int:
        return self.zero + 1


def start_from_edges(visual: Any) -> None:
    """Gives open_clip's vision transformer these weights, in place; its last norm and projection stay as they are.

    ValueError where it has another shape than they need.
    """
    patch, (rows, columns) = visual.patch_size[0], visual.grid_size
    patches, width, blocks = rows * columns, visual.conv1.out_channels, visual.transformer.resblocks
    layout = _Layout.of(patch, patches)
    hidden = blocks[0].mlp.c_fc.out_features
    units = (patch - 1) ** 2 * DIRECTIONS + 4
    wrong = {
        f"head_width {HEAD_WIDTH}, a head for each of {patches} patches": width != patches * HEAD_WIDTH
        or blocks[0].attn.num_heads != patches,
        f"a width of {layout.size} or more": width < layout.size,
        f"{LAYERS} layers": len(blocks) != LAYERS,
        f"{units} hidden units or more": hidden < units,
        "no_ln_pre: true": not isinstance(visual.ln_pre, torch.nn.Identity),
        "pool_type: tok and final_ln_after_pool: true": visual.pool_type != "tok" or not visual.final_ln_after_pool,
    }
    if any(wrong.values()):
        needs = "; ".join(need for need, lacks in wrong.items() if lacks)
        raise ValueError(f'an architecture with `"start": "edges"` needs {needs}')
    with torch.no_grad():
        _write_tokens(visual, layout, patch)
        scale = math.sqrt((2 * STEADY**2 + 2 * MARK**2) / width)
        for block in blocks:
            for parameter in (*block.attn.parameters(), *block.mlp.parameters()):
                parameter.zero_()
            block.attn.out_proj.weight.copy_(torch.eye(width))
            _look_at_own_patch(block.attn, layout, patches)
        first, second = blocks
        _let_patches_look_away(first.attn, layout, patches)
        _read(first.attn, layout.colour, ORIENTATIONS, COLOUR_SHARE * scale, layout, patches)
        _write_edges(first.mlp, layout, patch, scale, math.sqrt(width) * scale)
        _read(second.attn, layout.edges, 0, 1 / math.sqrt(width), layout, patches)


def _write_tokens(visual: Any, layout: _Layout, patch: int) -> None:
    kernel_WCPP, place_NW = visual.conv1.weight, visual.positional_embedding
    kernel_WCPP.zero_()
    for pixel in range(patch * patch):
        kernel_WCPP[layout.light.start + pixel, :, pixel // patch, pixel % patch] = 1 / 3
    colour_CC = torch.tensor(COLOURS) / patch**2
    kernel_WCPP[layout.colour] = colour_CC[:, :, None, None].expand(-1, -1, patch, patch)
    visual.class_embedding.zero_()
    place_NW.zero_()
    place_NW[:, layout.plus], place_NW[:, layout.minus] = STEADY, -STEADY
    place_NW[0, layout.of_class] = STEADY
    place_NW[1:, layout.of_patch] = MARK
    place_NW[1:, layout.place] = MARK * torch.eye(len(place_NW) - 1)


def _look_at_own_patch(attention: Any, layout: _Layout, patches: int) -> None:
    """Query 1, and as key of head n what marks patch n; the class token is looked at least."""
    width = attention.embed_dim
    for head in range(patches):
        row = head * HEAD_WIDTH
        attention.in_proj_bias[row] = 1
        key_W = attention.in_proj_weight[width + row]
        key_W[layout.place.start + head] = SURE
        key_W[layout.of_class] = -SURE


def _let_patches_look_away(attention: Any, layout: _Layout, patches: int) -> None:
    """Patches look at the class token, where there is nothing to read yet."""
    width = attention.embed_dim
    for row in range(1, patches * HEAD_WIDTH, HEAD_WIDTH):
        attention.in_proj_weight[row, layout.of_patch] = SURE
        attention.in_proj_weight[row, layout.zero] = -SURE
        attention.in_proj_weight[width + row, layout.of_class] = 1
        attention.in_proj_weight[width + row, layout.zero] = -1


def _read(attention: Any, content: slice, place: int, share: float, layout: _Layout, patches: int) -> None:
    """Values: each head hands on `content`, to its dimensions from `place` on."""
    size, width = content.stop - content.start, attention.embed_dim
    for head in range(patches):
        start = 2 * width + head * HEAD_WIDTH + place
        attention.in_proj_weight[start : start + size, content] = share * torch.eye(size)
        attention.in_proj_weight[start : start + size, layout.zero] = -share


def _write_edges(mlp: Any, layout: _Layout, patch: int, scale: float, strength: float) -> None:
    """Hidden units are derivatives at each place of a patch and each direction, rectified; their sums make the edges.

    With r the rectifier, |x| = 2 r(x) - x and x = r(x) - r(-x), so that one unit a direction is enough.
    """
    angle_J = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    turn_J2 = torch.tensor(np.stack([np.cos(angle_J), np.sin(angle_J)], axis=1), dtype=torch.float32)
    places = (patch - 1) ** 2
    derivative_K2L = _derivatives(patch)
    unit_JKL = SHARPNESS * scale * torch.einsum("ja,kal->jkl", turn_J2, derivative_K2L)
    sum_2L = SHARPNESS * scale * derivative_K2L.sum(dim=0)
    units = places * DIRECTIONS
    mlp.c_fc.weight[:units, layout.light] = unit_JKL.flatten(0, 1)
    mlp.c_fc.weight[units : units + 4, layout.light] = torch.cat([sum_2L, -sum_2L])
    mlp.c_fc.weight[: units + 4, layout.of_class] = -SHUT
    mlp.c_fc.weight[: units + 4, layout.zero] = SHUT
    # Pixels from -1 to 1 change twice as much as those from 0 to 1.
    share = strength / math.sqrt(FAINT) / (2 * SHARPNESS * places)
    sharp_OJ = share * torch.tensor(_sharpened().T, dtype=torch.float32)
    mlp.c_proj.weight[layout.edges, :units] = 2 * sharp_OJ.repeat_interleave(places, dim=1)
    linear_O2 = sharp_OJ @ turn_J2
    mlp.c_proj.weight[layout.edges, units : units + 4] = torch.cat([-linear_O2, linear_O2], dim=1)


def _derivatives(patch: int) -> torch.Tensor:
    """(K, 2, P x P): right and down, between each four neighbouring pixels of a patch."""
    found = torch.zeros(patch - 1, patch - 1, 2, patch, patch)
    for row in range(patch - 1):
        for column in range(patch - 1):
            found[row, column, :, row : row + 2, column : column + 2] = torch.tensor(
                [[[-0.5, 0.5], [-0.5, 0.5]], [[-0.5, -0.5], [0.5, 0.5]]]
            )
    return found.reshape((patch - 1) ** 2, 2, patch * patch)


def _sharpened() -> Values:
    """(J, O): turns absolute derivatives |g cos(a - j)| into the share of each orientation.

    A share falls to nothing at the next orientation; least squares over all angles a of a gradient g.
    """
    angle = np.linspace(0, np.pi, 720, endpoint=False)[:, None]
    wide_AJ = np.abs(np.cos(angle - np.arange(DIRECTIONS) * np.pi / DIRECTIONS))
    apart_AO = np.abs((angle - np.arange(ORIENTATIONS) * np.pi / ORIENTATIONS + np.pi / 2) % np.pi - np.pi / 2)
    narrow_AO = np.clip(1 - apart_AO * ORIENTATIONS / np.pi, 0, None)
    penalty_JJ = 1e-3 * len(angle) / DIRECTIONS * np.eye(DIRECTIONS)
    return np.asarray(np.linalg.solve(wide_AJ.T @ wide_AJ + penalty_JJ, wide_AJ.T @ narrow_AO), np.float64)
