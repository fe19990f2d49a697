"""Batches of random embeddings, as objectives are given them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pairloom.models.batches.feed import ReadyBatch
from pairloom.models.batches.pairs import BatchPairs
from pairloom.models.batches.relations import Relations
from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch

GROUPS = ("a", "b", "a", "c", "b", "a", "d", "e")
"""Three of one, two of another, and three that are alone."""


def embedded_batch(
    groups: Sequence[str] = GROUPS, *, seed: int = 0, pairs: Mapping[str, BatchPairs] | None = None
) -> EmbeddedBatch:
    """A batch of items with these groups and a text each; all sides are float64 with gradients."""
    count = len(groups)
    random = torch.Generator().manual_seed(seed)
    texts = [[f"text {number}"] for number in range(count)]
    relations = Relations.build([str(number) for number in range(count)], groups, texts, [None] * count)
    rows = np.arange(count)
    ready = ReadyBatch(
        step=seed,
        count=count,
        items_B=torch.from_numpy(rows),
        image_bCHW=torch.zeros(count, 3, 1, 1),
        token_UL=torch.zeros(count, 1),
        text_b=torch.from_numpy(rows),
        targets=Targets.from_sparse(relations.text_targets(rows, rows)),
        item_targets=Targets.from_sparse(relations.item_targets(rows)),
        pairs=pairs or {},
    )
    sides = {
        side: F.normalize(torch.randn(count, 5, generator=random, dtype=torch.float64), dim=1).requires_grad_()
        for side in ("image", "text", "image_view", "text_view")
    }
    return EmbeddedBatch(ready, sides, torch.tensor(7.0, dtype=torch.float64, requires_grad=True))  # type: ignore[arg-type]  # str, not Literal


def are_related(first: int, second: int) -> bool:
    """Of `GROUPS`."""
    return GROUPS[first] == GROUPS[second]


def listed(*pairs: tuple[int, int]) -> BatchPairs:
    """Pairs of rows."""
    first_M, second_M = (torch.tensor(side) for side in zip(*pairs, strict=True))
    return BatchPairs(first_M, second_M, torch.full((len(pairs),), torch.nan), torch.ones(len(pairs)))
