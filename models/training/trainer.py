"""The training loop: one page, top to bottom, resumable at any checkpoint, on one rank or many."""

# N = items, T = unique texts, B = batch, b = a rank's share of it, U = its unique texts, K = hard negatives an anchor,
# L = tokens, D = embedding

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pairloom.models.arrays import best_device
from pairloom.models.batches.config import Side
from pairloom.models.batches.feed import BatchSource, Feed, TrainingItems
from pairloom.models.batches.partners import Partners
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.fitness import UnfitModelError
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.refresh import mine_again
from pairloom.models.objectives.batch import EmbeddedBatch, Setting
from pairloom.models.objectives.config import ClipConfig, Objective, partners, wants
from pairloom.models.objectives.terms import Objectives
from pairloom.models.ranks import ALONE, Ranks
from pairloom.models.towers.config import ModelConfig, SecondImageTowerConfig
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.finetuning import finish, match_layout, own_groups, parameter_groups, prepare
from pairloom.models.training.checkpoint import Checkpoints, Position
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.log import TrainingLog, TrainingProgress
from pairloom.models.training.micro_batches import MicroBatches
from pairloom.models.training.stability import COLLAPSED, PATIENCE, LossGuard, spread

logger = logging.getLogger(__name__)

MAX_LOGIT_SCALE = math.log(100)  # Radford et al. 2021, section 2.5


@dataclass(frozen=True)
class Recipe:
    """How items become a model."""

    training: TrainingConfig
    objectives: Sequence[Objective] = field(default_factory=lambda: [ClipConfig()])
    model: ModelConfig = field(default_factory=ModelConfig)
    """What of the network is trained, and how: locks, adapters, rates by layer."""
    mining: MiningConfig = field(default_factory=MiningConfig)
    """How negatives are mined again during the training."""
    champion: Path | None = None
    """Model folder that the training starts from, whose objectives may have left something there to go on with."""


@dataclass(frozen=True)
class TrainingResult:
    """The trained encoder and what it took; counts and seconds include the attempts before a resume."""

    encoder: DualEncoder
    objectives: Objectives
    """What they keep goes beside the model."""
    steps: int
    samples: int
    seconds: float
    resumed_from_step: int
    loss: float
    """Of the last step; no number without any."""


