"""What thumbnails tell of their pictures: too dark, blurred, empty, or the same as another."""

# N = items, H, W = height, width

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairloom.models.arrays import Indices

Grey = npt.NDArray[np.uint8]

DARK, FLAT, BLURRED = 24.0, 6.0, 2.5
"""Below these a picture is too dark (mean grey), empty (deviation of grey), blurred (steepest edge)."""
SIDE = 64


@dataclass(frozen=True)
class Poor:
    """Pictures of one kind that show little."""

    kind: str
    title: str
    meaning: str
    places: Indices
    """Among those looked at, the surest first."""
    sureness: npt.NDArray[np.floating]


def grey(content: bytes) -> Grey:
    """A stored thumbnail as `SIDE` rows of as many grey values."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def measured(grey_HW: Grey) -> tuple[float, float, float]:
    """The mean, the deviation, and how steep the steepest hundredth of the edges is: a step from pixel to pixel in
    quarters of a percent of the contrast."""
    values_HW = grey_HW.astype(np.float32)
    steps = np.concatenate([np.abs(np.diff(values_HW, axis=0)).ravel(), np.abs(np.diff(values_HW, axis=1)).ravel()])
    contrast = float(values_HW.max() - values_HW.min()) or 1.0
    edge = float(np.percentile(steps, 99)) / contrast * 100 / 4
    return float(values_HW.mean()), float(values_HW.std()), edge


def poor(measures: Sequence[tuple[float, float, float]]) -> list[Poor]:
    """The pictures that are too dark, blurred and empty, by what was `measured` of each."""
    mean_N, spread_N, edge_N = np.array(measures, np.float64).reshape(-1, 3).T
    empty_N = spread_N < FLAT
    dark_N = (mean_N < DARK) & ~empty_N
    blurred_N = (edge_N < BLURRED) & ~empty_N & ~dark_N
    kinds = [
        ("dark", "Too dark", "Hardly anything in the picture is brighter than black.", dark_N, DARK - mean_N),
        ("blurred", "Blurred", "No edge in the thumbnail is sharp.", blurred_N, BLURRED - edge_N),
        ("empty", "Empty", "The picture is of one colour.", empty_N, FLAT - spread_N),
    ]
    found = []
    for kind, title, meaning, mask_N, sure_N in kinds:
        places = np.flatnonzero(mask_N)
        places = places[np.argsort(-sure_N[places], kind="stable")]
        found.append(Poor(kind, title, meaning, places, sure_N[places]))
    return found


def apart(one_HW: Grey, other_HW: Grey) -> float:
    """Root mean square difference of two pictures' grey values, of 255."""
    return float(np.sqrt(np.square(one_HW.astype(np.float32) - other_HW.astype(np.float32)).mean()))
