"""Embeds a costly metric: distances of embeddings, times a learned scale, become the target distances of pairs."""

# B = batch, D = embedding, M = pairs, G = cells of the decoder's grid, C = colours

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.config import DistanceConfig
from pairloom.models.objectives.kept import read_kept

START = 0.7
"""What part of the largest target the sphere's radius stands for at first; measured in docs/objectives-ordered.md."""


def build(config: DistanceConfig, setting: Setting) -> Term:
    """A term whose scale starts from the largest target. ValueError where no pair has one above 0."""
    targets_M = setting.pairs_of("target").targets_M
    if not (targets_M.min() >= 0 and targets_M.max() > 0):
        raise ValueError(
            f"objective: loss: distance learns distances, and the targets of the pairs run from "
            f"{targets_M.min():g} to {targets_M.max():g}: give pairs 0 or more, and some more than 0"
        )
    return DistanceTerm(config, setting.dimension, targets_M)


class DistanceTerm(Term):
    """`distance_loss` of the pairs within a batch, and the decoder's share."""

    splits = True
    kept = ("log_scale",)

    def __init__(self, config: DistanceConfig, dimension: int, targets_M: npt.NDArray[np.float32]) -> None:
        super().__init__()
        self.side = config.side
        self.unit = float(np.sqrt(np.mean(targets_M.astype(np.float64) ** 2)))
        """Root mean square of all targets: the loss doesn't depend on what they are measured in."""
        self.log_scale = nn.Parameter(torch.tensor(math.log(START * float(targets_M.max()))))
        self.decoder_weight = config.decoder_weight
        self.decoder = InkDecoder(dimension, config.decoder_side) if config.decoder_weight else None

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """This rank's share of the loss: the pairs whose anchors are its own."""
        embedding_BD, pairs = batch.sides[self.side], batch.ready.pairs["target"]
        own_M = (pairs.first_M >= batch.own_rows.start) & (pairs.first_M < batch.own_rows.stop)
        first_M, second_M, target_M, weight_M = (
            each[own_M] for each in (pairs.first_M, pairs.second_M, pairs.target_M, pairs.weight_M)
        )
        distance_M = self.log_scale.exp() * torch.linalg.vector_norm(
            embedding_BD[first_M] - embedding_BD[second_M], dim=1
        )
        value = distance_loss(distance_M, target_M, weight_M, self.unit) / pairs.weight_M.sum().clamp(min=1e-12)
        if self.decoder is not None:
            drawn_b = self.decoder(embedding_BD[batch.own_rows], batch.ready.image_bCHW)
            value = value + self.decoder_weight * drawn_b.sum() / batch.ready.count
        return value


class InkDecoder(nn.Module):
    """Draws where an image has its ink: Courty's decoder, on a coarse grid."""

    def __init__(self, dimension: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.layers = nn.Sequential(nn.Linear(dimension, 128), nn.ReLU(), nn.Linear(128, side * side))

    def forward(self, embedding_bD: torch.Tensor, image_bCHW: torch.Tensor) -> torch.Tensor:
        """Kullback-Leibler divergence (b,) of what is drawn from the image's own ink, what is dark."""
        grey_bG = F.adaptive_avg_pool2d(image_bCHW.mean(dim=1, keepdim=True), self.side).flatten(1)
        ink_bG = grey_bG.amax(dim=1, keepdim=True) - grey_bG + 1e-6
        ink_bG = ink_bG / ink_bG.sum(dim=1, keepdim=True)
        drawn_bG = F.log_softmax(self.layers(embedding_bD), dim=1)
        return F.kl_div(drawn_bG, ink_bG, reduction="none").sum(dim=1)


def distance_loss(
    distance_M: torch.Tensor, target_M: torch.Tensor, weight_M: torch.Tensor, unit: float
) -> torch.Tensor:
    """Weighted sum of squared differences, in squares of `unit`."""
    return (weight_M * ((distance_M - target_M) / unit) ** 2).sum()


def learned_scale(model: Path, term: str = "distance") -> np.float32:
    """What a Euclidean distance of 1 between a model's embeddings stands for."""
    kept = read_kept(model).get(f"{term}.log_scale")
    if kept is None:
        raise ValueError(f"{model}: its training had no objective {term!r}; add {{loss: distance}} to `objective:`")
    return np.float32(kept.exp().item())
