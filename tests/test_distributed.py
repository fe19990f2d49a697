import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_encoder, tiny_items

from models.distributed import joined
from models.launcher import launch, processes_wanted
from models.towers import ModelConfig
from models.trainer import Recipe, TrainingConfig, train
from models.training_log import read_log

STEPS = TrainingConfig(
    max_minutes=None,
    max_steps=40,
    batch_size=15,
    threads=1,
    checkpoint_seconds=1e-6,
    micro_batch=4,
    processes=2,
    rank_timeout_minutes=0.1,
)


def train_here(folder: Path, name: str) -> None:
    with joined(STEPS.rank_timeout_minutes) as ranks:
        workdir = folder / name
        workdir.mkdir(exist_ok=True)
        (workdir / f"rank-{ranks.rank}.pid").write_text(str(os.getpid()))
        start = tiny_encoder(folder)
        items = tiny_items(folder, start)
        result = train(start, items, Recipe(STEPS), workdir=workdir, ranks=ranks)
        if ranks.leads:
            torch.save(result.encoder.network.state_dict(), workdir / "weights.pt")
        ranks.wait()


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(folder / name / "weights.pt", weights_only=True)
    return loaded


def test_two_ranks_train_as_one_does_also_where_one_dies_or_hangs(tmp_path: Path) -> None:
    start = tiny_encoder(tmp_path)
    tiny_items(tmp_path, start)  # the pixels, before several processes want to write them
    train_here(tmp_path, "alone")
    launch(train_here, (tmp_path, "undisturbed"), 2, watch=lambda: None)

    struck: list[signal.Signals] = []

    def strike() -> None:
        """Kill the second rank once, and make its successor hang."""
        workdir = tmp_path / "disturbed"
        if len(struck) < 2 and (pid := workdir / "rank-1.pid").exists() and list(workdir.glob("checkpoints/step-*[0-9]")):
            kind = (signal.SIGKILL, signal.SIGSTOP)[len(struck)]
            os.kill(int(pid.read_text()), kind)
            struck.append(kind)
            pid.unlink()

    launch(train_here, (tmp_path, "disturbed"), 2, watch=strike)
    assert struck[:1] == [signal.SIGKILL]

    alone, together = weights(tmp_path, "alone"), weights(tmp_path, "undisturbed")
    for name, expected in alone.items():
        torch.testing.assert_close(together[name], expected, rtol=1e-3, atol=1e-4)
    disturbed = weights(tmp_path, "disturbed")
    assert all(torch.equal(disturbed[name], expected) for name, expected in together.items())
    curves = [{line["step"]: line["loss"] for line in read_log(tmp_path / name)} for name in ("alone", "undisturbed")]
    assert curves[0][1] == pytest.approx(curves[1][1], rel=1e-5)


def test_the_reason_of_a_failed_rank_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="training in 2 processes failed 3 times; .*no model called"):
        launch(fail, (str(tmp_path),), 2, watch=lambda: None)


def fail(folder: str) -> None:
    raise ValueError(f"no model called {folder}")


def test_as_many_processes_as_configured_are_wanted() -> None:
    assert processes_wanted(STEPS) == 2
    assert processes_wanted(STEPS.model_copy(update={"processes": "auto"})) == max(torch.cuda.device_count(), 1)
