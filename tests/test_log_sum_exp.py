import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse  # type: ignore[import-untyped]  # scipy has no types
from torch.utils._python_dispatch import TorchDispatchMode

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.clip import clip_loss
from pairloom.models.objectives.log_sum_exp import log_sum_exps


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class carries no types
    """Remembers the storage of the largest tensor that any operation returns, in elements."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and not tensor.is_sparse:
                own = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, own)
        return result


def embeddings(count: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 5, generator=random, dtype=dtype), dim=1).requires_grad_()


def positives(count: int) -> sparse.csr_matrix:
    """The diagonal and some weighted pairs more."""
    weights_BB = np.eye(count, dtype=np.float32)
    weights_BB[0, 3] = weights_BB[3, 0] = 2
    weights_BB[1, 5] = weights_BB[2, 5] = 0.5
    return sparse.csr_matrix(weights_BB)


def dense_clip_loss(
    image_BD: torch.Tensor, text_BD: torch.Tensor, weights_BB: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    logits_BB = scale * image_BD @ text_BD.T
    images = F.cross_entropy(logits_BB, weights_BB / weights_BB.sum(dim=1, keepdim=True))
    texts = F.cross_entropy(logits_BB.T, (weights_BB / weights_BB.sum(dim=0)).T)
    return (images + texts) / 2


@pytest.mark.parametrize("scale_value", [1.0, 100.0])
@pytest.mark.parametrize("block", [1, 20, 39, 10_000])
@pytest.mark.parametrize(("rows", "columns"), [(13, 13), (7, 13), (13, 4)])
def test_log_sum_exps_and_gradients_match_the_dense_matrix(
    rows: int, columns: int, block: int, scale_value: float
) -> None:
    row_RD, column_CD = embeddings(rows, 0), embeddings(columns, 1)
    scale = torch.tensor(scale_value, dtype=torch.float64, requires_grad=True)
    up_R, up_C = torch.linspace(-1, 2, rows).double(), torch.linspace(3, -1, columns).double()
    logits_RC = scale * row_RD @ column_CD.T
    dense = (logits_RC.logsumexp(1), logits_RC.logsumexp(0))
    streamed = log_sum_exps(row_RD, column_CD, scale, block=block)
    for one, other in zip(streamed, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    inputs = (row_RD, column_CD, scale)
    ours = torch.autograd.grad((streamed[0] @ up_R) + (streamed[1] @ up_C), inputs)
    theirs = torch.autograd.grad((dense[0] @ up_R) + (dense[1] @ up_C), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("block", [1, 20, 10_000])
def test_pairs_left_out_count_nothing(block: int) -> None:
    row_RD, column_CD = embeddings(7, 0), embeddings(9, 1)
    scale = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    left_out = torch.tensor([0, 0, 3, 6, 1]), torch.tensor([0, 5, 5, 8, 1])
    logits_RC = (scale * row_RD @ column_CD.T).index_put(left_out, torch.tensor(-torch.inf).double())
    dense = (logits_RC.logsumexp(1), logits_RC.logsumexp(0))
    streamed = log_sum_exps(row_RD, column_CD, scale, left_out=left_out, block=block)
    inputs = (row_RD, column_CD, scale)
    up_R, up_C = torch.linspace(-1, 2, 7).double(), torch.linspace(3, -1, 9).double()
    ours = torch.autograd.grad((streamed[0] @ up_R) + (streamed[1] @ up_C), inputs)
    theirs = torch.autograd.grad((dense[0] @ up_R) + (dense[1] @ up_C), inputs)
    for one, other in zip((*streamed, *ours), (*dense, *theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_row_of_which_all_is_left_out_stays_finite() -> None:
    row_RD, column_CD, scale = embeddings(2, 0, torch.float32), embeddings(3, 1, torch.float32), torch.tensor(5.0)
    row_R, _ = log_sum_exps(row_RD, column_CD, scale, left_out=(torch.zeros(3).long(), torch.arange(3)))
    F.softplus(row_R).sum().backward()  # type: ignore[no-untyped-call]
    assert row_R[0] < -1e37
    assert row_RD.grad is not None
    assert (row_RD.grad[0] == 0).all()
    assert row_RD.grad.isfinite().all()


@pytest.mark.parametrize("block", [8, 1000])
def test_log_sum_exps_pass_gradcheck(block: int) -> None:
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    inputs = (embeddings(5, 0), embeddings(4, 1), scale)
    assert torch.autograd.gradcheck(lambda *given: log_sum_exps(*given, block=block), inputs)


@pytest.mark.parametrize("block", [8, 1000])
def test_gradients_can_be_asked_for_twice(block: int) -> None:
    row_RD, column_CD, scale = embeddings(6, 0), embeddings(6, 1), torch.tensor(3.0, dtype=torch.float64)
    total = torch.cat(log_sum_exps(row_RD, column_CD, scale, block=block)).sum()
    first = torch.autograd.grad(total, row_RD, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(total, row_RD)[0])


def test_column_sums_of_row_sets_combine_to_those_of_all_rows() -> None:
    row_RD, column_CD, scale = embeddings(9, 0), embeddings(6, 1), torch.tensor(9.0, dtype=torch.float64)
    parts = torch.stack([log_sum_exps(own_RD, column_CD, scale)[1] for own_RD in (row_RD[:4], row_RD[4:])])
    torch.testing.assert_close(parts.logsumexp(0), log_sum_exps(row_RD, column_CD, scale)[1])


def test_clip_loss_with_weighted_positives_matches_the_dense_loss() -> None:
    image_BD, text_BD = embeddings(8, 0), embeddings(8, 1)
    scale = torch.tensor(14.0, dtype=torch.float64, requires_grad=True)
    weights_BB = torch.from_numpy(positives(8).toarray()).double()
    targets = Targets.from_sparse(positives(8))
    exact = Targets(  # the shares are float32; these are the same in float64
        targets.rows_P,
        targets.columns_P,
        (weights_BB / weights_BB.sum(1, keepdim=True))[targets.rows_P, targets.columns_P],
        (weights_BB / weights_BB.sum(0))[targets.rows_P, targets.columns_P],
    )
    torch.testing.assert_close(targets.row_weights_P, exact.row_weights_P.float())
    torch.testing.assert_close(targets.column_weights_P, exact.column_weights_P.float())
    ours = clip_loss(image_BD, text_BD, exact, scale)
    dense = dense_clip_loss(image_BD, text_BD, weights_BB, scale)
    torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-10)
    inputs = (image_BD, text_BD, scale)
    for one, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(dense, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_logits_far_apart_stay_finite_in_float32() -> None:
    row_RD = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    column_CD = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # the second column's logits are 200 below the first's
    row_R, column_C = log_sum_exps(row_RD, column_CD, torch.tensor(100.0), block=2)
    torch.testing.assert_close(row_R, torch.tensor([100.0, 100.0]))
    torch.testing.assert_close(column_C, torch.tensor([100.0, -100.0]) + np.log(2))
    (row_R.sum() + column_C.sum()).backward()  # type: ignore[no-untyped-call]
    assert row_RD.grad is not None
    assert row_RD.grad.isfinite().all()


def test_bfloat16_autocast_computes_the_logits_in_float32() -> None:
    image_BD, text_BD = embeddings(8, 0, torch.float32), embeddings(8, 1, torch.float32)
    targets, scale = Targets.from_sparse(positives(8)), torch.tensor(100.0)
    plain = clip_loss(image_BD, text_BD, targets, scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = clip_loss(image_BD, text_BD, targets, scale)
        half = clip_loss(image_BD.bfloat16(), text_BD.bfloat16(), targets, scale)
        half.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(cast, plain)
    rounded = clip_loss(image_BD.bfloat16().float(), text_BD.bfloat16().float(), targets, scale)
    assert half.dtype == torch.float32
    assert torch.equal(half, rounded)
    assert image_BD.grad is not None
    assert image_BD.grad.dtype == torch.float32


def test_no_tensor_grows_with_the_square_of_the_batch() -> None:
    count, block = 600, 1 << 14
    image_BD, text_BD = embeddings(count, 0, torch.float32), embeddings(count, 1, torch.float32)
    scale = torch.tensor(10.0, requires_grad=True)
    with LargestTensor() as streamed:  # type: ignore[no-untyped-call]
        torch.cat(log_sum_exps(image_BD, text_BD, scale, block=block)).sum().backward()  # type: ignore[no-untyped-call]
    with LargestTensor() as dense:  # type: ignore[no-untyped-call]
        dense_clip_loss(image_BD, text_BD, torch.eye(count), scale).backward()  # type: ignore[no-untyped-call]
    assert dense.elements >= count * count
    assert streamed.elements <= 2 * max(block, 64 * count) < count * count


def test_targets_without_a_positive_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 of the targets has no positive"):
        Targets.from_sparse(sparse.csr_matrix(np.array([[1, 1], [0, 0]], dtype=np.float32)))
    with pytest.raises(ValueError, match="column 0 of the targets has no positive"):
        Targets.from_sparse(sparse.csr_matrix(np.array([[0, 1], [0, 1]], dtype=np.float32)))
