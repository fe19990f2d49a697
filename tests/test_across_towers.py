import math
from dataclasses import replace

import pytest
import torch
from embedded import embedded_batch
from pydantic import ValidationError
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch
from pairloom.models.objectives.config import SupConConfig
from pairloom.models.objectives.nt_xent import NtXentTerm

WEIGHTS = torch.eye(7)
WEIGHTS[0, 3] = WEIGHTS[3, 0] = WEIGHTS[1, 5] = WEIGHTS[5, 1] = WEIGHTS[0, 5] = WEIGHTS[5, 0] = 1.0
WEIGHTS[1, 2] = WEIGHTS[2, 1] = 0.25
SIDE = torch.tensor([True, False, False, False, True, True, False])
TOGETHER = SupConConfig(positives="related", temperature=None)
ACROSS = SupConConfig(positives="related", temperature=None, across_towers=True)


def batch_of(weights: torch.Tensor, second_B: torch.Tensor) -> EmbeddedBatch:
    batch = embedded_batch("abcdefg")
    targets = Targets.from_sparse(sparse.csr_matrix(weights.numpy()))
    return replace(batch, ready=replace(batch.ready, item_targets=targets, second_B=second_B))


@pytest.mark.parametrize("config", [TOGETHER, ACROSS], ids=["together", "across"])
def test_the_loss_matches_nested_loops(config: SupConConfig) -> None:
    batch = batch_of(WEIGHTS, SIDE)
    image_BD = batch.sides["image"].detach()
    losses = []
    for i in range(7):
        others = [j for j in range(7) if (SIDE[j] != SIDE[i] if config.across_towers else j != i)]
        positives = [j for j in others if WEIGHTS[i, j] > 0]
        if positives:
            normaliser = math.log(sum(math.exp(7.0 * float(image_BD[i] @ image_BD[j])) for j in others))
            total = sum(float(WEIGHTS[i, j]) for j in positives)
            losses.append(
                sum(
                    float(WEIGHTS[i, j]) / total * (normaliser - 7.0 * float(image_BD[i] @ image_BD[j]))
                    for j in positives
                )
            )
    assert NtXentTerm(config)(batch).item() == pytest.approx(sum(losses) / len(losses), rel=1e-6)


@pytest.mark.parametrize("config", [TOGETHER, ACROSS], ids=["together", "across"])
@pytest.mark.parametrize("second_B", [SIDE, torch.ones(7, dtype=torch.bool)], ids=["both towers", "one tower"])
def test_a_batch_without_positives_has_no_loss_and_no_gradient(config: SupConConfig, second_B: torch.Tensor) -> None:
    batch = batch_of(torch.eye(7), second_B)
    loss = NtXentTerm(config)(batch)
    loss.backward()
    assert loss == 0
    assert batch.sides["image"].grad is not None
    assert not batch.sides["image"].grad.any()


def test_what_cannot_be_compared_across_towers_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs between: image_image and positives: related"):
        SupConConfig(across_towers=True)
