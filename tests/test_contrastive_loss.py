import math

import pytest
import torch
from embedded import GROUPS, are_related, embedded_batch, listed

from pairloom.models.objectives.batch import EmbeddedBatch
from pairloom.models.objectives.comparison import comparisons
from pairloom.models.objectives.config import ContrastiveConfig
from pairloom.models.objectives.contrastive import ContrastiveTerm, contrastive_loss

B = len(GROUPS)


def slow_loss(batch: EmbeddedBatch, distinct: list[tuple[int, int]], margin: float) -> float:
    """Hadsell's loss over pairs of images, by nested loops: half of the means of the two kinds."""
    image_BD = batch.sides["image"].tolist()

    def distance(first: int, second: int) -> float:
        return math.dist(image_BD[first], image_BD[second])

    similar = [(a, b) for a in range(B) for b in range(B) if a != b and are_related(a, b)]
    near = [distance(*pair) ** 2 / 2 for pair in similar]
    far = [max(0.0, margin - distance(*pair)) ** 2 / 2 for pair in distinct]
    return (sum(near) / len(near) + sum(far) / len(far)) / 2


def test_all_pairs_of_a_batch_match_nested_loops() -> None:
    batch = embedded_batch()
    distinct = [(a, b) for a in range(B) for b in range(B) if not are_related(a, b)]
    found = ContrastiveTerm(ContrastiveConfig(between="image_image", margin=1.3))(batch)
    assert found.item() == pytest.approx(slow_loss(batch, distinct, 1.3), rel=1e-9)


def test_given_and_mined_pairs_alone_match_nested_loops() -> None:
    batch = embedded_batch(pairs={"negative": listed((0, 1), (3, 6))})
    config = ContrastiveConfig(between="image_image", margin=2.0, negatives="pairs")
    distinct = [(0, 1), (1, 0), (3, 6), (6, 3)]
    assert ContrastiveTerm(config)(batch).item() == pytest.approx(slow_loss(batch, distinct, 2.0), rel=1e-9)
    without = ContrastiveTerm(config)(embedded_batch())
    assert 0 < float(without) < float(ContrastiveTerm(config)(batch))


def test_equal_embeddings_and_pairs_beyond_the_margin_have_finite_gradients() -> None:
    batch = embedded_batch()
    same = {"image": torch.ones(B, 5, requires_grad=True) / math.sqrt(5)}
    (comparison,) = comparisons(
        ContrastiveConfig(between="image_image"),
        EmbeddedBatch(batch.ready, same, torch.tensor(1.0)),  # type: ignore[arg-type]  # str, not Literal
    )
    (gradient,) = torch.autograd.grad(contrastive_loss(comparison, comparison.negatives, 1.0), comparison.anchor_AD)
    assert gradient.isfinite().all()


def test_a_batch_without_a_pair_costs_nothing() -> None:
    alone = embedded_batch(["a"])
    loss = ContrastiveTerm(ContrastiveConfig(between="image_image"))(alone)
    loss.backward()
    assert float(loss.detach()) == 0
