"""The contrastive loss: similar pairs are drawn together, distinct ones pushed apart up to a margin."""

# A = anchors, C = what they are compared with, D = embedding

import torch

from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.comparison import Comparison, comparisons, squared_distances
from pairloom.models.objectives.config import ContrastiveConfig


def build(config: ContrastiveConfig, setting: Setting) -> Term:  # noqa: ARG001  # nothing of its own to set up
    """A term without weights."""
    return ContrastiveTerm(config)


class ContrastiveTerm(Term):
    """`contrastive_loss` of a batch."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self._config = config

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """The whole loss."""
        # Distances are the same from either side.
        comparison = comparisons(self._config, batch)[0]
        distinct_AC = comparison.negatives if self._config.negatives == "batch" else comparison.listed_negatives
        return contrastive_loss(comparison, distinct_AC, self._config.margin)


def contrastive_loss(comparison: Comparison, distinct_AC: torch.Tensor, margin: float) -> torch.Tensor:
    """Mean of d² / 2 over similar pairs and mean of max(0, margin - d)² / 2 over distinct ones, added up and halved.

    With as many of the one as of the other it is the mean of Hadsell, Chopra and LeCun's loss (2006, equation 4) over
    all pairs; pytorch-metric-learning's loss of the name isn't squared. d is the Euclidean distance.
    """
    squared_AC = squared_distances(comparison.anchor_AD, comparison.other_CD)
    similar = _mean(squared_AC[comparison.rows_P, comparison.columns_P])
    gap_M = torch.relu(margin - _root(squared_AC[distinct_AC]))
    return (similar + _mean(gap_M.square())) / 4


def _root(squared_M: torch.Tensor) -> torch.Tensor:
    # Away from 0, where the root has no derivative.
    return squared_M.clamp(min=1e-8).sqrt()


def _mean(value_M: torch.Tensor) -> torch.Tensor:
    """0, with gradients of 0, of nothing."""
    return value_M.sum() / max(len(value_M), 1)
