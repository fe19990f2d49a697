import math

import pytest
import torch
import torch.nn.functional as F
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.mates import mates_loss

torch.set_num_threads(1)
WEIGHTS = torch.eye(7)
WEIGHTS[0, 3] = WEIGHTS[3, 0] = WEIGHTS[1, 5] = WEIGHTS[5, 1] = WEIGHTS[0, 5] = WEIGHTS[5, 0] = 1.0
WEIGHTS[1, 2] = WEIGHTS[2, 1] = 0.25
SIDE = torch.tensor([True, False, False, False, True, True, False])


@pytest.mark.parametrize("side_B", [None, SIDE])
def test_the_loss_matches_nested_loops(side_B: torch.Tensor | None) -> None:
    image_BD = F.normalize(torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    losses = []
    for i in range(7):
        others = [j for j in range(7) if (j != i if side_B is None else side_B[j] != side_B[i])]
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
    targets = Targets.from_sparse(sparse.csr_matrix(WEIGHTS.numpy()))
    found = mates_loss(image_BD, targets, torch.tensor(7.0), side_B)
    torch.testing.assert_close(found, torch.tensor(sum(losses) / len(losses)))


def test_a_batch_without_positives_has_no_loss_and_no_gradient() -> None:
    image_BD = torch.randn(4, 3, requires_grad=True)
    loss = mates_loss(image_BD, Targets.from_sparse(sparse.eye(4, format="csr")), torch.tensor(5.0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert image_BD.grad is not None
    assert not image_BD.grad.any()
