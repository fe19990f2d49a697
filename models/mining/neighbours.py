"""Exact nearest neighbours by inner product in bounded scratch memory: what mining of hard negatives stands on.

The products of two blocks in a cheap type (`products.py`) are wrong by no more than a bound that the vectors' norms
give. Only pairs whose cheap product comes within that bound of the row's K-th best score so far are scored in float32.
Each of those scores is added up by itself, so that the same pair has the same score, to the bit, in whatever block and
beside whatever cheap type it meets.
"""

# Q = queries, C = candidates, D = embedding, K = neighbours, R = queries of a block, N = vectors of one side,
# G = groups of a block's columns, H = groups with a hit, P = pairs, W = pairs a row or columns of a strip,
# S = strips of a block, M = rows that begin alike

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Embeddings, best_device
from pairloom.models.mining.products import TINY, Rounded, cheap_type, multiply, rounded

Exclusion = Callable[[slice], sparse.csr_matrix]

ROWS = 8192  # queries for which a block of candidates is rounded once
COLUMNS = 8192  # candidates of a block
FIRST = 16384  # of the first one: the more there are to choose from, the fewer pass for a row's best
GROUP = 16
PATIENCE = 8  # blocks that a cheap type may fail at before it must serve for every other one
SCRATCH = 2**24  # bytes of products: more leave the caches, and of fewer rows the multiplication is slower
PRECISE_ROWS = 256  # a block of float64 products takes 16 MB


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
    search = _Search(cheap_type(device, query_QD.size * len(candidate_CD)), device)
    height = max(min(ROWS, 2**19 // k), 1)
    for start in range(0, len(query_QD), height):
        rows = slice(start, min(start + height, len(query_QD)))
        forbidden = None if exclude is None else exclude(rows).tocsc()
        most = 0 if forbidden is None else int(np.bincount(forbidden.indices, minlength=1).max())
        parts = search.parts(query.at(rows), k)
        for columns in _blocks(*candidate_CD.shape):
            # Of more than k + most equal vectors, k allowed ones come before it.
            kept = np.flatnonzero(copies_C[columns] < k + most)
            if len(kept):
                blocked = None if forbidden is None else forbidden[:, columns.start + kept].tocsr()
                search.block(parts, candidate.at(columns, kept), columns.start + torch.from_numpy(kept), blocked)
        indices_QK[rows] = torch.cat([part.index_RK for part in parts]).cpu().numpy()
        scores_QK[rows] = torch.cat([part.score_RK for part in parts]).cpu().numpy()
        if progress is not None:
            progress(rows.stop - rows.start)
    return Neighbours(indices_QK, scores_QK)


def _blocks(count: int, width: int) -> Iterator[slice]:
    """Ranges of `count` candidates of a width; the first block, too, takes 64 MB at most up to a width of 2048."""
    start, size = 0, max(min(FIRST, 2**24 // max(width, 1)), COLUMNS)
    while start < count:
        yield slice(start, min(start + size, count))
        start, size = start + size, COLUMNS


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

    def __init__(self, query: _Side, cheap: torch.dtype, k: int) -> None:
        rows, device = len(query.vector_ND), query.vector_ND.device
        self.query, self.cheap = query, rounded(query.vector_ND, cheap, by_row=True)
        self.score_RK = torch.full((rows, k), -torch.inf, device=device)
        self.index_RK = torch.full((rows, k), -1, dtype=torch.int32, device=device)

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


class _Search:
    """Searches block after block, by products of a cheap type as long as they serve."""

    def __init__(self, cheap: torch.dtype, device: torch.device) -> None:
        self._cheap = cheap
        # Taken once: fresh memory for every block would take as long as its products.
        self._scratch = torch.empty(SCRATCH // 4 * -(-FIRST // COLUMNS), device=device)
        self._tried = self._lost = 0

    def parts(self, query: _Side, k: int) -> list[_Best]:
        """The queries in parts whose products with a block of candidates fit the memory."""
        size = 2 if self._cheap == torch.bfloat16 else 4
        step = max(min(SCRATCH // (COLUMNS * size), 2**17 // k), 1)
        starts = range(0, len(query.vector_ND), step)
        return [_Best(query.at(slice(start, start + step)), self._cheap, k) for start in starts]

    def block(
        self, parts: list[_Best], candidate: _Side, index_C: torch.Tensor, forbidden: sparse.csr_matrix | None
    ) -> None:
        """Adds to the parts what a block of candidates has to offer; rows of `forbidden` are those of all parts."""
        if self._lost > max(PATIENCE, self._tried // 2):
            self._cheap = torch.float32  # these vectors are too much alike for less
        strips = -(-len(candidate.vector_ND) // COLUMNS)
        padded = -(-len(candidate.vector_ND) // (strips * GROUP)) * strips * GROUP
        cheap = rounded(candidate.vector_ND, self._cheap, by_row=False, padded=padded)
        plain, start = None, 0
        for best in parts:
            rows = slice(start, start + len(best.score_RK))
            start = rows.stop
            block = _Block(candidate, index_C, None if forbidden is None else _pairs(forbidden[rows]))
            # Before a row has K, its bar is so low that int8's wide bound lets nearly everything pass.
            if self._cheap == torch.bfloat16 or (self._cheap == torch.int8 and bool((best.index_RK >= 0).all())):
                self._tried += 1
                if _search(best, best.cheap, block, cheap, self._scratch):
                    continue
                self._lost += 1
            plain = plain or rounded(candidate.vector_ND, torch.float32, by_row=False, padded=padded)
            query = rounded(best.query.vector_ND, torch.float32, by_row=True)
            if not _search(best, query, block, plain, self._scratch):
                _search_precisely(best, block)


@dataclass(frozen=True)
class _Block:
    """A block of candidates, as one part of the queries meets it."""

    candidate: _Side
    index_C: torch.Tensor
    blocked: tuple[torch.Tensor, torch.Tensor] | None
    """Rows and columns of the pairs that may not appear."""


def _search(best: _Best, query: Rounded, block: _Block, other: Rounded, scratch: torch.Tensor) -> bool:
    """Adds to `best` what a block has to offer by the products of `query` and `other`, in short of its candidates.

    False, with nothing added, if the products of this type can't tell too many of them apart.
    """
    candidate, blocked = block.candidate, block.blocked
    (rows, k), (count, width) = best.score_RK.shape, candidate.vector_ND.shape
    product_SRW = multiply(query.value_ND, other.value_ND.view(-(-count // COLUMNS), -1, width), scratch)
    kind, (strips, _, strip) = product_SRW.dtype, product_SRW.shape
    lowest = -torch.inf if kind.is_floating_point else -(2**31)
    for number in range(count // strip, strips):
        product_SRW[number, :, max(count - number * strip, 0) :] = lowest  # of padding
    if blocked is not None:
        product_SRW[blocked[1] // strip, blocked[0], blocked[1] % strip] = lowest
    # q·c - q̂·ĉ = (q - q̂)·ĉ + q·(c - ĉ); a sum of D products in any order is wrong by at most D roundings.
    norm, error = candidate.norm_N.max(), other.error_N.max()
    slack_R = query.error_N * (norm + error) + best.query.norm_N * error
    slack_R = 1.01 * (slack_R + (2 * width + 32) * 2.0**-24 * best.query.norm_N * norm) + TINY
    unit_R = query.unit * other.unit
    crowd = max(8 * k, 64) * rows
    # Above 0, the bits of bfloat16 are ordered as the numbers are, and integers are compared several times as fast.
    for view in (torch.int16, kind) if kind == torch.bfloat16 else (kind,):
        grouped_SRGG = product_SRW.view(view).view(strips, rows, GROUP, -1)
        peak_RG = torch.cat([grouped_RGG.amax(dim=1) for grouped_RGG in grouped_SRGG], dim=1)
        # What a cheap product must reach to stand for one of the K best.
        reach_R = best.score_RK[:, -1] - slack_R
        floor_R = _in_units(reach_R, unit_R, kind).view(view)
        near_H = _reaching(peak_RG, floor_R)
        if len(near_H) > crowd // 8 and peak_RG.shape[1] >= k:
            # The k-th best group maximum stands for k different candidates.
            reached_R = (_kth_largest(peak_RG, k).view(kind).double() * unit_R).float()
            reach_R = torch.maximum(reach_R, reached_R - reached_R.abs() * 2.0**-8 - 2 * slack_R)
            floor_R = _in_units(reach_R, unit_R, kind).view(view)
            near_H = _reaching(peak_RG, floor_R)
        if view == kind or bool((floor_R > 0).all()):
            break
    if len(near_H) > crowd:
        return False
    row_H, group_H = near_H // peak_RG.shape[1], near_H % peak_RG.shape[1]
    groups = grouped_SRGG.shape[3]
    strip_H, group_H = group_H // groups, group_H % groups
    hit_P, member_P = (grouped_SRGG[strip_H, row_H, :, group_H] >= floor_R[row_H, None]).nonzero(as_tuple=True)
    column_P = strip_H[hit_P] * strip + member_P * groups + group_H[hit_P]
    _add(best, row_H[hit_P], column_P, block)
    return True


def _in_units(floor_R: torch.Tensor, unit_R: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """What products of a type must reach where they mean at least `floor_R`; more than what marks a blocked pair."""
    exact_R = floor_R.double() / unit_R
    if kind.is_floating_point:
        # Rounding keeps order: what reaches the floor still does when both are rounded to the cheap type.
        return exact_R.to(kind).clamp_min(torch.finfo(kind).min)
    return exact_R.floor().clamp(1 - 2**31, 2**31 - 1).to(kind)


def _kth_largest(peak_RG: torch.Tensor, k: int) -> torch.Tensor:
    """Of each row (R,)."""
    if peak_RG.device.type == "cpu" and peak_RG.dtype != torch.bfloat16:
        # NumPy selects 5 times as fast, but knows no bfloat16.
        return torch.from_numpy(np.partition(peak_RG.numpy(), -k, axis=1)[:, -k].copy())
    return peak_RG.topk(k, dim=1).values[:, -1]


def _reaching(peak_RG: torch.Tensor, floor_R: torch.Tensor) -> torch.Tensor:
    """Flat places (H,) of what reaches its row's floor."""
    if peak_RG.device.type == "cpu" and peak_RG.dtype != torch.bfloat16:
        # NumPy finds few places among many 5 times as fast, but knows no bfloat16.
        return torch.from_numpy(np.flatnonzero(peak_RG.numpy() >= floor_R.numpy()[:, None]))
    return (peak_RG >= floor_R[:, None]).flatten().nonzero().squeeze(1)


def _search_precisely(best: _Best, block: _Block) -> None:
    """`_search` by float64 products, for a block with too many candidates that float32 products can't tell apart."""
    query, candidate, blocked, k = best.query, block.candidate, block.blocked, best.score_RK.shape[1]
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
        _add(best, row_P + start, column_P, block)


def _add(best: _Best, row_P: torch.Tensor, column_P: torch.Tensor, block: _Block) -> None:
    """Scores pairs and adds them to `best`."""
    columns = len(block.candidate.vector_ND)
    pair_P = (row_P * columns + column_P).sort().values
    row_P, column_P = pair_P // columns, pair_P % columns
    score = _scores if pair_P.device.type == "cpu" else _scores_by_tree
    best.add(row_P, block.index_C.to(pair_P.device)[column_P], score(row_P, column_P, best.query, block.candidate))


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


def _pairs(forbidden: sparse.csr_matrix) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of forbidden pairs."""
    pairs = forbidden.tocoo()
    return torch.from_numpy(pairs.row.astype(np.int64)), torch.from_numpy(pairs.col.astype(np.int64))


def _earlier_copies(vector_ND: Embeddings) -> npt.NDArray[np.int64]:
    """How many rows before each are equal to it, bit for bit (N,)."""
    bits_ND, copies_N = vector_ND.view(np.uint32), np.zeros(len(vector_ND), dtype=np.int64)
    # Few rows have even their first numbers in common, and only those are read to the end.
    head_N = _digests(bits_ND[:, :4])
    sorted_N = np.sort(head_N)
    rows_M = np.flatnonzero(np.isin(head_N, sorted_N[1:][sorted_N[1:] == sorted_N[:-1]]))
    digest_M = np.empty(len(rows_M), dtype=np.uint64)
    for start in range(0, len(rows_M), COLUMNS // 8):
        part = slice(start, start + COLUMNS // 8)
        digest_M[part] = _digests(bits_ND[rows_M[part]])
    order_M = np.argsort(digest_M, kind="stable")
    fresh_M = np.ones(len(rows_M), dtype=bool)
    for place in np.flatnonzero(digest_M[order_M[1:]] == digest_M[order_M[:-1]]):  # only likely to be equal rows
        one, other = bits_ND[rows_M[order_M[place]]], bits_ND[rows_M[order_M[place + 1]]]
        fresh_M[place + 1] = not np.array_equal(one, other)
    places_M = np.arange(len(rows_M))
    copies_N[rows_M[order_M]] = places_M - np.maximum.accumulate(np.where(fresh_M, places_M, 0))
    return copies_N


def _digests(bits_ND: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """A number for each row (N,), the same for equal ones."""
    weight_D = np.random.default_rng(0).integers(2**63, size=bits_ND.shape[1], dtype=np.uint64) | np.uint64(1)
    digest_N: npt.NDArray[np.uint64] = (bits_ND * weight_D).sum(axis=1, dtype=np.uint64)
    return digest_N
