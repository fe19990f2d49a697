"""Training steps: our loop and open_clip's own, then what each of bfloat16, layout, loss and compiler brings."""

# B = batch, L = tokens, D = embedding

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.measures import (
    Facts,
    Part,
    encoder_of,
    made_up_items,
    made_up_texts,
    peak_gib,
    plain_training,
    seconds,
    synchronize,
)
from benchmarks.peer import Batch, train_open_clip
from pairloom.models.arrays import best_device
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import normalize_pixels
from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.clip import clip_loss
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.log import peak_flops, read_log
from pairloom.models.training.trainer import Recipe, train

WARM_UP = 3


class Spent(NamedTuple):
    """On one step."""

    seconds: float
    peak_gib: float | None = None


@dataclass(frozen=True)
class Variant:
    """One way to take a step."""

    name: str
    half: bool = True
    channels_last: bool = False
    streamed: bool = False
    """Whether the loss is ours, without a matrix of logits, or open_clip's."""
    compiled: bool = False


VARIANTS = (
    Variant("bf16"),
    Variant("bf16, channels last", channels_last=True),
    Variant("bf16, streamed loss", streamed=True),
    Variant("bf16, channels last, streamed loss, compiled", True, True, True, True),
    Variant("fp32", half=False),
)


def run(part: Part) -> None:
    """A line a loop and a variant, of each architecture."""
    for architecture, batch in zip(part.sizes.architectures, part.sizes.batches, strict=True):
        texts = made_up_texts(4 * batch)
        encoder = encoder_of(architecture, texts)
        items, steps = made_up_items(encoder, texts), part.sizes.steps
        ready = _ready(encoder, items, batch)
        rate = partial(_rates, batch, _flops(encoder, ready))
        facts: Facts = {"architecture": architecture, "batch": batch}
        ours, theirs = partial(_our_loop, encoder, items, batch, steps), partial(_their_loop, encoder, ready, steps)
        part.measure("our loop", partial(rate, ours), **facts)
        part.measure("open_clip's loop", partial(rate, theirs), **facts)
        for variant in (each for each in VARIANTS if part.sizes.compiles or not each.compiled):
            bare = partial(_bare_steps, encoder, ready, variant, steps)
            part.measure(f"step, {variant.name}", partial(rate, bare), **facts)


def _rates(batch: int, flops: float, spent: Callable[[], Spent]) -> Facts:
    """What it comes to in samples, and as a share of what the device can do; with texts of the whole context length."""
    found, peak = spent(), peak_flops(best_device())
    mfu = flops / found.seconds / peak if peak else None
    return {"samples_per_second": batch / found.seconds, "mfu": mfu, "peak_gib": found.peak_gib}


def _ready(encoder: DualEncoder, items: TrainingItems, batch: int) -> Batch:
    """A batch on the device; texts are padded to the context length, as open_clip's loop has them."""
    pixels = items.pixels[slice(0, batch)]
    return (
        normalize_pixels(pixels, encoder.preprocess_cfg, encoder.device),  # type: ignore[arg-type]  # they are uint8
        encoder.tokenize(items.relations.texts[:batch]).to(encoder.device),
    )


def _flops(encoder: DualEncoder, ready: Batch) -> float:
    """Operations of a step's forward and backward pass with texts of the whole context length."""
    image_BCHW, token_BL = (each[:2] for each in ready)
    with FlopCounterMode(display=False) as counter:
        output = encoder.network(image_BCHW, token_BL)
        sum(each.float().sum() for each in output[:2]).backward()
    encoder.network.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / 2 * len(ready[0])


def _our_loop(encoder: DualEncoder, items: TrainingItems, batch: int, steps: int) -> Spent:
    """Seconds a step of the trainer, its batches made meanwhile; texts are trimmed."""
    count = WARM_UP + steps
    with tempfile.TemporaryDirectory() as folder:
        result = train(copy.deepcopy(encoder), items, Recipe(plain_training(count, batch)), workdir=Path(folder))
        first = read_log(Path(folder))[0]
    # The first step, of which the log tells at once, finds memory and kernels.
    return Spent((result.seconds - batch / first["samples_per_second"]) / (count - 1))


def _their_loop(encoder: DualEncoder, ready: Batch, steps: int) -> Spent:
    """Seconds a step of open_clip's `train_one_epoch`, its batch lying ready on the device."""
    marks: list[float] = []

    def batches() -> Iterator[Batch]:
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                marks.append(_now())
            yield ready
        marks.append(_now())

    precision = "amp_bf16" if encoder.device.type == "cuda" else "fp32"
    network = copy.deepcopy(encoder.network)
    train_open_clip(network, batches(), lambda _: 1e-4, device=str(encoder.device), precision=precision)
    return Spent((marks[1] - marks[0]) / steps)


def _bare_steps(encoder: DualEncoder, ready: Batch, variant: Variant, steps: int) -> Spent:
    """Seconds a step of towers, loss and optimizer alone, and their peak memory."""
    network = copy.deepcopy(encoder.network).train()
    image_BCHW, token_BL = ready
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    network, image_BCHW = network.to(memory_format=layout), image_BCHW.contiguous(memory_format=layout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    loss_of = _loss(variant, len(token_BL), encoder.device)

    def embedded(image_BCHW: torch.Tensor, token_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return network.encode_image(image_BCHW, normalize=True), network.encode_text(token_BL, normalize=True)  # type: ignore[operator]

    encode = torch.compile(embedded) if variant.compiled else embedded

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(encoder.device.type, torch.bfloat16, enabled=variant.half):
            image_BD, text_BD = encode(image_BCHW, token_BL)
        scale = network.logit_scale.exp()  # type: ignore[operator]  # torch types modules' attributes loosely
        loss_of(image_BD.float(), text_BD.float(), scale).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def steps_of(count: int) -> None:
        for _ in range(count):
            step()

    _, held = peak_gib(partial(steps_of, WARM_UP))
    return Spent(seconds(partial(steps_of, steps)) / steps, held)


def _loss(variant: Variant, batch: int, device: torch.device) -> Callable[..., torch.Tensor]:
    if not variant.streamed:
        loss: Callable[..., torch.Tensor] = open_clip.ClipLoss()
        return loss
    ones_B, rows_B = torch.ones(batch, device=device), torch.arange(batch, device=device)
    targets = Targets(rows_B, rows_B, ones_B, ones_B)
    return lambda image_BD, text_BD, scale: clip_loss(image_BD, text_BD, targets, scale)


def _now() -> float:
    synchronize()
    return time.perf_counter()
