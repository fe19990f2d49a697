"""One image tower for two emoji artists (Siamese) beside a tower for each (pseudo-Siamese), on held-back concepts.

    python -m benchmarks.pseudo --results pseudo.jsonl --steps 1500
    python -m benchmarks.pseudo --results pseudo.jsonl --minutes 2 --rows "one tower, across" "two towers, across"

Both learn from twemoji's and openmoji's drawings of the training concepts, without skin tones, by InfoNCE between
drawings of one concept (`loss: sup_con`); texts are not used. *across* compares drawings with the other artist's
alone, *all* with all. Two towers start as copies, but for the row that says otherwise. Asked is, for each validation
concept that both have drawn, one artist's drawing among the other's: is the same concept among the first k? Both
ways. Nothing is tuned: settings are the pipeline defaults, but for the emoji augmentation of benchmarks/pipelines.yaml.
Results in `--results` are not made again.
"""

# N = items, D = embedding

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bundle import read_pictures, read_rows
from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.encoder import Encoder
from pairloom.models.objectives.batch import Setting, Term
from pairloom.models.objectives.config import SupConConfig
from pairloom.models.objectives.nt_xent import NtXentTerm
from pairloom.models.towers.config import ModelConfig, SecondImageTowerConfig
from pairloom.models.towers.creation import create
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

ARTISTS = ("twemoji", "openmoji")
LIGHT = AugmentationConfig(shift=0.04, scale=0.08, rotation=3, colour=0.05)


class Across(SupConConfig):
    """Comparison across artists also where one tower encodes both."""

    def build(self, setting: Setting) -> Term:  # noqa: ARG002  # nothing of its own to set up
        """The term."""
        return NtXentTerm(self)


@dataclass(frozen=True)
class Row:
    """One way to learn."""

    name: str
    towers: int
    across: bool = True
    apart: bool = False
    """Whether the second tower starts from weights of its own."""


ROWS = (
    Row("one tower, all", 1, across=False),
    Row("one tower, across", 1),
    Row("two towers, all", 2, across=False),
    Row("two towers, across", 2),
    Row("two towers from different weights, across", 2, apart=True),
)


@dataclass(frozen=True)
class Trial:
    """One training to be done."""

    row: str
    seed: int
    steps: int | None
    minutes: float | None
    architecture: str = "tiny-32"


def measure(trial: Trial) -> dict[str, Any]:
    """Trains one row and asks it for the other artist's drawings."""
    row = next(row for row in ROWS if row.name == trial.row)
    rows = [row for row in read_rows("emoji") if row["source"] in ARTISTS]
    learn = [row for row in rows if row["split"] == "train"]
    second = SecondImageTowerConfig(
        column="source", values=(ARTISTS[1],), seed=trial.seed + 1000 if row.apart else None
    )
    model = ModelConfig(architecture=trial.architecture, second_image_tower=second if row.towers == 2 else None)
    texts, ids = [own["texts"] for own in learn], [own["image_id"] for own in learn]
    start = create(model, [text for own in texts for text in own], seed=trial.seed)
    relations = Relations.build(ids, [own["concept_id"] for own in learn], texts, [own["pixel_sha1"] for own in learn])
    config = TrainingConfig(
        max_minutes=trial.minutes, max_steps=trial.steps, seed=trial.seed, augmentation=LIGHT, threads=1
    )
    with tempfile.TemporaryDirectory() as folder:
        pixels = Path(folder) / "pixels.npy"
        write_pixels(read_pictures("emoji", learn), len(learn), start.preprocess_cfg, pixels)
        items = TrainingItems(
            tuple(ids), open_pixels(pixels), relations, second_N=second.takes([own["source"] for own in learn])
        )
        objective = (Across if row.across else SupConConfig)(positives="related", temperature=None)
        result = train(start, items, Recipe(config, [objective], model), workdir=Path(folder) / "run")
    spent = {"taken": result.steps, "seconds": round(result.seconds, 1), "load": os.getloadavg()[0]}
    return vars(trial) | spent | recalls(Encoder(start), rows)


def recalls(encoder: Encoder, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Recall of the same concept among the other artist's drawings, both ways."""
    asked = [
        {row["concept_id"]: row for row in rows if row["split"] == "val" and row["source"] == own} for own in ARTISTS
    ]
    concepts = sorted(set(asked[0]) & set(asked[1]))
    first_ND, second_ND = (
        encoder.embed_images(
            read_pictures("emoji", [own[concept] for concept in concepts]), np.full(len(concepts), number == 1)
        )
        for number, own in enumerate(asked)
    )
    score_NN = first_ND @ second_ND.T
    found = {"concepts": float(len(concepts))}
    for way, scores_NN in ((f"{ARTISTS[0]}→{ARTISTS[1]}", score_NN), (f"{ARTISTS[1]}→{ARTISTS[0]}", score_NN.T)):
        rank_N = (scores_NN > np.diag(scores_NN)[:, None]).sum(axis=1)
        found |= {f"{way}@{k}": float((rank_N < k).mean()) for k in (1, 5, 10)}
    return found


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a row and budget, with the mean over the seeds and, at @1, its standard deviation."""
    ways = [key for key in results[0] if "→" in key]
    titles = ["row", "budget", *ways, "steps", "seconds", "seeds"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    budgets = sorted({(own["steps"] or 0, own["minutes"] or 0.0) for own in results}, reverse=True)
    for (steps, minutes), row in itertools.product(budgets, ROWS):
        budget = (row.name, steps or None, minutes or None)
        own = [each for each in results if (each["row"], each["steps"], each["minutes"]) == budget]
        if own:
            cells = [row.name, f"{steps} steps" if steps else f"{minutes:g} min"]
            for way in ways:
                values = [each[way] for each in own]
                spread = f" ± {np.std(values, ddof=1):.3f}" if way.endswith("@1") and len(own) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}")
            cells += [f"{np.mean([each[key] for each in own]):.0f}" for key in ("taken", "seconds")]
            lines.append(f"| {' | '.join([*cells, str(len(own))])} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the trials that `--results` lacks and prints the table of all that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    options = parser.parse_args()
    done = (
        [json.loads(line) for line in options.results.read_text("utf-8").splitlines()]
        if options.results.exists()
        else []
    )
    budgeted = options.steps is not None or options.minutes is not None
    for seed, row in itertools.product(options.seeds if budgeted else (), options.rows):
        trial = Trial(row, seed, options.steps, options.minutes)
        if any(vars(trial).items() <= own.items() for own in done):
            continue
        done.append(measure(trial))
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[-1], ensure_ascii=False) + "\n")
        sys.stderr.write(f"{json.dumps(done[-1], ensure_ascii=False)}\n")
    sys.stdout.write(f"{table(done)}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
