"""Cheap products of blocks of vectors, with what bounds their error, in the type that this processor is quickest at.

bfloat16 is several times as fast as float32 where the CPU has AMX, and slower than float32 where it hasn't; int8 is
faster than float32 almost everywhere, but its wider bound leaves more pairs to score. No data sheet tells which wins on
the machine at hand, so it is measured, once. What is found does not depend on the type, only how soon.
"""

# N = vectors, D = embedding, R = rows of the first block, S = strips of the second, W = rows of a strip

import math
import time
from dataclasses import dataclass
from functools import cache

import torch

WORTH_MEASURING = 2**32
"""Multiplications, some 50 ms of them in float32: a smaller job is in float32 and measures nothing."""
LEVELS = 79
"""Of int8's 127. Processors without VNNI multiply our numbers, one side's plus 128, and add two such products up in 16
bits: 2 · (79 + 128) · 79 < 2¹⁵ can't overflow."""
TINY = 2.0**-100  # more than what underflow takes from a product
_HANDICAP = {torch.float32: 1.0, torch.bfloat16: 1.0, torch.int8: 1.5}  # of the pairs that int8 leaves to score
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Rounded:
    """Vectors in a cheap type, float32, bfloat16 or int8: `value_ND` in units of `unit`."""

    value_ND: torch.Tensor
    unit: torch.Tensor
    """Float64: one for each row (N,), or one for all (1,)."""
    error_N: torch.Tensor
    """Norm of what rounding took from each vector, or more."""


def rounded(vector_ND: torch.Tensor, cheap: torch.dtype, *, by_row: bool, padded: int = 0) -> Rounded:
    """Float32 vectors in the cheap type; `by_row` gives each its own unit.

    There are at least `padded` values: those beyond the vectors are 0.
    """
    count, width = vector_ND.shape
    missing, error_N = max(padded - count, 0), vector_ND.new_zeros(count)
    unit = torch.ones(count if by_row else 1, dtype=torch.float64, device=vector_ND.device)
    if cheap == torch.float32:
        value_ND = torch.nn.functional.pad(vector_ND, (0, 0, 0, missing)) if missing else vector_ND
        return Rounded(value_ND, unit, error_N)
    if cheap == torch.int8:
        largest = vector_ND.abs().amax(dim=1) if by_row else torch.stack(vector_ND.aminmax()).abs().amax(keepdim=True)
        unit = (largest / LEVELS).clamp_min(TINY).double()
    value_ND = vector_ND.new_empty((count + missing, width), dtype=cheap)
    value_ND[count:] = 0
    for start in range(0, count, _ROWS_AT_ONCE):  # so few stay in the processor's cache
        rows = slice(start, min(start + _ROWS_AT_ONCE, count))
        if cheap == torch.int8:
            own = unit[rows, None].float() if by_row else unit.float()
            whole_ND = (vector_ND[rows] / own).round_()
            value_ND[rows] = whole_ND
            error_N[rows] = torch.linalg.vector_norm(whole_ND.mul_(own).sub_(vector_ND[rows]), dim=1)
        else:
            value_ND[rows] = vector_ND[rows]
            error_N[rows] = torch.linalg.vector_norm(vector_ND[rows] - value_ND[rows].float(), dim=1)
    return Rounded(value_ND, unit, error_N)


def multiply(one_RD: torch.Tensor, other_SWD: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Inner products (S, R, W) of rows and strips of rows, of one type: int32 of int8, exactly, else of the same type.

    They are written to `scratch`, float32, if it is large enough: fresh memory takes as long as the products.
    """
    cheap, shape = one_RD.dtype, (len(other_SWD), len(one_RD), other_SWD.shape[1])
    out = torch.int32 if cheap == torch.int8 else cheap
    if math.prod(shape) * out.itemsize > scratch.nbytes:
        scratch = torch.empty(math.prod(shape), device=one_RD.device)
    product_SRW = scratch.view(out)[: math.prod(shape)].view(shape)
    for other_WD, product_RW in zip(other_SWD, product_SRW, strict=True):
        if cheap == torch.int8:
            torch._int_mm(one_RD, other_WD.T, out=product_RW)
        else:
            torch.mm(one_RD, other_WD.T, out=product_RW)
    return product_SRW


def cheap_type(device: torch.device, multiplications: int) -> torch.dtype:
    """The type of the first products of a job: the quickest on this CPU, float32 for a small one.

    A GPU may add bfloat16 products up in bfloat16, which our bound doesn't cover; it has float32 to spare.
    """
    return fastest() if device.type == "cpu" and multiplications >= WORTH_MEASURING else torch.float32


@cache
def fastest() -> torch.dtype:
    """The type whose products take this processor the least time; measured in the first call, some 10 to 70 ms."""
    left = list(_HANDICAP)
    # A small product first: one that far behind takes too long to be worth a large one.
    for rows, columns in ((64, 512), (512, 2048)):
        seconds = {cheap: _HANDICAP[cheap] * _seconds(cheap, rows, columns) for cheap in left}
        left = [cheap for cheap in left if seconds[cheap] < 2 * min(seconds.values())]
    return min(left, key=lambda cheap: seconds[cheap])


def _seconds(cheap: torch.dtype, rows: int, columns: int) -> float:
    """Wall time of a product of vectors of width 512, the least of three."""
    one, other = (rounded(torch.ones(count, 512), cheap, by_row=False).value_ND for count in (rows, columns))
    scratch = torch.empty(rows * columns)
    multiply(one, other[None], scratch)  # the first turn prepares the library's code
    turns = []
    for _ in range(3):
        began = time.perf_counter()
        multiply(one, other[None], scratch)
        turns.append(time.perf_counter() - began)
    return min(turns)
