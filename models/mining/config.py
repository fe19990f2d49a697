"""What `mining:` of a pipeline says."""

from typing import Literal

from pydantic import BaseModel, Field, model_validator


class DistancesConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Distances between the images of sampled pairs, which mining computes exactly, for `loss: distance`."""

    metric: Literal["wasserstein"] = "wasserstein"
    """Least work that moves the ink of one picture to where the other's is, by POT's exact solver."""
    order: Literal[1, 2] = 2
    """Whether work is mass times way, or the root of mass times squared way; ways in cells of the grid."""
    pairs_per_item: int = Field(default=50, ge=1)
    """Others that every item is paired with, at random."""
    side: int = Field(default=8, ge=2, le=64)
    """Cells a side of the grid that images are shrunk to. Twice as many make a distance about eight times as costly."""
    ink: Literal["dark", "bright"] = "dark"
    """What of an image is mass: what is dark, as in a drawing on white, or what is bright."""


class MiningConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How hard negatives are chosen. An anchor's candidates are ranked by similarity, known positives left out; margins
    and ranges mean what they mean to `mine_hard_negatives` of sentence-transformers."""

    num_negatives: int = Field(default=4, ge=1, le=64)
    """Hard negatives kept per anchor and direction."""
    range_min: int = Field(default=0, ge=0)
    """How many of the hardest candidates are skipped, of those that the margins leave."""
    range_max: int = Field(default=64, ge=1, le=1024)
    """How many of the nearest candidates are looked at."""
    relative_margin: float | None = Field(default=0.05, ge=0, lt=1)
    """A negative may score at most (1 - margin) times its anchor's positive: what scores higher may well be a positive
    nobody marked (NV-Retriever, Moreira et al. 2024). None for no such limit."""
    absolute_margin: float | None = Field(default=None, ge=0, le=2)
    """A negative scores at least this much less than its anchor's positive. None for no such limit."""
    sampling: Literal["top", "random", "softmax"] = "top"
    """Which of the candidates are kept: the hardest, any, or any with odds of exp(score / 0.07)."""
    refresh_every: int | None = Field(default=None, ge=1)
    """Steps between minings with the challenger's own embeddings, after the warm-up. None for none."""
    near_duplicate_bits: int | None = Field(default=4, ge=0, le=16)
    """Bits, of 64, in which the perceptual hashes of near-duplicates may differ. Near-duplicates are positives of one
    another where their thumbnails agree, too. None looks for none."""
    distances: DistancesConfig | None = None
    """Distances of sampled pairs, for `loss: distance` to learn. None computes none."""

    @model_validator(mode="after")
    def _has_room(self) -> "MiningConfig":
        if self.range_max - self.range_min < self.num_negatives:
            raise ValueError(
                f"between range_min={self.range_min} and range_max={self.range_max} there is no room for "
                f"num_negatives={self.num_negatives}: raise range_max"
            )
        return self
