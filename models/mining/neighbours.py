"""Exact nearest neighbours by inner product in bounded scratch memory: what mining of hard negatives stands on.

A bfloat16 product of two blocks is cheap and wrong by no more than a bound that the vectors' norms give. Only pairs
whose cheap product comes within that bound of the row's K-th best score so far are scored in float32. Each of those
scores is added up by itself, so that the same pair has the same score, to the bit, in whatever block it meets.
"""

# Q = queries, C = candidates, D = embedding, K = neighbours, R = queries of a block, N = vectors of one side,
# G = groups of a block's columns, P = pairs, W = pairs a row

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Embeddings, best_device

Exclusion = Callable[[slice], sparse.csr_matrix]

ROWS, COLUMNS, GROUP = 4096, 8192, 16  # a block of bfloat16 products takes 64 MB
PRECISE_ROWS = 256  # a block of float64 products takes 16 MB
TINY = 2.0**-100  # more than what underflow takes from a product


@dataclass(frozen=True)
class Neighbours:
    """The K nearest candidates of each of Q queries; rows are sorted by falling score, equal scores by index."""

    indices_QK: npt.NDArray[np.int32]
    """Candidate indices; -1 for none."""
    scores_QK: npt.NDArray[np.float32]
    """Inner products; -inf for none."""


