import logging
import os
import signal
import time
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tiny import tiny_architecture, tiny_encoder, tiny_items, tiny_texts

from pairloom.models.batches.feed import TrainingItems
from pairloom.models.mining import refresh
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lists import Searcher
from pairloom.models.mining.positives import KnownPositives
from pairloom.models.objectives.config import MomentumConfig
from pairloom.models.ranks import Ranks, joined
from pairloom.models.towers.config import ModelConfig, SecondImageTowerConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.training import launcher
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.launcher import launch, processes_wanted
from pairloom.models.training.log import read_log
from pairloom.models.training.trainer import Recipe, train

TEXTS = [text for own in tiny_texts() for text in own]
heard_here = ContextVar("heard_here", default="nowhere")
STEPS = TrainingConfig(
    max_minutes=None,
    max_steps=16,
    batch_size=15,
    threads=1,
    checkpoint_seconds=1e-6,
    micro_batch=4,
    processes=2,
)

MOMENTUM = MomentumConfig(contrasts=("image_text", "image_image", "text_text"), queue=40, momentum=0.9)
QUEUES = Recipe(STEPS.model_copy(update={"max_steps": 6, "batch_size": 12}), [MOMENTUM])


def train_here(folder: Path, *names: str) -> None:
    with joined(STEPS.rank_timeout_minutes) as ranks:
        for name in names:
            workdir = folder / name
            if name.startswith("queues"):
                start = load(folder / "plain")
                result = train(start, tiny_items(folder, start), QUEUES, workdir=workdir, ranks=ranks)
                torch.save(result.objectives.state_dict(), workdir / f"objectives-{ranks.rank}.pt")
                ranks.wait()
                continue
            if name == "mined":
                mine_here(workdir, tiny_items(folder, start := load(folder / "plain")), start, ranks)
                continue
            start = load(folder / "start")
            if name == "disturbed" and ranks.rank == 1:
                start.network.get_submodule("visual").register_forward_pre_hook(partial(strike, workdir))
            # One item of the second image tower: mostly, one of the ranks has none of it to learn from, or both have.
            items = replace(tiny_items(folder, start), second_N=np.arange(32) == 5)
            result = train(start, items, Recipe(STEPS), workdir=workdir, ranks=ranks)
            # After a restart, what had ended before is only read again.
            if ranks.leads and not (workdir / "weights.pt").exists():
                torch.save(result.encoder.network.state_dict(), workdir / "weights.pt")
            ranks.wait()


def mine_here(workdir: Path, items: TrainingItems, encoder: DualEncoder, ranks: Ranks) -> None:
    """Store what the ranks mine together, and that their search, a few rows at a time, finds what one rank's does."""
    workdir.mkdir(exist_ok=True)
    image_ND, text_ND = np.random.default_rng(0).standard_normal((2, len(items.item_ids), 8), np.float32)
    searcher = Searcher(image_ND, text_ND, KnownPositives(items.relations), 5)
    rows_Q = np.arange(len(items.item_ids))
    with patch.object(refresh, "SEARCHED", 5):
        together = refresh._shared(searcher, ranks, encoder.device)("image_to_text", rows_Q, None, None)
        mined_NK = refresh.mine_again(encoder, items, MiningConfig(), 0, ranks)
    alone = searcher("image_to_text", rows_Q)
    np.testing.assert_array_equal(together.indices_QK, alone.indices_QK)
    np.testing.assert_array_equal(together.scores_QK, alone.scores_QK)
    np.save(workdir / f"{ranks.rank}.npy", mined_NK)


def strike(workdir: Path, *_: object) -> None:
    """Kill this process, once, after a first checkpoint and a look of who watches over it."""
    if not (workdir / "struck").exists() and list(workdir.glob("checkpoints/step-*[0-9]")):
        while not (workdir / "watched").exists():
            time.sleep(0.01)
        (workdir / "struck").touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Heard(logging.FileHandler):
    """Keeps what is logged, and in which context."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{heard_here.get()}: {record.name}: {record.getMessage()}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process learned, and what two did that started once, of which one was killed."""
    folder = tmp_path_factory.mktemp("ranks")
    second = SecondImageTowerConfig(column="number", values=("5",))
    start = create(ModelConfig(architecture=tiny_architecture(folder), second_image_tower=second), TEXTS, seed=0)
    start.save(folder / "start")
    tiny_encoder(folder).save(folder / "plain")
    tiny_items(folder, start)  # writes the pixels, before several processes want to
    train_here(folder, "alone", "queues-alone")

    heard_here.set("heard here")

    def watch() -> None:
        assert heard_here.get() == "heard here"
        (folder / "disturbed" / "watched").touch()

    ours, heard = logging.getLogger("pairloom"), Heard(folder / "heard.txt")
    ours.addHandler(heard)
    ours.setLevel(logging.INFO)
    launch(train_here, (folder, "undisturbed", "disturbed", "queues-together", "mined"), 2, watch=watch)
    ours.removeHandler(heard)
    ours.setLevel(logging.NOTSET)
    return folder


def stored(file: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return loaded


def test_two_ranks_train_as_one_does_even_where_one_is_killed(trained: Path) -> None:
    assert (trained / "disturbed" / "struck").exists()
    alone, together, disturbed = (
        stored(trained / name / "weights.pt") for name in ("alone", "undisturbed", "disturbed")
    )
    for name, expected in alone.items():
        torch.testing.assert_close(together[name], expected, rtol=0, atol=1e-3)
    assert all(torch.equal(disturbed[name], expected) for name, expected in together.items())
    first, same = (read_log(trained / name)[0]["loss"] for name in ("alone", "undisturbed"))
    assert first == pytest.approx(same, rel=1e-6)


def test_what_the_first_rank_logs_is_logged_where_it_was_started(trained: Path) -> None:
    heard = (trained / "heard.txt").read_text().splitlines()
    where = "heard here: pairloom.models.training.trainer: train: goes on from step "
    steps = [int(line.removeprefix(where)) for line in heard if line.startswith(where)]
    # The one that had ended is only read again, the one of which a process was killed has steps to go.
    assert steps[0] == STEPS.max_steps
    assert 0 < steps[1] < 16


def test_two_ranks_keep_equal_queues_of_momentum_which_are_those_of_one(trained: Path) -> None:
    alone, first, second = (
        stored(trained / f"queues-{name}.pt")
        for name in ("alone/objectives-0", "together/objectives-0", "together/objectives-1")
    )
    assert alone["terms.momentum.place"] == 6 * 12 % 40
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=0, atol=1e-3)


def test_two_ranks_mine_the_same_negatives_together(trained: Path) -> None:
    first_NK, second_NK = (np.load(trained / "mined" / f"{rank}.npy") for rank in (0, 1))
    np.testing.assert_array_equal(first_NK, second_NK)
    assert len(first_NK) == 32
    assert (first_NK >= 0).any(axis=1).all()


def test_the_reason_of_a_failed_rank_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "RESTARTS", 0)
    with pytest.raises(RuntimeError, match=r"training in 2 processes failed 1 times; .*ValueError.*'no number'"):
        launch(int, ("no number",), 2, watch=lambda: None)


def test_as_many_processes_as_configured_are_wanted() -> None:
    assert processes_wanted(STEPS) == 2
    assert processes_wanted(STEPS.model_copy(update={"processes": "auto"})) == max(torch.cuda.device_count(), 1)
