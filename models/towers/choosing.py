"""`architecture: auto`: which of our architectures a collection wants, by what its pictures look like."""

# H, W = height, width, C = colours

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from pairloom.models.towers.packages import GLOVE, LITE0

AUTO = "auto"
PICTURES = 200
"""Pictures that are looked at, at most."""
ALIKE = 2
"""Two neighbours are one flat patch where no colour, from 0 to 255, differs by more."""
FLAT = 0.5
"""From this share of flat places on, in the middle one of the pictures, a collection is drawn. Of emoji the middle one
has 0.79 and a twentieth less than 0.68, of grocery photographs 0.03 and a twentieth more than 0.13."""


@dataclass(frozen=True)
class Choice:
    """An architecture, and why it was taken."""

    architecture: str
    why: str


def flat_share(pixels_HWC: npt.NDArray[np.uint8]) -> float:
    """The share of places whose neighbours to the right and below are of their colour: paper, and what is filled in."""
    if min(pixels_HWC.shape[:2]) < 2:
        return 1.0
    here_HWC = pixels_HWC[:-1, :-1].astype(np.int16)
    apart = [np.abs(each - here_HWC).max(axis=2) for each in (pixels_HWC[:-1, 1:], pixels_HWC[1:, :-1])]
    return float((np.maximum(*apart) <= ALIKE).mean())


def choose(shares: Sequence[float], *, weights: bool) -> Choice:
    """For a collection whose pictures have these shares of flat places; `weights` are those of the extra `pretrained`.

    ValueError without pictures.
    """
    if not len(shares):
        raise ValueError("there is no picture to choose an architecture by: name one as model.architecture")
    middle = float(np.median(shares))
    drawn = middle >= FLAT
    named = ("photographs", "drawings-pretrained") if weights else ("photographs-plain", "drawings")
    beside = "with the extra `pretrained`" if weights else "without the extra `pretrained`"
    why = (
        f"drawn pictures: {middle:.0%} of the middle one of {len(shares)} is flat"
        if drawn
        else (f"photographs: only {middle:.0%} of the middle one of {len(shares)} pictures is flat")
    )
    return Choice(named[drawn], f"{why}; {beside}")


def weights_installed() -> bool:
    """Whether the packages of the extra `pretrained` are there."""
    return all(find_spec(package.name.replace("-", "_")) is not None for package in (LITE0, GLOVE))
