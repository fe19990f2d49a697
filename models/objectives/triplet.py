"""The triplet loss: an anchor's positive shall be nearer than its negatives, by a margin."""

# A = anchors, C = what they are compared with, P = positive pairs, M = triplets

from typing import Any

import torch

from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.comparison import Comparison, comparisons, squared_distances
from pairloom.models.objectives.config import Choice, TripletConfig

Triplets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Anchor, positive and negative of each, (M,) int64."""


def build(config: TripletConfig, setting: Setting) -> Term:
    """A term without weights. ValueError without pytorch-metric-learning."""
    return TripletTerm(config, setting.seed)


class TripletTerm(Term):
    """`triplet_loss` of a batch, over triplets that `choose` finds."""

    def __init__(self, config: TripletConfig, seed: int) -> None:
        super().__init__()
        self._config, self._seed = config, seed
        self._measure = margin_loss(config.margin, config.temperature)

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """The whole loss."""
        random = torch.Generator().manual_seed((self._seed * 1_000_003 + batch.ready.step) % 2**63)
        found = comparisons(self._config, batch)
        losses = []
        for each in found:
            allowed_AC = each.negatives if self._config.negatives == "batch" else each.listed_negatives
            triplets = choose(each, allowed_AC, self._config.choose, random)
            losses.append(triplet_loss(each, triplets, self._measure))
        return torch.stack(losses).mean()


def triplet_loss(comparison: Comparison, triplets: Triplets, measure: Any) -> torch.Tensor:
    """The sum of `measure` (of `margin_loss`) over triplets, divided by the number of positive pairs."""
    total: torch.Tensor = measure(comparison.anchor_AD, indices_tuple=triplets, ref_emb=comparison.other_CD)
    return total / max(len(comparison.rows_P), 1)


def margin_loss(margin: float, temperature: float | None) -> Any:
    """pytorch-metric-learning's sum over triplets of max(0, d²(a, p) - d²(a, n) + margin), or of
    τ · log(1 + exp((d²(a, p) - d²(a, n) + margin) / τ)) at a temperature τ. ValueError where it isn't installed.
    """
    try:
        from pytorch_metric_learning.distances import LpDistance
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.reducers import SumReducer
    except ImportError:
        raise ValueError(
            "objective: loss: triplet needs pytorch-metric-learning: pip install pairloom[objectives]"
        ) from None
    distance = LpDistance(normalize_embeddings=False, power=2)
    if temperature is None:
        return TripletMarginLoss(margin, distance=distance, reducer=SumReducer())
    # Its soft-plus has a temperature of 1: squared distances and margin are brought to that scale, the loss back.
    smooth = TripletMarginLoss(margin / temperature, distance=distance, reducer=SumReducer(), smooth_loss=True)

    def scaled(anchor_AD: torch.Tensor, *, indices_tuple: Triplets, ref_emb: torch.Tensor) -> torch.Tensor:
        root = temperature**0.5
        total: torch.Tensor = smooth(anchor_AD / root, indices_tuple=indices_tuple, ref_emb=ref_emb / root)
        return temperature * total

    return scaled


@torch.no_grad()
def choose(comparison: Comparison, allowed_AC: torch.Tensor, choice: Choice, random: torch.Generator) -> Triplets:
    """Triplets of every positive pair with negatives that are allowed. A pair without any has none.

    pytorch-metric-learning's miners know one label an item; positives here aren't handed on, and negatives may be
    listed.
    """
    row_P, column_P = comparison.rows_P, comparison.columns_P
    squared_AC = squared_distances(comparison.anchor_AD, comparison.other_CD)
    if choice == "all":
        place_M, negative_M = allowed_AC[row_P].nonzero(as_tuple=True)
        return row_P[place_M], column_P[place_M], negative_M
    if choice == "random":
        # The column of the highest number among those allowed is any of them.
        drawn_PC = torch.rand(len(row_P), allowed_AC.shape[1], generator=random).to(squared_AC.device)
        best_P, negative_P = drawn_PC.masked_fill_(~allowed_AC[row_P], -1).max(dim=1)
        found_P = best_P >= 0
    elif choice == "hardest":
        nearest_A, negative_A = squared_AC.masked_fill(~allowed_AC, torch.inf).min(dim=1)
        negative_P, found_P = negative_A[row_P], nearest_A[row_P].isfinite()
    else:
        further_PC = allowed_AC[row_P] & (squared_AC[row_P] > squared_AC[row_P, column_P, None])
        nearest_P, negative_P = squared_AC[row_P].masked_fill(~further_PC, torch.inf).min(dim=1)
        found_P = nearest_P.isfinite()
    return row_P[found_P], column_P[found_P], negative_P[found_P]