def train(
    start: DualEncoder,
    items: TrainingItems,
    recipe: Recipe,
    *,
    workdir: Path,
    ranks: Ranks = ALONE,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Trains `start` in place until the budget is used up, and returns it.

    Called again with the same inputs and `workdir` after a kill, it goes on from the newest checkpoint. All `ranks`
    call it alike, and end with the same weights. UnfitModelError where the loss is no number, or explodes, once more
    after the last checkpoint was reloaded.
    """
    _check(items, start.second)
    config, model = recipe.training, recipe.model
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # denormals slow convolutions down many times

    network = start.network.to(best_device())
    half = config.precision == "bf16" or (config.precision == "auto" and start.device.type == "cuda")
    setting = Setting(start, len(items.item_ids), config.seed, items.relations, ranks, half, items.pairs)
    objectives = Objectives(recipe.objectives, setting)
    if recipe.champion:
        objectives.load_kept(recipe.champion)
    fingerprint = _fingerprint(start, objectives, items, recipe)
    prepare(start, model, seed=config.seed)
    optimizer = _optimizer(start, objectives, model, config)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    averages = [parameter.detach().clone() for parameter in trained] if config.ema_decay else []
    towers = MicroBatches(start, config.micro_batch, half=half, seed=(config.seed, 2, ranks.rank))
    workdir.mkdir(parents=True, exist_ok=True)
    learning = torch.nn.ModuleDict({"network": network, "objectives": objectives})
    checkpoints = Checkpoints(workdir / "checkpoints", fingerprint, learning, optimizer, averages)
    resumed, mined_NK = checkpoints.resume() or (Position(), None)
    if resumed.step and ranks.leads:
        logger.info("train: goes on from step %d", resumed.step)
    match_layout(optimizer)
    negatives_NK = items.negatives_NK if mined_NK is None else mined_NK
    wanted, met = wants(recipe.objectives), partners(recipe.objectives)
    plan = BatchPlan(
        items.relations.item_texts,
        negatives_NK,
        config.batch_size,
        config.hard_fraction,
        config.seed,
        Partners(items.relations, items.pairs, met) if met else None,
        config.partner_fraction,
    )
    source = BatchSource(items, plan, start, start.tokenize(items.relations.texts), config.augmentation, ranks, wanted)
    guard = LossGuard(resumed.usual_loss)
    step, samples, loss_value, rate_factor = resumed.step, resumed.samples, resumed.loss, resumed.rate_factor
    saved_step, mined_step, save_seconds = step, -1, 0.0
    began, saved_at = time.perf_counter() - resumed.elapsed, resumed.elapsed

    with (
        TrainingLog(workdir if ranks.leads else None, config.tensorboard, start.device) as log,
        Feed(source.batch, step) as batches,
    ):
        log.begin(step, samples, 0.0)
        while (fraction := _fraction(config, step, elapsed := ranks.first(time.perf_counter() - began))) < 1:
            if _is_refresh(recipe, step, fraction) and mined_step != step:
                mined_NK = ranks.share_array(mine_again(start, items, recipe.mining, config.seed, ranks))
                source, mined_step = replace(source, plan=replace(plan, negatives_NK=mined_NK)), step
                batches.restart(source.batch, step)
            learning_rate = rate_factor * _learning_rate(config, fraction)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["lr_scale"]

            batch = batches.next()
            optimizer.zero_grad(set_to_none=True)
            with log.counting():
                sides = {side: ranks.gather(own, batch.count) for side, own in towers.embed(batch, wanted).items()}
                scale = network.logit_scale.exp()  # type: ignore[operator]  # torch types modules' attributes loosely
                own = ranks.own(batch.count) if ranks.size > 1 else None
                embedded = EmbeddedBatch(batch, sides, scale, own, getattr(network, "logit_bias", None))
                loss, terms = objectives(embedded, ranks.size)
                towers.backward(loss)
            ranks.sum_gradients(trained)
            grad_norm = torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm or math.inf).item()
            loss_value, *term_values = ranks.sum(loss.item(), *terms.tolist())

            if trouble := guard.trouble(loss_value, grad_norm):
                logger.warning("step %d is skipped: %s", step, trouble)
                step += 1
                if guard.bad_steps == PATIENCE:
                    position, mined_NK = _go_back(checkpoints, ranks, rate_factor, trouble, learning_rate)
                    step, samples, rate_factor, mined_step = position.step, position.samples, position.rate_factor, -1
                    match_layout(optimizer)
                    guard = LossGuard()
                    # What was mined since is forgotten too: a run that was killed here would not know of it either.
                    negatives_NK = items.negatives_NK if mined_NK is None else mined_NK
                    source = replace(source, plan=replace(plan, negatives_NK=negatives_NK))
                    batches.restart(source.batch, step)
                continue
            optimizer.step()
            objectives.after_step(embedded)
            step, samples = step + 1, samples + batch.count
            with torch.no_grad():
                network.logit_scale.clamp_(0, MAX_LOGIT_SCALE)  # type: ignore[operator]  # torch types modules' attributes loosely
                if config.ema_decay:
                    torch._foreach_lerp_(averages, trained, 1 - min(config.ema_decay, step / (step + 9)))

            elapsed = time.perf_counter() - began
            if ranks.leads and (log.due or step == 1):
                values = {"loss": loss_value, "lr": learning_rate, "logit_scale": scale.item(), "grad_norm": grad_norm}
                values |= _spreads(sides)
                if len(term_values) > 1:
                    values |= {f"loss_{name}": value for name, value in zip(objectives.names, term_values, strict=True)}
                done = log.write(step, samples, batches.waited, values, (_fraction(config, step, elapsed), elapsed))
                if progress is not None:
                    progress(done)
            # Writing takes a tenth of the time at most, however large the model is.
            if ranks.leads and elapsed - saved_at >= max(config.checkpoint_seconds, 10 * save_seconds):
                checkpoints.save(Position(step, elapsed, samples, loss_value, guard.usual, rate_factor), mined_NK)
                saved_at, saved_step = elapsed, step
                save_seconds = time.perf_counter() - began - elapsed
    seconds = ranks.first(time.perf_counter() - began)
    if ranks.leads and step > saved_step:
        # A kill after this line costs no training time.
        checkpoints.save(Position(step, seconds, samples, loss_value, guard.usual, rate_factor), mined_NK)
    with torch.no_grad():
        for parameter, average in zip(trained if averages else (), averages, strict=True):
            parameter.copy_(average)
    finish(start, model)
    return TrainingResult(start, objectives.eval(), step, samples, seconds, resumed.step, loss_value)


def _check(items: TrainingItems, second: SecondImageTowerConfig | None) -> None:
    if len(items.item_ids) < 2:
        raise ValueError(f"training needs at least 2 items, there are {len(items.item_ids)}")
    silent = np.flatnonzero(items.relations.item_texts.counts == 0)
    if len(silent):
        first = items.item_ids[silent[0]]
        raise ValueError(f"{len(silent)} items have no text to train on, the first is {first!r}; filter them out")
    if second and (items.second_N is None or items.second_N.all() or not items.second_N.any()):
        which = "all have" if items.second_N is not None and items.second_N.any() else "none has"
        raise ValueError(
            f"model.second_image_tower: of {len(items.item_ids)} training items {which} one of the values "
            f"{', '.join(map(repr, second.values))} in {second.column!r}, so that one tower would learn nothing"
        )


def _go_back(
    checkpoints: Checkpoints, ranks: Ranks, rate_factor: float, trouble: str, learning_rate: float
) -> tuple[Position, npt.NDArray[np.int32] | None]:
    """Reloads the last checkpoint, to go on at half the learning rate; UnfitModelError the second time.

    Returns where it is, and the negatives that were mined before it.
    """
    way_out = f"lower training.learning_rate (it was {learning_rate:.3g} there)"
    failure = f"{PATIENCE} training steps in a row went wrong, {trouble}"
    if rate_factor < 1:
        raise UnfitModelError(f"{failure}, at half the learning rate too; {way_out}")
    if (found := checkpoints.resume()) is None:
        raise UnfitModelError(f"{failure}, before there was a checkpoint to go back to; {way_out}")
    position, mined_NK = found
    logger.warning("%s: going back to step %d, at half the learning rate", failure, position.step)
    ranks.wait()  # until all have read it
    slower = replace(position, usual_loss=math.nan, rate_factor=0.5)
    if ranks.leads:
        checkpoints.save(slower, mined_NK)
    return slower, mined_NK


def _is_refresh(recipe: Recipe, step: int, fraction: float) -> bool:
    """Whether the negatives are mined again before this step."""
    every = recipe.mining.refresh_every
    return every is not None and step > 0 and step % every == 0 and fraction >= recipe.training.warmup_fraction


def _spreads(sides: Mapping[Side, torch.Tensor]) -> dict[str, float]:
    """Variance and uniformity of each side; a warning where one has collapsed."""
    values: dict[str, float] = {}
    for side, embedding_BD in sides.items():
        variance, uniformity = spread(embedding_BD)
        values |= {f"{side}_variance": variance, f"{side}_uniformity": uniformity}
        if variance < COLLAPSED:
            logger.warning("the %s embeddings have collapsed: their variance is %.2g", side, variance)
    return values


def _optimizer(
    encoder: DualEncoder, objectives: Objectives, model: ModelConfig, config: TrainingConfig
) -> torch.optim.AdamW:
    """CLIP's AdamW (Radford et al. 2021), of the towers and of what objectives train of their own."""
    rates = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    groups = parameter_groups(encoder, model, **rates) + own_groups(objectives, **rates)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def _fraction(config: TrainingConfig, step: int, elapsed: float) -> float:
    """How much of the budget is used up, 0 to 1 and beyond; of two budgets, the one that is further."""
    if config.max_steps == 0:
        return 1.0
    by_steps = step / config.max_steps if config.max_steps else 0.0
    by_time = elapsed / (60 * config.max_minutes) if config.max_minutes else 0.0
    return max(by_steps, by_time)


def _learning_rate(config: TrainingConfig, fraction: float) -> float:
    if fraction < config.warmup_fraction:
        return config.learning_rate * fraction / config.warmup_fraction
    rest = (fraction - config.warmup_fraction) / (1 - config.warmup_fraction)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))


