"""The training loop: one page, top to bottom, resumable at any checkpoint."""

# N = items, T = unique texts, B = batch, K = hard negatives an anchor, L = tokens, D = embedding

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, Field, model_validator

from models.batches import BatchPlan
from models.checkpoint import Position, resume_checkpoint, save_checkpoint
from models.contrastive import Targets
from models.finetuning import finish, match_layout, parameter_groups, prepare
from models.objectives import ObjectiveConfig, clip_loss
from models.pixels import AugmentationConfig, Pixels, augment, normalize_pixels
from models.relations import Relations
from models.towers import DualEncoder, ModelConfig, best_device

MAX_LOGIT_SCALE = math.log(100)  # Radford et al. 2021, section 2.5


class TrainingConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How long and how to train. The first budget that is used up ends the training."""

    max_minutes: float | None = Field(default=3, gt=0)
    """Training time. A resumed run goes on with what is left of it."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. With steps alone (`max_minutes: null`) the weights are the same to the last bit."""
    batch_size: int = Field(default=256, ge=2)
    """Items in a batch."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate, reached after the warm-up; a cosine brings it to 0."""
    weight_decay: float = Field(default=0.2, ge=0)
    """AdamW's decay of all weights of two or more dimensions."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Longest gradient, over all weights; a longer one is scaled down to it. None scales nothing."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Where given, the weights that are kept are a moving average of the trained ones, with at most this decay a step:
    0.99 averages about 100 steps. Early steps weigh less, so that a short training doesn't keep its start."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the budget over which the learning rate rises."""
    hard_fraction: float = Field(default=0.25, ge=0, lt=1)
    """Share of a batch that is there as a mined hard negative of another item."""
    augmentation: AugmentationConfig | None = AugmentationConfig()
    """Random changes to the images; `null` for none. Drawings want less than photographs: benchmarks/towers.md."""
    seed: int = Field(default=0, ge=0)
    """Of initial weights, batches, text choice and augmentation."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; none leaves torch's own choice."""
    checkpoint_seconds: float = Field(default=20, gt=0)
    """Training time between two checkpoints."""

    @model_validator(mode="after")
    def _has_a_budget(self) -> "TrainingConfig":
        if self.max_minutes is None and self.max_steps is None:
            raise ValueError("training needs max_minutes or max_steps")
        return self


@dataclass(frozen=True)
class TrainingItems:
    """What is trained on: N items in one order."""

    item_ids: Sequence[str]
    texts: Sequence[Sequence[str]]
    """Texts of each item, best first."""
    pixels: Pixels
    """Uint8 (N, H, W, 3), of the size that the model takes."""
    relations: Relations


@dataclass(frozen=True)
class TrainingProgress:
    """A sign of life, once a second or so."""

    step: int
    fraction: float
    loss: float
    samples_per_second: float
    eta_seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """The trained encoder and what it took; counts and seconds include the attempts before a resume."""

    encoder: DualEncoder
    steps: int
    samples: int
    seconds: float
    resumed_from_step: int
    loss: float