def nearest(
    query_QD: Embeddings,
    candidate_CD: Embeddings,
    k: int,
    *,
    exclude: Exclusion | None = None,
    progress: Callable[[int], None] | None = None,
) -> Neighbours:
    """The exact `k` nearest candidates of each query; `exclude(rows)`, sparse (R, C), marks pairs that may not appear.

    Needs at most 256 MB beside its inputs and its output for D up to 1024; on a GPU, the inputs' copy comes on top.
    The result depends on no block size or number of threads. `progress` is told how many queries were finished.
    """
    if k < 1 or query_QD.shape[1] != candidate_CD.shape[1]:
        raise ValueError(f"k={k} must be positive, and {query_QD.shape} and {candidate_CD.shape} of one width")
    device = best_device()
    query, candidate = _Side.of(query_QD, device), _Side.of(candidate_CD, device)
    copies_C = _earlier_copies(candidate_CD)
    indices_QK = np.full((len(query_QD), k), -1, dtype=np.int32)
    scores_QK = np.full((len(query_QD), k), -np.inf, dtype=np.float32)
    height = max(min(ROWS, 2**18 // k), 1)
    for start in range(0, len(query_QD), height):
        rows = slice(start, min(start + height, len(query_QD)))
        forbidden = None if exclude is None else exclude(rows).tocsc()
        most = 0 if forbidden is None else int(np.bincount(forbidden.indices, minlength=1).max())
        best = _Best(query.at(rows), k)
        for first in range(0, len(candidate_CD), COLUMNS):
            columns = slice(first, min(first + COLUMNS, len(candidate_CD)))
            # Of more than k + most equal vectors, k allowed ones come before it.
            kept = np.flatnonzero(copies_C[columns] < k + most)
            if len(kept):
                blocked = None if forbidden is None else _blocked(forbidden[:, columns], kept)
                _search(query.at(rows), candidate.at(columns, kept), first + torch.from_numpy(kept), blocked, best)
        indices_QK[rows] = best.index_RK.cpu().numpy()
        scores_QK[rows] = best.score_RK.cpu().numpy()
        if progress is not None:
            progress(rows.stop - rows.start)
    return Neighbours(indices_QK, scores_QK)


@dataclass(frozen=True)
class _Side:
    """Vectors with what bounds the error of their products."""

    vector_ND: torch.Tensor
    norm_N: torch.Tensor

    @staticmethod
    def of(vector_ND: Embeddings, device: torch.device) -> "_Side":
        vectors = torch.from_numpy(np.ascontiguousarray(vector_ND, dtype=np.float32)).to(device)
        norm_N = torch.linalg.vector_norm(vectors, dim=1)
        if not bool(torch.isfinite(norm_N.square()).all()):
            row = int((~torch.isfinite(norm_N.square())).nonzero()[0])
            raise ValueError(
                f"row {row} of the embeddings isn't finite, or too large for float32 products: leave it out"
            )
        return _Side(vectors, norm_N)

    def at(self, rows: slice, kept: npt.NDArray[np.int64] | None = None) -> "_Side":
        """Some of the vectors: a range, or those of a range's rows that are kept."""
        part = _Side(self.vector_ND[rows], self.norm_N[rows])
        if kept is None or len(kept) == len(part.vector_ND):
            return part
        chosen = torch.from_numpy(kept).to(self.vector_ND.device)
        return _Side(part.vector_ND[chosen], part.norm_N[chosen])


class _Best:
    """The K best candidates so far of a block's queries."""

    def __init__(self, query: "_Side", k: int) -> None:
        rows, device = len(query.vector_ND), query.vector_ND.device
        self.score_RK = torch.full((rows, k), -torch.inf, device=device)
        self.index_RK = torch.full((rows, k), -1, dtype=torch.int32, device=device)
        self._cheap_RD = query.vector_ND.to(_cheap(device))
        self.error_R = torch.linalg.vector_norm(query.vector_ND - self._cheap_RD.float(), dim=1)
        """Norm of what rounding to the cheap type takes from each query."""
        # Taken once: fresh memory for every block would take as long as its products.
        self._products = torch.empty(rows * COLUMNS, dtype=_cheap(device), device=device)

    def products(self, candidate: "_Side") -> torch.Tensor:
        """The cheap products of a block (R, C), which the next ones overwrite."""
        rows, columns, cheap = len(self._cheap_RD), len(candidate.vector_ND), self._products.dtype
        product_RC = self._products[: rows * columns].view(rows, columns)
        return torch.mm(self._cheap_RD, candidate.vector_ND.to(cheap).T, out=product_RC)

    def add(self, row_P: torch.Tensor, index_P: torch.Tensor, score_P: torch.Tensor) -> None:
        """Takes in scored pairs, sorted by row and then index; their indices are above all that came before."""
        rows, k = self.score_RK.shape
        count_R = torch.bincount(row_P, minlength=rows)
        place_P = torch.arange(len(row_P), device=row_P.device) - (count_R.cumsum(0) - count_R)[row_P]
        width = max(k, 32)
        for lowest in range(0, int(count_R.max()), width):
            turn_P = (place_P >= lowest) & (place_P < lowest + width)
            touched = (count_R > lowest).nonzero().squeeze(1)
            slot_R = torch.empty_like(count_R)
            slot_R[touched] = torch.arange(len(touched), device=touched.device)
            wide = min(int(count_R.max()) - lowest, width)
            score_RW = self.score_RK.new_full((len(touched), k + wide), -torch.inf)
            index_RW = self.index_RK.new_full((len(touched), k + wide), -1)
            score_RW[:, :k], index_RW[:, :k] = self.score_RK[touched], self.index_RK[touched]
            at = slot_R[row_P[turn_P]], k + place_P[turn_P] - lowest
            score_RW[at], index_RW[at] = score_P[turn_P], index_P[turn_P].to(torch.int32)
            # A stable sort leaves equal scores in the order of their indices.
            score_RW, order_RW = score_RW.sort(dim=1, descending=True, stable=True)
            self.score_RK[touched] = score_RW[:, :k]
            self.index_RK[touched] = index_RW.gather(1, order_RW[:, :k])


def _search(
    query: _Side,
    candidate: _Side,
    index_C: torch.Tensor,
    blocked: tuple[torch.Tensor, torch.Tensor] | None,
    best: _Best,
) -> None:
    """Adds to `best` what a block of candidates has to offer."""
    k = best.score_RK.shape[1]
    product_RC = best.products(candidate)
    if blocked is not None:
        product_RC[blocked] = -torch.inf
    # q·c - q̂·ĉ = (q - q̂)·ĉ + q·(c - ĉ); a sum of D products in any order is wrong by at most D roundings.
    # The candidates' own errors aren't worth their computation: rounding to nearest gives this bound of them.
    norm = candidate.norm_N.max()
    error, width = norm * torch.finfo(product_RC.dtype).eps / 2, query.vector_ND.shape[1]
    slack_R = best.error_R * (norm + error) + query.norm_N * error
    slack_R = 1.01 * (slack_R + (2 * width + 32) * 2.0**-24 * query.norm_N * norm) + TINY
    missing = -product_RC.shape[1] % GROUP
    padded_RC = torch.nn.functional.pad(product_RC, (0, missing), value=-torch.inf) if missing else product_RC
    grouped_RGG = padded_RC.view(len(product_RC), GROUP, -1)
    # Rounding keeps order: what reaches the floor still does when both are rounded to the cheap type.
    floor_R = _floor(best, slack_R).to(product_RC.dtype)
    if product_RC.dtype == torch.bfloat16 and bool((floor_R > 0).all()):
        # Above 0, bits are ordered as the numbers are, and integers are compared several times as fast.
        grouped_RGG, floor_R = grouped_RGG.view(torch.int16), floor_R.view(torch.int16)
    peak_RG = grouped_RGG.amax(dim=1)
    near_H = (peak_RG >= floor_R[:, None]).flatten().nonzero().squeeze(1)
    crowd = max(4 * k, 64) * len(product_RC)
    if len(near_H) > crowd // 4 and peak_RG.shape[1] >= k:
        # The k-th best group maximum stands for k different candidates.
        reached_R = peak_RG.topk(k, dim=1).values[:, -1].view(product_RC.dtype).float()
        reached_R = reached_R - reached_R.abs() * 2.0**-8 - 2 * slack_R
        higher_R = torch.maximum(_floor(best, slack_R), reached_R).to(product_RC.dtype)
        floor_R = higher_R.view(floor_R.dtype)
        near_H = (peak_RG >= floor_R[:, None]).flatten().nonzero().squeeze(1)
    if len(near_H) > crowd:
        _search_precisely(query, candidate, index_C, blocked, best)
        return
    row_H, group_H = near_H // peak_RG.shape[1], near_H % peak_RG.shape[1]
    hit_HG = grouped_RGG[row_H, :, group_H]
    hit_P, member_P = ((hit_HG >= floor_R[row_H, None]) & (hit_HG.view(product_RC.dtype) > -torch.inf)).nonzero(
        as_tuple=True
    )
    _add(row_H[hit_P], member_P * grouped_RGG.shape[2] + group_H[hit_P], query, candidate, index_C, best)


def _search_precisely(
    query: _Side,
    candidate: _Side,
    index_C: torch.Tensor,
    blocked: tuple[torch.Tensor, torch.Tensor] | None,
    best: _Best,
) -> None:
    """`_search` by float64 products, for a block with too many candidates that the cheap products can't tell apart."""
    k = best.score_RK.shape[1]
    for start in range(0, len(query.vector_ND), PRECISE_ROWS):
        rows = slice(start, min(start + PRECISE_ROWS, len(query.vector_ND)))
        product_RC = query.vector_ND[rows].double() @ candidate.vector_ND.double().T
        if blocked is not None:
            mine = (blocked[0] >= rows.start) & (blocked[0] < rows.stop)
            product_RC[blocked[0][mine] - start, blocked[1][mine]] = -torch.inf
        # A float32 sum in any order is wrong by at most a rounding a term.
        slack_R = (query.vector_ND.shape[1] + 32) * 2.0**-24 * query.norm_N[
            rows
        ].double() * candidate.norm_N.max() + TINY
        floor_R = best.score_RK[rows, -1] - slack_R
        if product_RC.shape[1] >= k:
            floor_R = torch.maximum(floor_R, product_RC.topk(k, dim=1).values[:, -1] - 2 * slack_R)
        row_P, column_P = ((product_RC >= floor_R[:, None]) & (product_RC > -torch.inf)).nonzero(as_tuple=True)
        _add(row_P + start, column_P, query, candidate, index_C, best)


def _floor(best: _Best, slack_R: torch.Tensor) -> torch.Tensor:
    """What a cheap product must reach to stand for one of the K best (R,)."""
    return best.score_RK[:, -1] - slack_R


def _add(
    row_P: torch.Tensor, column_P: torch.Tensor, query: _Side, candidate: _Side, index_C: torch.Tensor, best: _Best
) -> None:
    """Scores pairs and adds them to `best`."""
    columns = len(candidate.vector_ND)
    pair_P = (row_P * columns + column_P).sort().values
    row_P, column_P = pair_P // columns, pair_P % columns
    score = _scores if pair_P.device.type == "cpu" else _scores_by_tree
    best.add(row_P, index_C.to(pair_P.device)[column_P], score(row_P, column_P, query, candidate))


def _scores(row_P: torch.Tensor, column_P: torch.Tensor, query: _Side, candidate: _Side) -> torch.Tensor:
    """Inner products (P,) of pairs sorted by row; each is added up by itself, the same way in whatever block it is."""
    ends_R = torch.bincount(row_P, minlength=len(query.vector_ND)).cumsum(0)
    starts_R = torch.cat([ends_R.new_zeros(1), ends_R])
    size = (len(query.vector_ND), len(candidate.vector_ND))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the format is young, and that we skip its checks
        pairs_RC = torch.sparse_csr_tensor(
            starts_R, column_P, torch.zeros(len(row_P)), size=size, check_invariants=False
        )
        product_RC = torch.sparse.sampled_addmm(pairs_RC, query.vector_ND, candidate.vector_ND.T, beta=0.0)
    scores_P: torch.Tensor = product_RC.values()
    return scores_P


def _scores_by_tree(row_P: torch.Tensor, column_P: torch.Tensor, query: _Side, candidate: _Side) -> torch.Tensor:
    """`_scores` for a GPU, whose own sparse product promises no order."""
    score_P = torch.empty(len(row_P), device=row_P.device)
    step = max(2**24 // max(query.vector_ND.shape[1], 1), 1)
    for start in range(0, len(row_P), step):
        part = slice(start, start + step)
        score_P[part] = _sum(query.vector_ND[row_P[part]].mul_(candidate.vector_ND[column_P[part]]))
    return score_P


def _sum(term_PD: torch.Tensor) -> torch.Tensor:
    """Each row's sum (P,), in an order that depends on D only; overwrites the terms."""
    width = term_PD.shape[1]
    while width > 1:
        half = (width + 1) // 2
        term_PD[:, : width - half] += term_PD[:, half:width]
        width = half
    return term_PD[:, 0]


def _blocked(forbidden: sparse.csc_matrix, kept: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of a block's forbidden pairs."""
    pairs = forbidden[:, kept].tocoo()
    return torch.from_numpy(pairs.row.astype(np.int64)), torch.from_numpy(pairs.col.astype(np.int64))


def _earlier_copies(vector_ND: Embeddings) -> npt.NDArray[np.int64]:
    """How many rows before each are equal to it, bit for bit (N,)."""
    bits_ND = vector_ND.view(np.uint32)
    weight_D = np.random.default_rng(0).integers(2**63, size=vector_ND.shape[1], dtype=np.uint64) | np.uint64(1)
    digest_N = np.empty(len(vector_ND), dtype=np.uint64)
    for start in range(0, len(vector_ND), COLUMNS // 8):
        rows = slice(start, start + COLUMNS // 8)
        digest_N[rows] = (bits_ND[rows] * weight_D).sum(axis=1, dtype=np.uint64)
    order_N = np.argsort(digest_N, kind="stable")
    fresh_N = np.ones(len(vector_ND), dtype=bool)
    same = np.flatnonzero(digest_N[order_N[1:]] == digest_N[order_N[:-1]])
    for row in same:  # equal digests are only likely to be equal rows
        fresh_N[row + 1] = not np.array_equal(bits_ND[order_N[row]], bits_ND[order_N[row + 1]])
    begin_N = np.maximum.accumulate(np.where(fresh_N, np.arange(len(vector_ND)), 0))
    copies_N = np.empty(len(vector_ND), dtype=np.int64)
    copies_N[order_N] = np.arange(len(vector_ND)) - begin_N
    return copies_N


def _cheap(device: torch.device) -> torch.dtype:
    """The type of the first products: bfloat16 where the CPU multiplies it natively.

    A GPU may add bfloat16 products up in bfloat16, which our bound doesn't cover; it has float32 to spare.
    """
    native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
