"""Which embeddings a loss compares: images with texts, or one side with itself through its one tower (Siamese)."""

# B = batch, D = embedding, A = anchors, C = what they are compared with, P = positive pairs, M = given and mined pairs

from dataclasses import dataclass
from functools import cached_property

import torch

from pairloom.models.batches.pairs import BatchPairs
from pairloom.models.batches.targets import PairIndices, Targets
from pairloom.models.objectives.batch import EmbeddedBatch
from pairloom.models.objectives.config import Comparing


@dataclass(frozen=True)
class Comparison:
    """Anchors, what they are compared with, and which of these are their positives."""

    anchor_AD: torch.Tensor
    other_CD: torch.Tensor
    rows_P: torch.Tensor
    """Int64: the anchor of each positive pair; ordered by row, then column. No anchor is a positive of itself."""
    columns_P: torch.Tensor
    """Int64."""
    shares_P: torch.Tensor
    """Float32: of the pair among its anchor's positives; they sum to 1."""
    itself: bool
    """Whether anchors and others are the same, row for row."""
    listed: PairIndices | None = None
    """Pairs given or mined as negatives, either way round; None where the batch has none of them."""

    @property
    def anchors_with_positives(self) -> int:
        """How many have any."""
        return len(torch.unique_consecutive(self.rows_P))

    @property
    def self_pairs(self) -> PairIndices | None:
        """Each anchor with itself, where it stands among the others."""
        if not self.itself:
            return None
        row_A = torch.arange(len(self.anchor_AD), device=self.anchor_AD.device)
        return row_A, row_A

    @cached_property
    def negatives(self) -> torch.Tensor:
        """Bool (A, C): what is neither a positive of an anchor's nor the anchor itself."""
        shape = len(self.anchor_AD), len(self.other_CD)
        mask_AC = torch.ones(shape, dtype=torch.bool, device=self.anchor_AD.device)
        mask_AC[self.rows_P, self.columns_P] = False
        return mask_AC.fill_diagonal_(False) if self.itself else mask_AC

    @cached_property
    def listed_negatives(self) -> torch.Tensor:
        """Bool (A, C): of `negatives`, those that are listed."""
        mask_AC = torch.zeros_like(self.negatives)
        if self.listed is not None:
            mask_AC[self.listed] = True
        return mask_AC & self.negatives


def comparisons(config: Comparing, batch: EmbeddedBatch) -> list[Comparison]:
    """All that a batch has to compare: between images and texts once from either side."""
    listed = _either_way(batch.ready.pairs.get("negative"))
    if config.between == "image_text":
        image_BD, text_BD = batch.sides["image"], batch.sides["text"]
        targets = batch.ready.targets if config.positives == "related" else own_alone(batch.ready.items_B)
        order_P = torch.argsort(targets.columns_P, stable=True)
        back = (targets.columns_P[order_P], targets.rows_P[order_P], targets.column_weights_P[order_P])
        return [
            Comparison(
                image_BD, text_BD, targets.rows_P, targets.columns_P, targets.row_weights_P, itself=False, listed=listed
            ),
            Comparison(text_BD, image_BD, *back, itself=False, listed=listed),
        ]
    views = [batch.sides[side] for side in config.sides]
    embedding_AD = torch.cat(views)
    known = own_alone(batch.ready.items_B) if config.positives == "views" else batch.ready.item_targets
    assert known is not None, "the batch source was asked for them"
    positives = _between_views(known, batch.ready.count, len(views))
    if listed is not None and len(views) == 2:
        listed = _in_all_blocks(listed, batch.ready.count)
    return [Comparison(embedding_AD, embedding_AD, *positives, itself=True, listed=listed)]


def across_towers(batch: EmbeddedBatch) -> tuple[Comparison, Comparison]:
    """Images of the one image tower with those of the other, from either side."""
    known, second_B, image_BD = batch.ready.item_targets, batch.ready.second_B, batch.sides["image"]
    assert known is not None, "the batch source was asked for them"
    assert second_B is not None, "two towers were asked for"
    # Where each image stands among those of its side.
    place_B = torch.where(second_B, second_B.cumsum(0), (~second_B).cumsum(0)) - 1

    def seen_from(side_B: torch.Tensor) -> Comparison:
        kept_P = side_B[known.rows_P] & ~side_B[known.columns_P]
        row_P, column_P = place_B[known.rows_P[kept_P]], place_B[known.columns_P[kept_P]]
        weight_P = known.row_weights_P[kept_P]
        total_A = weight_P.new_zeros(len(side_B)).index_add_(0, row_P, weight_P)
        return Comparison(image_BD[side_B], image_BD[~side_B], row_P, column_P, weight_P / total_A[row_P], itself=False)

    return seen_from(~second_B), seen_from(second_B)


def own_alone(items_B: torch.Tensor) -> Targets:
    """Each item its own and only positive."""
    row_B = torch.arange(len(items_B), device=items_B.device)
    ones_B = torch.ones(len(items_B), device=items_B.device)
    return Targets(row_B, row_B, ones_B, ones_B)


def squared_distances(anchor_AD: torch.Tensor, other_CD: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances (A, C) of L2-normalised embeddings."""
    return 2 - 2 * anchor_AD @ other_CD.T


def logit_scale(batch: EmbeddedBatch, temperature: float | None) -> torch.Tensor:
    """What cosines are multiplied by: 1 / temperature, or the network's factor."""
    return batch.logit_scale if temperature is None else batch.logit_scale.new_tensor(1 / temperature)


def _between_views(targets: Targets, count: int, views: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positives among all views of `count` items, but for a view with itself: rows, columns, shares."""
    row_P, column_P, share_P = targets.rows_P, targets.columns_P, targets.row_weights_P
    if views == 2:
        (row_P, column_P), share_P = _in_all_blocks((row_P, column_P), count), share_P.repeat(4)
    kept_P = row_P != column_P
    row_P, column_P, share_P = row_P[kept_P], column_P[kept_P], share_P[kept_P]
    order_P = torch.argsort(row_P * views * count + column_P)
    row_P, column_P, share_P = row_P[order_P], column_P[order_P], share_P[order_P]
    total_A = share_P.new_zeros(views * count).index_add_(0, row_P, share_P)
    return row_P, column_P, share_P / total_A[row_P]


def _in_all_blocks(pairs: PairIndices, count: int) -> PairIndices:
    """Pairs of items as pairs of any view of the one with any of the other."""
    row_P, column_P = pairs
    rows = torch.cat([row_P, row_P, row_P + count, row_P + count])
    return rows, torch.cat([column_P, column_P + count, column_P, column_P + count])


def _either_way(pairs: BatchPairs | None) -> PairIndices | None:
    if pairs is None:
        return None
    return torch.cat([pairs.first_M, pairs.second_M]), torch.cat([pairs.second_M, pairs.first_M])
