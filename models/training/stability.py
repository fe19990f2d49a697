"""Tells a training step that must not be taken, and embeddings that have collapsed."""

# B = batch, D = embedding

import math
from dataclasses import dataclass

import torch

PATIENCE = 3
"""Bad steps in a row before the last checkpoint is reloaded."""
COLLAPSED = 0.01
"""Variance of embeddings below which they have all but become one point."""

_ROWS = 512


@dataclass
class LossGuard:
    """Follows the loss and tells a step that would do harm."""

    usual: float = math.nan
    """Moving average of the loss over about 50 good steps."""
    bad_steps: int = 0
    """In a row."""

    def trouble(self, loss: float, grad_norm: float) -> str:
        """Why this step must be skipped; empty where it is good."""
        found = ""
        if not math.isfinite(loss):
            found = f"the loss is {loss}"
        elif not math.isfinite(grad_norm):
            found = f"the gradient's norm is {grad_norm}"
        elif loss > 3 * self.usual + 1:  # never true of the first loss: nothing is above NaN
            found = f"the loss is {loss:.4g} where {self.usual:.4g} was usual"
        if found:
            self.bad_steps += 1
            return found
        self.bad_steps = 0
        self.usual = loss if math.isnan(self.usual) else 0.98 * self.usual + 0.02 * loss
        return ""


@torch.no_grad()
def spread(embedding_BD: torch.Tensor) -> tuple[float, float]:
    """Variance and uniformity of L2-normalised embeddings.

    The variance, summed over dimensions, is 1 where they point everywhere and 0 where all are one point. Uniformity
    (Wang and Isola 2020) is the log of the mean of exp(-2 · squared distance) over pairs: 0 for one point, lower is
    better. Of more than 512 embeddings the first are taken.
    """
    some_BD = embedding_BD[:_ROWS].float()
    count = len(some_BD)
    variance = some_BD.var(dim=0, unbiased=False).sum().item()
    # Of unit vectors, the squared distance is 2 - 2 · cosine.
    kernel_BB = (4 * (some_BD @ some_BD.T) - 4).exp_()
    others = (kernel_BB.sum() - kernel_BB.diagonal().sum()) / max(count * (count - 1), 1)
    return variance, others.log().item()
