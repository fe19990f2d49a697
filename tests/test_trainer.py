import itertools
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from child_processes import running, wait_until
from safetensors.torch import load_file
from tiny import interrupt_after_checkpoint, tiny_encoder, tiny_images, tiny_items

from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.negatives import batch_negatives
from pairloom.models.ragged import Ragged
from pairloom.models.towers.config import ModelConfig
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.log import TrainingProgress, read_log
from pairloom.models.training.stability import LossGuard, spread
from pairloom.models.training.trainer import Recipe, TrainingResult, train

STEPS = TrainingConfig(max_minutes=None, max_steps=60, batch_size=16, threads=1, checkpoint_seconds=1e-6, ema_decay=0.9)
STILL = AugmentationConfig(shift=0, scale=0, rotation=0, colour=0)


def run(folder: Path, config: TrainingConfig, name: str) -> TrainingResult:
    start = tiny_encoder(folder)
    items = tiny_items(folder, start)
    negatives_NK = batch_negatives(mine_lexical_negatives(items.relations, MiningConfig(), seed=0))
    return train(start, replace(items, negatives_NK=negatives_NK), Recipe(config), workdir=folder / name)


def test_tensorboard_reads_the_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, STEPS.model_copy(update={"max_steps": 3, "tensorboard": tmp_path / "board"}), "run")
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    (first, *_) = read_log(tmp_path / "run")
    (shown, *_) = board.Scalars("training/loss")
    assert (shown.step, shown.value) == (first["step"], pytest.approx(first["loss"], rel=1e-6))


def weights(result: TrainingResult) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in result.encoder.network.state_dict().items()}


def test_training_learns_and_reports(tmp_path: Path) -> None:
    start = tiny_encoder(tmp_path)
    items = tiny_items(tmp_path, start)
    seen: list[TrainingProgress] = []
    config = STEPS.model_copy(update={"max_steps": 150, "checkpoint_seconds": 60, "augmentation": STILL})
    result = train(start, items, Recipe(config), workdir=tmp_path / "run", progress=seen.append)
    encoder = Encoder(result.encoder)
    images_ND, texts_TD = encoder.embed_images(tiny_images()), encoder.embed_texts(items.relations.texts)
    recalls = evaluate(images_ND, texts_TD, items.relations, EvaluationConfig(k=(3,)), {}).as_dict()
    assert min(recalls.values()) > 0.8
    assert (result.steps, result.samples, result.resumed_from_step) == (150, 150 * 16, 0)
    assert seen[0].step == 1
    names = {"step", "fraction", "loss", "lr", "logit_scale", "grad_norm", "samples_per_second", "data_wait"}
    spreads = {f"{side}_{name}" for side in ("image", "text") for name in ("variance", "uniformity")}
    assert set(read_log(tmp_path / "run")[0]) == names | spreads | {"eta_seconds"}


def test_a_step_budget_gives_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    config = STEPS.model_copy(update={"max_steps": 8})
    assert weights(run(tmp_path, config, "a")) == weights(run(tmp_path, config, "b"))
    assert weights(run(tmp_path, config, "c")) != weights(run(tmp_path, config.model_copy(update={"seed": 1}), "d"))


def test_no_step_leaves_the_start_as_it_is(tmp_path: Path) -> None:
    start = {name: tensor.numpy().tobytes() for name, tensor in tiny_encoder(tmp_path).network.state_dict().items()}
    config = STEPS.model_copy(update={"ema_decay": None})
    result = run(tmp_path, config.model_copy(update={"max_steps": 0, "max_minutes": 1}), "none")
    assert (weights(result), result.steps, result.samples) == (start, 0, 0)
    assert weights(run(tmp_path, config.model_copy(update={"max_steps": 2}), "two")) != start


def test_a_killed_training_ends_bit_identical(tmp_path: Path) -> None:
    expected = weights(run(tmp_path, STEPS, "whole"))
    program = """if True:
        import sys, pathlib, test_trainer
        test_trainer.run(pathlib.Path(sys.argv[1]), test_trainer.STEPS, "cut")"""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    checkpoints = tmp_path / "cut" / "checkpoints"
    with running("-c", program, str(tmp_path), environment=os.environ | {"PYTHONPATH": paths}) as child:
        wait_until(lambda: any(checkpoints.glob("step-*[0-9]")), child)
        child.kill()
    result = run(tmp_path, STEPS, "cut")
    assert result.resumed_from_step > 0
    assert result.steps == 60
    assert weights(result) == expected


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = STEPS.model_copy(update={"max_steps": 5})
    expected = weights(run(tmp_path, config, "run"))
    (state,) = (tmp_path / "run" / "checkpoints").glob("step-*/state.safetensors")
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    result = run(tmp_path, config, "run")
    assert "digest" in caplog.text
    assert result.resumed_from_step == 0
    assert weights(result) == expected


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    config = STEPS.model_copy(update={"max_steps": 5})
    first, again = run(tmp_path, config, "run"), run(tmp_path, config, "run")
    assert again.resumed_from_step == again.steps == 5
    assert (again.loss, weights(again)) == (first.loss, weights(first))


