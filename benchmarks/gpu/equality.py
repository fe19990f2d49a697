"""What the GPU finds beside what a CPU does: embeddings, neighbours, a loss with its gradient, a short training.

The CPU's half runs in a process of its own that sees no GPU: `python -m benchmarks.gpu.equality FILE SIZES`.
"""

# B = batch, D = embedding

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.large_batch import diagonal
from benchmarks.gpu.measures import SIZES, Part, encoder_of, made_up_items, made_up_texts, plain_training
from benchmarks.gpu.mining import vectors
from pairloom.models.arrays import best_device
from pairloom.models.encoder import Encoder
from pairloom.models.mining.neighbours import nearest
from pairloom.models.objectives.clip import clip_loss
from pairloom.models.training.trainer import Recipe, train

ARCHITECTURE, ITEMS, STEPS = "tiny-32", 64, 12
Results = dict[str, np.ndarray]


def run(part: Part) -> None:
    """A line a kind of result."""
    sizes = next(name for name, own in SIZES.items() if own == part.sizes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cpu.npz"
        command = [sys.executable, "-m", "benchmarks.gpu.equality", str(file), sizes]
        child = subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        try:
            own = results(sizes)
            if child.wait():
                raise RuntimeError(f"the CPU's half ended with {child.returncode}")
        finally:
            child.kill()
        with np.load(file) as other:
            for what, facts in compared(own, dict(other)).items():
                part.tell(what, **facts)


def results(sizes: str) -> Results:
    """All of it on the best device that this process sees."""
    texts = made_up_texts(ITEMS)
    encoder = encoder_of(ARCHITECTURE, texts)
    items = made_up_items(encoder, texts)
    embedder = Encoder(encoder)
    count = min(SIZES[sizes].vectors, 20_000)
    vector_CD = vectors(count, SIZES[sizes].width)
    found = nearest(vector_CD[:2_000], vector_CD, 16)
    sides = [
        torch.from_numpy(vector_CD[rows]).to(best_device()).requires_grad_()
        for rows in (slice(0, 900), slice(900, 1800))
    ]
    scale = torch.tensor(14.3, device=best_device())
    loss = clip_loss(sides[0], sides[1], diagonal(900, best_device()), scale)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient_BD = sides[0].grad
    assert gradient_BD is not None, "the loss depends on it"
    made: Results = {
        "text embeddings": embedder.embed_texts([own[0] for own in texts]),
        "neighbours": found.indices_QK,
        "neighbours' scores": found.scores_QK,
        "loss": np.array(loss.item()),
        "loss's gradient": gradient_BD.cpu().numpy(),
    }
    config = plain_training(STEPS, 16, precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        made["training's last loss"] = np.array(train(encoder, items, Recipe(config), workdir=Path(folder)).loss)
    return made


def compared(own: Results, other: Results) -> dict[str, dict[str, object]]:
    """For each kind of result the largest difference, and the share that is equal to the bit."""
    return {
        what: {
            "largest_difference": float(np.abs(own[what].astype(np.float64) - other[what]).max()),
            "equal": float(np.mean(own[what] == other[what])),
        }
        for what in own
    }


if __name__ == "__main__":
    np.savez(sys.argv[1], **results(sys.argv[2]))  # type: ignore[arg-type]  # arrays by name
