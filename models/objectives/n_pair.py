"""The N-pair loss: an anchor's positive against all its negatives at once, by a log-softmax."""

# A = anchors, P = positive pairs

import torch
import torch.nn.functional as F

from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.comparison import Comparison, comparisons, logit_scale
from pairloom.models.objectives.config import NPairConfig
from pairloom.models.objectives.log_sum_exp import log_sum_exps


def build(config: NPairConfig, setting: Setting) -> Term:  # noqa: ARG001  # nothing of its own to set up
    """A term without weights."""
    return NPairTerm(config)


class NPairTerm(Term):
    """`n_pair_loss` of a batch."""

    def __init__(self, config: NPairConfig) -> None:
        super().__init__()
        self._config = config

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """The whole loss."""
        scale = logit_scale(batch, self._config.temperature)
        return torch.stack([n_pair_loss(each, scale) for each in comparisons(self._config, batch)]).mean()


def n_pair_loss(comparison: Comparison, scale: torch.Tensor) -> torch.Tensor:
    """The mean over anchors, and over an anchor's positives by their share, of log(1 + Σ exp(l(a, n) - l(a, p))) over
    the anchor's negatives n.

    The logits l are scale · cosine. An anchor's other positives are no negatives of it. Anchors without a positive
    aren't counted. Memory grows with the batch and its positive pairs, not with the batch's square.
    """
    anchor_AD, other_CD = comparison.anchor_AD, comparison.other_CD
    row_P, column_P = comparison.rows_P, comparison.columns_P
    left_out = row_P, column_P
    if (itself := comparison.self_pairs) is not None:
        left_out = torch.cat([row_P, itself[0]]), torch.cat([column_P, itself[1]])
    negative_A, _ = log_sum_exps(anchor_AD, other_CD, scale, left_out=left_out)
    positive_P = scale * (anchor_AD[row_P] * other_CD[column_P]).sum(dim=1)
    total = (comparison.shares_P * F.softplus(negative_A[row_P] - positive_P)).sum()
    return total / max(comparison.anchors_with_positives, 1)
