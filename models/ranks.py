"""The ranks that train one model together: who owns which share of a batch, and what they tell one another."""

# B = global batch, b = this rank's share of it, D = embedding

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pairloom.models.arrays import available_cpus, best_device

BUCKET = 1 << 24
"""Gradient values summed in one message."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone, it talks to nobody."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this rank writes what all have made: checkpoints, log, model."""
        return self.rank == 0

    def shares(self, count: int) -> list[slice]:
        """Each rank's share of `count` rows, in order; sizes differ by one at most."""
        ends = [count * rank // self.size for rank in range(self.size + 1)]
        return [slice(ends[rank], ends[rank + 1]) for rank in range(self.size)]

    def own(self, count: int) -> slice:
        """This rank's share of `count` rows."""
        return self.shares(count)[self.rank]

    def gather(self, own_bD: torch.Tensor, count: int) -> torch.Tensor:
        """All ranks' rows (B, D), each rank's where `shares` puts it.

        Gradients flow back to the rank that made a row, added up over what all ranks did with it.
        """
        if self.size == 1:
            return own_bD
        gathered_BD: torch.Tensor = _Gather.apply(own_bD, self.shares(count), self.rank)
        return gathered_BD

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the ranks."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=_device())
        dist.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def first(self, value: float) -> float:
        """The first rank's value: a clock that all agree on."""
        return self.sum(value if self.leads else 0.0)[0]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replaces each gradient by its sum over the ranks; of a parameter that no rank has used, there is none."""
        if self.size == 1:
            return
        # A rank may have had no item for one of two image towers; all must send the same.
        used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        used = used.to(_device())
        dist.all_reduce(used)
        for parameter, count in zip(parameters, used.tolist(), strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        bucket: list[torch.Tensor] = []
        for parameter in parameters:
            if parameter.grad is not None:
                bucket.append(parameter.grad)
                if sum(grad.numel() for grad in bucket) >= BUCKET:
                    _all_reduce(bucket)
                    bucket = []
        _all_reduce(bucket)

    def share_array(self, array: npt.NDArray[np.int32] | None) -> npt.NDArray[np.int32]:
        """The first rank's array, on all ranks; the others' may be None."""
        if self.size > 1:
            held: list[Any] = [array]
            dist.broadcast_object_list(held)
            array = held[0]
        assert array is not None
        return array

    def share_weights(self, module: torch.nn.Module) -> None:
        """Gives all ranks the first one's weights and buffers, in place: kernels that add in any order made others."""
        for tensor in module.state_dict().values() if self.size > 1 else ():
            dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()


@contextmanager
def joined(timeout_minutes: float) -> Iterator[Ranks]:
    """The ranks that torchrun's environment (RANK, WORLD_SIZE, …) names; alone where there is none.

    A rank that waits longer than the timeout for another ends with an error, so that a hung one hangs nobody.
    """
    if not launched():
        yield ALONE
        return
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        # Processes that each take all cores wait for one another at every product.
        torch.set_num_threads(max(available_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1))
    timeout = timedelta(minutes=timeout_minutes)
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    # After a restart the store still holds the addresses of the processes before.
    attempt = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size, timeout=timeout)
    try:
        yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()


def launched() -> bool:
    """Whether torchrun, or a launcher like it, started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def first_rank() -> bool:
    """Whether this process will be the first of the ranks, or is alone; asked before they join."""
    return not launched() or os.environ["RANK"] == "0"


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, own_bD: torch.Tensor, shares: list[slice], rank: int) -> torch.Tensor:
        sizes = [share.stop - share.start for share in shares]
        # Collectives want equal shapes.
        padded = own_bD.new_zeros(max(sizes), *own_bD.shape[1:])
        padded[: len(own_bD)] = own_bD.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.own = shares[rank]  # type: ignore[attr-defined]  # torch's way to keep what is no tensor
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BD: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        total_BD = grad_BD.contiguous()
        dist.all_reduce(total_BD)
        return total_BD[ctx.own], None, None  # type: ignore[attr-defined]


def _all_reduce(grads: Sequence[torch.Tensor]) -> None:
    if grads:
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for grad, summed in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(summed.view_as(grad))


def _device() -> torch.device:
    return best_device() if dist.get_backend() == "nccl" else torch.device("cpu")