def test_other_settings_start_anew(tmp_path: Path) -> None:
    run(tmp_path, STEPS.model_copy(update={"max_steps": 5}), "run")
    assert run(tmp_path, STEPS.model_copy(update={"max_steps": 6}), "run").resumed_from_step == 0


def test_a_time_budget_counts_the_time_before_a_kill(tmp_path: Path) -> None:
    config = TrainingConfig(max_minutes=0.01, batch_size=16, threads=1)
    first = run(tmp_path, config, "run")
    assert first.seconds >= 0.6
    again = run(tmp_path, config, "run")
    assert again.resumed_from_step == again.steps == first.steps


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    start = tiny_encoder(tmp_path)
    with torch.no_grad():
        start.network.get_parameter("visual.proj").fill_(torch.nan)
    with pytest.raises(
        RuntimeError, match="3 training steps in a row went wrong, the loss is nan, before there was a checkpoint"
    ):
        train(start, tiny_items(tmp_path, start), Recipe(STEPS), workdir=tmp_path / "run")


def test_the_average_of_the_first_steps_is_kept(tmp_path: Path) -> None:
    def end(steps: int, **changes: object) -> dict[str, torch.Tensor]:
        config = STEPS.model_copy(update={"max_steps": steps, "warmup_fraction": 0.0, "ema_decay": None, **changes})
        result = run(tmp_path, config, f"{steps}-{changes}")
        return {name: value.detach().double() for name, value in result.encoder.network.named_parameters()}

    begin = {name: value.double() for name, value in tiny_encoder(tmp_path).network.named_parameters()}
    stepped, averaged = end(1), end(1, ema_decay=0.9)
    for name, value in averaged.items():
        torch.testing.assert_close(value, 0.1 * begin[name] + 0.9 * stepped[name], rtol=1e-5, atol=1e-7)


def test_a_long_gradient_is_cut(tmp_path: Path) -> None:
    config = STEPS.model_copy(update={"max_steps": 1, "warmup_fraction": 0.0, "ema_decay": None})
    free = weights(run(tmp_path, config, "free"))
    assert weights(run(tmp_path, config.model_copy(update={"max_grad_norm": 1e6}), "wide")) == free
    # AdamW divides by the gradient's size plus 1e-6: only a gradient as small as that moves weights less.
    assert weights(run(tmp_path, config.model_copy(update={"max_grad_norm": 1e-9}), "tight")) != free


def test_a_locked_tower_stays(tmp_path: Path) -> None:
    start = tiny_encoder(tmp_path)
    before = {name: value.clone() for name, value in start.network.state_dict().items()}
    model = ModelConfig(lock_image=True, layer_decay=0.5)
    config = STEPS.model_copy(update={"max_steps": 3})
    result = train(start, tiny_items(tmp_path, start), Recipe(config, model=model), workdir=tmp_path / "run")
    after = result.encoder.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(name.startswith("visual.") for name in moved)
    assert all(parameter.requires_grad for parameter in result.encoder.network.parameters())


def test_training_without_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="max_minutes or max_steps"):
        TrainingConfig(max_minutes=None)


def test_batches_bring_hard_negatives_and_cover_every_item() -> None:
    negatives_NK = ((np.arange(40)[:, None] + np.array([[20, 1]])) % 40).astype(np.int32)
    plan = BatchPlan(Ragged.of(np.arange(40)[:, None]), negatives_NK, batch_size=10, hard_fraction=0.5, seed=3)
    for step in range(8):
        items_B = plan.batch(step).items_B
        anchors, hard = items_B[:5], items_B[5:]
        assert len(set(items_B.tolist())) == 10
        assert set(hard.tolist()) <= set(negatives_NK[anchors].ravel().tolist())
    assert sorted(item for step in range(8) for item in plan.batch(step).items_B[:5].tolist()) == list(range(40))


class Spoiler:
    """Makes the images' embeddings NaN on some of its calls."""

    def __init__(self, calls: range) -> None:
        self.calls, self.seen = calls, 0

    def __call__(self, _module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return output * torch.nan if self.seen in self.calls else output


def spoiled(folder: Path, calls: range, **changes: object) -> TrainingResult:
    start = tiny_encoder(folder)
    start.network.get_submodule("visual").register_forward_hook(Spoiler(calls))
    config = STEPS.model_copy(update={"max_steps": 30, "augmentation": STILL, **changes})
    return train(start, tiny_items(folder, start), Recipe(config), workdir=folder / "run")


def test_two_bad_steps_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = spoiled(tmp_path, range(10, 12))
    assert (result.steps, result.samples) == (30, 28 * 16)
    assert caplog.text.count("is skipped: the loss is nan") == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.encoder.network.state_dict().values())


def test_after_three_bad_steps_the_last_checkpoint_is_reloaded_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = spoiled(tmp_path, range(20, 23))
    assert "going back to step" in caplog.text
    assert result.steps == 30
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.encoder.network.state_dict().values())
    assert read_log(tmp_path / "run")
    with pytest.raises(RuntimeError, match="the loss is nan, at half the learning rate too; lower"):
        spoiled(tmp_path, range(20, 10_000), seed=1)


