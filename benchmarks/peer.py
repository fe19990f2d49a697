"""The peer: open_clip's own training function, `open_clip_train.train.train_one_epoch`, over batches we hand it."""

# B = batch, L = tokens

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator

import open_clip
import torch
from open_clip_train.train import train_one_epoch  # type: ignore[import-untyped]  # open_clip publishes no types

Batch = tuple[torch.Tensor, torch.Tensor]
"""Normalised pixels (B, 3, H, W) and token ids (B, L), as open_clip's data loader gives them."""


class _Data:
    """What `train_one_epoch` asks of the training data and of its loader."""

    num_samples = num_batches = 10**9  # read for log lines alone

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches

    @property
    def dataloader(self) -> "_Data":
        """Itself; kept in no attribute, or the cycle would keep a data loader's worker processes alive."""
        return self

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: the batches come in the order we give."""


def train_open_clip(
    network: torch.nn.Module,
    batches: Iterable[Batch],
    learning_rate: Callable[[int], float],
    *,
    device: str = "cpu",
    precision: str = "fp32",
) -> list[float]:
    """Trains in place until the batches end; the loss of each step. `precision` is one of open_clip's names.

    AdamW is built as `open_clip_train.main` builds it; betas, epsilon and decay are its defaults for a ViT.
    `learning_rate` is asked once a step.
    """
    bare = {
        name
        for name, tensor in network.named_parameters()
        if tensor.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
    }
    named = dict(network.named_parameters())
    groups = [
        {"params": [tensor for name, tensor in named.items() if name in bare], "weight_decay": 0.0},
        {"params": [tensor for name, tensor in named.items() if name not in bare], "weight_decay": 0.2},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6)
    loss, losses = open_clip.ClipLoss(), list[torch.Tensor]()

    def recorded(**output: torch.Tensor) -> dict[str, torch.Tensor]:
        terms: dict[str, torch.Tensor] = loss(**output)
        losses.append(terms["contrastive_loss"].detach())
        return terms

    def schedule(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)

    network.output_dict = True  # type: ignore[assignment]  # its loop reads a dict
    settings = Namespace(
        device=device, precision=precision, distill=False, skip_scheduler=False, accum_freq=1, grad_clip_norm=None,
        horovod=False, rank=0, local_rank=0, log_local=False, log_every_n_steps=10**9, batch_size=0, world_size=1,
        wandb=False,
    )  # fmt: skip
    train_one_epoch(network, {"train": _Data(batches)}, recorded, 0, optimizer, None, schedule, None, settings)
    network.eval()
    return [each.item() for each in losses]