def _fingerprint(start: DualEncoder, objectives: Objectives, items: TrainingItems, recipe: Recipe) -> str:
    """Digest of all that a checkpoint depends on; pixels are represented by their items."""
    settings = [config.model_dump(mode="json") for config in (recipe.model, recipe.mining, *recipe.objectives)]
    digest = hashlib.sha256(json.dumps([recipe.training.shape, settings, start.config], sort_keys=True).encode())
    relations = items.relations
    digest.update(
        json.dumps([items.item_ids, relations.texts, [own.tolist() for own in relations.item_texts]]).encode()
    )
    digest.update(relations.group_N.tobytes() + relations.pixels_N.tobytes())
    if (edges := relations.edges) is not None:
        for column in (edges.firsts_M, edges.seconds_M, edges.weights_M):
            digest.update(column.tobytes())
    for array in (items.negatives_NK, items.second_N):
        digest.update(b"" if array is None else array.tobytes())
    for relation, pairs in sorted(items.pairs.items()):
        columns = (pairs.firsts_M, pairs.seconds_M, pairs.targets_M, pairs.weights_M)
        digest.update(relation.encode() + b"".join(column.tobytes() for column in columns))
    for name, tensor in [*start.network.state_dict().items(), *objectives.state_dict().items()]:
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
