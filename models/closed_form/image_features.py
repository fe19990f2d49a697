"""Features of pictures made by hand: where edges run, and which colours are where."""

# N = images, B = images at once, H = W = SIDE, C = colours, G = cells a side, O = orientations, F = features

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]

SIDE = 48
"""Height and width of the pictures that are looked at."""
CELL = 6
CELLS = SIDE // CELL
ORIENTATIONS = 9
COLOUR_SIDE = 12
BLOCKS = (CELLS * CELLS * ORIENTATIONS, COLOUR_SIDE * COLOUR_SIDE * 3)
"""How many features are of edges, and how many of colours after them."""
LARGEST = 0.4
"""Of an orientation's share of its neighbourhood: one strong edge doesn't hide the others."""
FAINT = 0.01
"""Added to a neighbourhood's squared edges, so that a blank one isn't made much of."""
_AT_ONCE = 256
_ROOT = np.sqrt(np.arange(256, dtype=np.float32) / 255)


def image_features(pixels_NHWC: Pixels) -> Features:
    """(N, sum of `BLOCKS`): edges, then colours, of pictures of `SIDE` x `SIDE` RGB pixels.

    Raises ValueError for pictures of another shape.
    """
    if pixels_NHWC.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"features are of pictures of {SIDE} x {SIDE} x 3, not {pixels_NHWC.shape[1:]}")
    found_NF = np.empty((len(pixels_NHWC), sum(BLOCKS)), np.float32)
    for start in range(0, len(pixels_NHWC), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        found_NF[rows, : BLOCKS[0]] = oriented_edges(pixels_NHWC[rows])
        found_NF[rows, BLOCKS[0] :] = colours(pixels_NHWC[rows])
    return found_NF


def oriented_edges(pixels_BHWC: Pixels) -> Features:
    """(B, G x G x O): for each cell, how strong its edges of each orientation are.

    Histograms of oriented gradients (Dalal and Triggs 2005) of the square roots of the pixels; at each place the colour
    counts that changes most. An edge and its reverse are the same. Each cell is normalised by each of the four blocks
    of 2 x 2 cells that it is in, and the four are added up (Felzenszwalb et al. 2010, section 6.2).
    """
    root_BHWC = _ROOT[pixels_BHWC]
    down_BHWC, right_BHWC = np.zeros_like(root_BHWC), np.zeros_like(root_BHWC)
    down_BHWC[:, 1:-1] = root_BHWC[:, 2:] - root_BHWC[:, :-2]
    right_BHWC[:, :, 1:-1] = root_BHWC[:, :, 2:] - root_BHWC[:, :, :-2]
    square_BHWC = down_BHWC**2 + right_BHWC**2
    colour_BHW1 = square_BHWC.argmax(axis=3)[..., None]
    down_BHW, right_BHW, square_BHW = (
        np.take_along_axis(each, colour_BHW1, axis=3)[..., 0] for each in (down_BHWC, right_BHWC, square_BHWC)
    )
    strength_BHW = np.sqrt(square_BHW)
    angle_BHW = np.arctan2(down_BHW, right_BHW) % np.pi * (ORIENTATIONS / np.pi)
    lower_BHW = np.floor(angle_BHW)
    share_BHW = angle_BHW - lower_BHW
    lower = lower_BHW.astype(np.int64) % ORIENTATIONS

    place_H = np.arange(SIDE) // CELL
    cell_HW = place_H[:, None] * CELLS + place_H
    first = (np.arange(len(root_BHWC))[:, None, None] * CELLS**2 + cell_HW) * ORIENTATIONS
    size = len(root_BHWC) * BLOCKS[0]
    histogram = np.bincount((first + lower).ravel(), (strength_BHW * (1 - share_BHW)).ravel(), size)
    histogram += np.bincount((first + (lower + 1) % ORIENTATIONS).ravel(), (strength_BHW * share_BHW).ravel(), size)
    cell_BGGO = histogram.reshape(-1, CELLS, CELLS, ORIENTATIONS)

    energy_BGG = np.pad((cell_BGGO**2).sum(axis=3), ((0, 0), (1, 1), (1, 1)))
    around = energy_BGG[:, :-1, :-1] + energy_BGG[:, 1:, :-1] + energy_BGG[:, :-1, 1:] + energy_BGG[:, 1:, 1:]
    found_BGGO = np.zeros_like(cell_BGGO)
    for row in (0, 1):
        for column in (0, 1):
            block_BGG = around[:, row : row + CELLS, column : column + CELLS]
            found_BGGO += np.minimum(cell_BGGO / np.sqrt(block_BGG + FAINT)[..., None], LARGEST)
    return found_BGGO.reshape(-1, BLOCKS[0]).astype(np.float32)


def colours(pixels_BHWC: Pixels) -> Features:
    """(B, 12 x 12 x 3), from 0 to 1: the pictures with few, large pixels, each the mean of its square."""
    step = SIDE // COLOUR_SIDE
    square = pixels_BHWC.reshape(-1, COLOUR_SIDE, step, COLOUR_SIDE, step, 3)
    found: Features = square.mean(axis=(2, 4), dtype=np.float32).reshape(-1, BLOCKS[1]) / np.float32(255)
    return found
