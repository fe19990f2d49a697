"""A training killed by SIGKILL after a checkpoint, then started again, beside an undisturbed one."""

import multiprocessing
import os
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from benchmarks.gpu.measures import Part, encoder_of, made_up_items, made_up_texts, plain_training
from pairloom.models.training.trainer import Recipe, train

ARCHITECTURE, ITEMS, BATCH = "tiny-32", 64, 16


def run(part: Part) -> None:
    """One line."""
    part.measure("killed once, resumed", lambda: _killed(part))


def _killed(part: Part) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = _child(part, folder / "whole")
        whole.join(max(part.ends - time.monotonic(), 0))
        cut = _child(part, folder / "cut")
        while not list((folder / "cut").glob("checkpoints/step-*[0-9]")):
            if time.monotonic() > part.ends or not cut.is_alive():
                break
            time.sleep(0.001)
        cut.kill()
        cut.join()
        killed = cut.exitcode == -9
        again = _child(part, folder / "cut")
        again.join(max(part.ends - time.monotonic(), 0))
        for process in (whole, again):
            process.kill()
        undisturbed, resumed = (
            torch.load(folder / each / "weights.pt", weights_only=True) for each in ("whole", "cut")
        )
    pairs = [(undisturbed["weights"][name], resumed["weights"][name]) for name in undisturbed["weights"]]
    difference = max(float((one - other).abs().max()) for one, other in pairs)
    return {"killed": killed, "resumed_from": resumed["from"], "largest_difference": difference}


def _child(part: Part, workdir: Path) -> BaseProcess:
    # Its server has everything loaded, and has neither used the GPU nor gone backwards: neither outlives a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_train, args=(workdir, part.sizes.resumed_steps), daemon=True)
    process.start()
    return process


def _train(workdir: Path, steps: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads don't survive a fork
    texts = made_up_texts(ITEMS)
    encoder = encoder_of(ARCHITECTURE, texts)
    config = plain_training(steps, BATCH, checkpoint_seconds=1e-6)
    result = train(encoder, made_up_items(encoder, texts), Recipe(config), workdir=workdir)
    weights = {name: tensor.cpu().float() for name, tensor in result.encoder.network.state_dict().items()}
    torch.save({"weights": weights, "from": result.resumed_from_step}, workdir / "weights.pt")
