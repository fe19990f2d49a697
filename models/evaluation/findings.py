"""What the gate on a night's rows finds: one measure, in the release and tonight, and what follows."""

from dataclasses import dataclass
from typing import Literal

from pairloom.models.evaluation.config import RowsGateConfig

FEWEST = 10
"""Fewer rows, or texts, than this tell nothing of all that may come from where they came."""


@dataclass(frozen=True)
class Finding:
    """One measure of tonight's rows beside the release that they would replace."""

    measure: str
    released: str
    """The figure in the release."""
    tonight: str
    verdict: Literal["passed", "held", "unsure"] = "passed"
    reason: str = ""
    """A sentence, where the rows are held by it or it can't be told."""


def found(measure: str, released: str, tonight: str, against: str = "") -> Finding:
    """A finding that holds the rows where there is a sentence `against` them."""
    return Finding(measure, released, tonight, "held" if against else "passed", against)


def matters(rows: int, released: int, config: RowsGateConfig) -> bool:
    """Whether so many rows are worth a held night, and tell anything, beside so many released items."""
    return rows >= max(FEWEST, config.min_share * released)
