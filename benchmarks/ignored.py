"""Does a decoder make embeddings keep what the texts leave out? Shapes of any place, size and colour, called by shape.

    python -m benchmarks.ignored --seeds 0 1 2 --results FILE

The collection is `scattered` of benchmarks/rendered.py. Trains CLIP's loss alone and with `reconstruction` at several
weights, then asks frozen embeddings: which shape (accuracy of the 5 nearest and of logistic regression, on validation
images), and how much of the variance of place, size and hue a ridge regression from the training images explains (R²,
1 at best). Appends a JSON line a training to FILE, and prints the table of all lines in it.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.momentum import table
from benchmarks.rendered import scattered
from pairloom.models.arrays import Embeddings
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.probes import probe
from pairloom.models.objectives.config import ClipConfig, Objective, ReconstructionConfig
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train


def measure(weight: float, steps: int, seed: int) -> dict[str, float]:
    """Trains from nothing with a weight of the reconstruction; what can be read off the embeddings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scattered(folder)
        rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
        images = [Image.open(folder / row["image"]).convert("RGB") for row in rows]
        learn, check = ([n for n, row in enumerate(rows) if row["split"] == split] for split in ("train", "val"))
        ids, texts = [rows[n]["id"] for n in learn], [[rows[n]["text"]] for n in learn]
        relations = Relations.build(ids, [rows[n]["group"] for n in learn], texts, [None] * len(learn))
        start = create(ModelConfig(architecture="tiny-32"), relations.texts, seed=seed)
        write_pixels((images[n] for n in learn), len(learn), start.preprocess_cfg, folder / "pixels.npy")
        items = TrainingItems(tuple(ids), open_pixels(folder / "pixels.npy"), relations)
        config = TrainingConfig(
            max_minutes=None, max_steps=steps, batch_size=128, seed=seed, threads=1, augmentation=None
        )
        objectives: list[Objective] = [ClipConfig()]
        if weight:
            objectives.append(ReconstructionConfig(weight=weight))
        result = train(start, items, Recipe(config, objectives), workdir=folder / "run")
    embedding_ND = Encoder(result.encoder).embed_images(images)
    labels = [row["group"] for row in rows]
    told = probe(
        embedding_ND[learn], [labels[n] for n in learn], embedding_ND[check], [labels[n] for n in check], seed=0
    )
    found = {"shape kNN": float(told["knn"].mean()), "shape logistic": float(told["logistic"].mean())}
    hue_N = 2 * np.pi * np.array([row["hue"] for row in rows])
    factors = {name: np.array([[row[name]] for row in rows]) for name in ("x", "y", "radius")}
    factors["hue"] = np.stack([np.cos(hue_N), np.sin(hue_N)], axis=1)
    return found | {f"{name} R²": explained(embedding_ND, values, learn, check) for name, values in factors.items()}


def explained(embedding_ND: Embeddings, value_NF: npt.NDArray[np.float64], learn: list[int], check: list[int]) -> float:
    """R² of a ridge regression that was fitted on some rows and is asked on others."""
    from sklearn.linear_model import RidgeCV  # a second to import
    from sklearn.metrics import r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 7)))
    guessed = model.fit(embedding_ND[learn], value_NF[learn]).predict(embedding_ND[check])
    return float(r2_score(value_NF[check], guessed))


def main() -> None:
    """Trains with each weight and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", type=float, default=[0, 1, 10])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    for seed in options.seeds:
        for weight in options.weights:
            arm = f"clip + {weight:g} × reconstruction" if weight else "clip"
            line = {"arm": arm, "steps": options.steps, "batch": 128, "seed": seed}
            line |= measure(weight, options.steps, seed) | {"load": os.getloadavg()[0]}
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    lines = [json.loads(line) for line in options.results.read_text(encoding="utf-8").splitlines()]
    sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
