"""What an objective is given of a training step, and what it may ask for."""

# N = items, B = global batch, b = this rank's share of it, D = embedding, M = pairs

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from pairloom.models.batches.config import Side
from pairloom.models.batches.feed import ReadyBatch
from pairloom.models.batches.pairs import ItemPairs, no_pairs
from pairloom.models.batches.relations import Relations
from pairloom.models.ranks import ALONE, Ranks
from pairloom.models.towers.dual_encoder import DualEncoder


@dataclass(frozen=True)
class Setting:
    """What a term is built for."""

    encoder: DualEncoder
    item_count: int
    seed: int
    relations: Relations | None = None
    """Known positives among all items; the trainer gives them."""
    ranks: Ranks = ALONE
    """For terms that embed something themselves."""
    half: bool = False
    """Whether towers run in bfloat16."""
    pairs: Mapping[str, ItemPairs] = field(default_factory=dict)
    """Given and mined pairs by relation."""

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return int(self.encoder.config["model_cfg"]["embed_dim"])

    def pairs_of(self, relation: str) -> ItemPairs:
        """The pairs of a relation. ValueError where there are none."""
        if relation not in self.pairs:
            raise no_pairs(relation)
        return self.pairs[relation]


@dataclass(frozen=True)
class EmbeddedBatch:
    """One step's batch with its embeddings, L2-normalised, of all ranks."""

    ready: ReadyBatch
    """Pixels, tokens and relations; its `image_bCHW` and `token_UL` are this rank's alone."""
    sides: Mapping[Side, torch.Tensor]
    """(B, D) of each side that an objective asked for."""
    logit_scale: torch.Tensor
    """The factor itself, not its logarithm."""
    own: slice | None = None
    """The rows that this rank answers for; None where it is alone."""
    logit_bias: torch.Tensor | None = None
    """The network's own, where its architecture has one (SigLIP's)."""

    @property
    def own_rows(self) -> slice:
        """The rows that this rank answers for."""
        return self.own or slice(0, self.ready.count)


class Term(nn.Module):
    """One objective at work: its value for a batch, and whatever weights or memories of its own it has.

    Parameters are trained with the towers'; parameters and buffers are in the checkpoints. Randomness is drawn from
    generators seeded with `Setting.seed` and the batch's step, so that a resumed training sees the same.
    """

    splits = False
    """Whether `forward` gives this rank's share of the loss; else all ranks compute the whole alike, and it is divided
    among them."""
    kept: tuple[str, ...] = ()
    """Names (or prefixes) of state that is saved beside the model, for search or the next night's warm start."""

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """The loss, 0-d."""
        raise NotImplementedError

    def after_step(self, batch: EmbeddedBatch) -> None:
        """Called after the optimizer has taken the step, to follow it: momentum towers, queues, memories."""