def test_an_exploding_loss_is_told_from_a_noisy_one() -> None:
    guard = LossGuard()
    assert [guard.trouble(loss, 1.0) for loss in (5.0, 4.0, 9.0, 0.5)] == ["", "", "", ""]
    assert guard.trouble(40.0, 1.0) == "the loss is 40 where 4.969 was usual"
    assert guard.trouble(math.inf, 1.0) == "the loss is inf"
    assert guard.trouble(4.0, math.nan) == "the gradient's norm is nan"
    assert guard.bad_steps == 3
    assert guard.trouble(4.0, 1.0) == ""
    assert guard.bad_steps == 0


def test_spread_matches_pairs_one_by_one() -> None:
    embedding_BD = torch.nn.functional.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    variance, uniformity = spread(embedding_BD)
    kernel = [math.exp(-2 * float((a - b).square().sum())) for a, b in itertools.permutations(embedding_BD, 2)]
    assert uniformity == pytest.approx(math.log(sum(kernel) / len(kernel)), rel=1e-5)
    assert variance == pytest.approx(1 - float(embedding_BD.mean(dim=0).square().sum()), rel=1e-5)
    point_BD = embedding_BD[:1].expand(7, -1)
    assert spread(point_BD) == pytest.approx((0, 0), abs=1e-5)


def test_collapsed_embeddings_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = tiny_encoder(tmp_path)
    with torch.no_grad():
        start.network.get_parameter("visual.class_embedding").mul_(0)
        start.network.get_parameter("visual.conv1.weight").zero_()
    config = STEPS.model_copy(update={"max_steps": 1})
    train(start, tiny_items(tmp_path, start), Recipe(config), workdir=tmp_path / "run")
    assert "the image embeddings have collapsed" in caplog.text


def test_negatives_mined_again_survive_a_kill(tmp_path: Path) -> None:
    recipe = Recipe(
        STEPS.model_copy(update={"hard_fraction": 0.5}), mining=MiningConfig(refresh_every=7, num_negatives=2)
    )
    items = tiny_items(tmp_path, tiny_encoder(tmp_path))

    def run_here(name: str, *, cut: bool = False) -> TrainingResult:
        start = tiny_encoder(tmp_path)
        if cut:
            interrupt_after_checkpoint(start, tmp_path / name, beyond=7)
        return train(start, items, recipe, workdir=tmp_path / name)

    expected = weights(run_here("whole"))
    (folder,) = (tmp_path / "whole" / "checkpoints").glob("step-*")
    negatives_NK = load_file(folder / "state.safetensors")["negatives"].numpy()
    anchors, columns = np.nonzero(negatives_NK >= 0)
    assert len(anchors)
    everything = np.arange(len(items.item_ids))
    assert not items.relations.positive_mask(everything, everything)[anchors, negatives_NK[anchors, columns]].any()

    with pytest.raises(KeyboardInterrupt):
        run_here("cut", cut=True)
    resumed = run_here("cut")
    assert 7 < resumed.resumed_from_step < 60
    assert weights(resumed) == expected


def test_a_run_that_goes_back_ends_as_one_that_was_killed_there(tmp_path: Path) -> None:
    """And that went on at half the rate. Between the checkpoint and the bad steps negatives are mined again."""
    often = STEPS.model_copy(update={"hard_fraction": 0.5})
    items = tiny_items(tmp_path, tiny_encoder(tmp_path))
    mining = MiningConfig(refresh_every=40, num_negatives=2)
    start = tiny_encoder(tmp_path)
    interrupt_after_checkpoint(start, tmp_path / "back")
    with pytest.raises(KeyboardInterrupt):
        train(start, items, Recipe(often, mining=mining), workdir=tmp_path / "back")
    (saved,) = (tmp_path / "back" / "checkpoints").glob("step-*[0-9]")
    shutil.copytree(tmp_path / "back", tmp_path / "killed")
    (state,) = (tmp_path / "killed" / "checkpoints").glob("step-*/state.json")
    record = json.loads(state.read_bytes())
    record["position"] |= {"usual_loss": math.nan, "rate_factor": 0.5}
    state.write_text(json.dumps(record))
    reached = int(saved.name.removeprefix("step-"))
    assert reached < 40

    never = often.model_copy(update={"checkpoint_seconds": 1e9})
    start, passes = tiny_encoder(tmp_path), itertools.count(reached)

    def spoil(module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output * torch.nan if module.training and next(passes) in (42, 43, 44) else output

    start.network.get_submodule("visual").register_forward_hook(spoil)
    back = train(start, items, Recipe(never, mining=mining), workdir=tmp_path / "back")
    assert next(passes) > 60, "it went back"
    killed = train(tiny_encoder(tmp_path), items, Recipe(never, mining=mining), workdir=tmp_path / "killed")
    assert (back.steps, back.samples) == (killed.steps, killed.samples)
    assert weights(back) == weights(killed)