def train(
    start: DualEncoder,
    items: TrainingItems,
    negatives_NK: npt.NDArray[np.int32] | None,
    config: TrainingConfig,
    objectives: Sequence[ObjectiveConfig],
    *,
    workdir: Path,
    model: ModelConfig | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Trains `start` in place until the budget is used up, and returns it.

    `model` says what of it is trained, and how: locks, adapters, rates by layer. None trains all of it.

    Called again with the same inputs and `workdir` after a kill, it goes on from the newest checkpoint. RuntimeError
    where the loss is no longer a number.
    """
    if len(items.item_ids) < 2:
        raise ValueError(f"training needs at least 2 items, there are {len(items.item_ids)}")
    silent = [item for item, own in zip(items.item_ids, items.texts, strict=True) if not own]
    if silent:
        raise ValueError(f"{len(silent)} items have no text to train on, the first is {silent[0]!r}; filter them out")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # denormals slow convolutions down many times

    model = model or ModelConfig()
    network = start.network.to(best_device())
    prepare(start, model, seed=config.seed)
    optimizer = _optimizer(start, model, config)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    averages = [parameter.detach().clone() for parameter in trained] if config.ema_decay else []
    token_TL = start.tokenize(items.relations.texts)
    plan = BatchPlan(items.relations.item_texts, negatives_NK, config.batch_size, config.hard_fraction, config.seed)
    fingerprint = _fingerprint(start, items, negatives_NK, [config, model, *objectives])
    checkpoints = workdir / "checkpoints"
    resumed = resume_checkpoint(checkpoints, fingerprint, network, optimizer, averages)
    match_layout(optimizer)
    position = resumed or Position(step=0, elapsed=0.0, samples=0, loss=math.nan)
    step, samples, loss_value = position.step, position.samples, position.loss
    began = time.perf_counter() - position.elapsed
    saved_at = reported_at = position.elapsed
    saved_step = step
    workdir.mkdir(parents=True, exist_ok=True)

    with (workdir / "log.jsonl").open("a", encoding="utf-8") as log:
        while (fraction := _fraction(config, step, time.perf_counter() - began)) < 1:
            learning_rate = _learning_rate(config, fraction)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["lr_scale"]

            batch = plan.batch(step)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            torch.manual_seed(config.seed * 1_000_003 + step)  # for towers with dropout
            image_BCHW = normalize_pixels(items.pixels[batch.items_B], start.preprocess_cfg)
            if config.augmentation:
                image_BCHW = augment(image_BCHW, config.augmentation, generator)
            image_BD = start.encode_images(image_BCHW)
            # Items that share a text need it encoded once only.
            own, inverse_B = np.unique(batch.texts_B, return_inverse=True)
            text_BD = start.encode_texts(start.trim(token_TL[own]))[inverse_B]
            targets = Targets.from_sparse(items.relations.text_targets(batch.items_B, batch.texts_B), start.device)
            scale = network.logit_scale.exp()  # type: ignore[operator]  # torch types modules' attributes loosely
            loss = torch.stack(
                [term.weight * clip_loss(image_BD, text_BD, targets, scale) for term in objectives]
            ).sum()
            loss_value = loss.item()
            if not math.isfinite(loss_value):
                raise RuntimeError(
                    f"the loss became {loss_value} at step {step}; lower training.learning_rate, {config.learning_rate}"
                )

            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            grad_norm = torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm or math.inf)
            optimizer.step()
            step, samples = step + 1, samples + len(batch.items_B)
            with torch.no_grad():
                network.logit_scale.clamp_(0, MAX_LOGIT_SCALE)  # type: ignore[operator]  # torch types modules' attributes loosely
                if config.ema_decay:
                    torch._foreach_lerp_(averages, trained, 1 - min(config.ema_decay, step / (step + 9)))

            elapsed = time.perf_counter() - began
            if elapsed - reported_at >= 1 or step == 1:
                reported_at = elapsed
                rate = (samples - position.samples) / (elapsed - position.elapsed)
                line = {"step": step, "loss": loss_value, "lr": learning_rate, "logit_scale": scale.item()}
                line |= {"grad_norm": grad_norm.item(), "samples_per_second": rate}
                log.write(json.dumps(line) + "\n")
                log.flush()
                if progress is not None:
                    done = _fraction(config, step, elapsed)
                    eta = elapsed * (1 - done) / done
                    progress(TrainingProgress(step, done, loss_value, rate, eta))
            if elapsed - saved_at >= config.checkpoint_seconds:
                saved_at, saved_step = elapsed, step
                now = Position(step, elapsed, samples, loss_value)
                save_checkpoint(checkpoints, now, fingerprint, network, optimizer, averages)
    seconds = time.perf_counter() - began
    if step > saved_step:
        # A kill after this line costs no training time.
        end = Position(step, seconds, samples, loss_value)
        save_checkpoint(checkpoints, end, fingerprint, network, optimizer, averages)
    with torch.no_grad():
        for parameter, average in zip(trained if averages else (), averages, strict=True):
            parameter.copy_(average)
    finish(start, model)
    return TrainingResult(start, step, samples, seconds, position.step, loss_value)


def _optimizer(encoder: DualEncoder, model: ModelConfig, config: TrainingConfig) -> torch.optim.AdamW:
    """CLIP's AdamW (Radford et al. 2021)."""
    groups = parameter_groups(encoder, model, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def _fraction(config: TrainingConfig, step: int, elapsed: float) -> float:
    """How much of the budget is used up, 0 to 1 and beyond; of two budgets, the one that is further."""
    by_steps = step / config.max_steps if config.max_steps else 0.0
    by_time = elapsed / (60 * config.max_minutes) if config.max_minutes else 0.0
    return max(by_steps, by_time)


def _learning_rate(config: TrainingConfig, fraction: float) -> float:
    if fraction < config.warmup_fraction:
        return config.learning_rate * fraction / config.warmup_fraction
    rest = (fraction - config.warmup_fraction) / (1 - config.warmup_fraction)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))


def _fingerprint(
    start: DualEncoder,
    items: TrainingItems,
    negatives_NK: npt.NDArray[np.int32] | None,
    configs: Sequence[BaseModel],
) -> str:
    """Digest of all that a checkpoint depends on; pixels are represented by their items."""
    settings = [config.model_dump() for config in configs]
    digest = hashlib.sha256(json.dumps([settings, start.config], sort_keys=True).encode())
    digest.update(json.dumps([list(items.item_ids), [list(own) for own in items.texts]]).encode())
    digest.update(items.relations.group_N.tobytes() + items.relations.pixels_N.tobytes())
    if (edges := items.relations.edges) is not None:
        for column in (edges.firsts_M, edges.seconds_M, edges.weights_M):
            digest.update(column.tobytes())
    digest.update(b"" if negatives_NK is None else negatives_NK.tobytes())
    for name, tensor in start.network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
