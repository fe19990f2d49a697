"""Learned from one artist's drawings alone, asked with another's: what towers that start in closed form find.

    python -m benchmarks.artists --architectures drawings drawings-pretrained --seeds 0 1 2 --results artists.jsonl

All drawings of emoji by one artist (without skin tones, of every split) that the other has drawn, too, are learned as
a night learns them: cut to their content box, the trunk's features kept, the start in closed form, and as many steps as
go with the architecture. Asked are the other artist's drawings of the same concepts and their texts, through the
towers. No concept has two drawings to learn from. `--model` gives other settings. Results are appended to `--results`;
what is there isn't run again.
"""

# N, M = items, D = embedding, S = seeds, F = figures or features

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bundle import cut_pictures, read_rows
from benchmarks.quality import RECALLS
from pairloom.models.arrays import Embeddings
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.relations import Relations
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import CORRECTED, EvaluationConfig
from pairloom.models.evaluation.hubness import hubness
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.negatives import batch_negatives
from pairloom.models.towers.config import FITTED, PRESETS, ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.trunk import frozen_trunk
from pairloom.models.training.closed_start import start_in_closed_form
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

ARTISTS = ("twemoji", "openmoji")
ALIKE, SEARCHED = "i→i@1", "as searched, t→i@1"
COLUMNS = ("t→i@1", "t→i@10", SEARCHED, "i→t@1", "i→t@10", ALIKE)
Rows = list[dict[str, Any]]


def drawn_by(artist: str) -> Rows:
    """An artist's emoji that the other has drawn, too."""
    rows = read_rows("emoji")
    both = set.intersection(*({row["concept_id"] for row in rows if row["source"] == each} for each in ARTISTS))
    return [row for row in rows if row["source"] == artist and row["concept_id"] in both]


def related(rows: Rows) -> Relations:
    """Known positives: the same concept, an equal text, equal pixels."""
    return Relations.build(*([row[key] for row in rows] for key in ("image_id", "concept_id", "texts", "pixel_sha1")))


def measured(name: str, trials: list[dict[str, Any]], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each trial of one architecture, the pictures looked at once."""
    drawings = {artist: drawn_by(artist) for artist in ARTISTS}
    relations = {artist: related(rows) for artist, rows in drawings.items()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = ModelConfig.model_validate({"architecture": name, **json.loads(options.model)})
        first = Encoder(create(config, relations[ARTISTS[0]].texts, seed=0))
        trunk = frozen_trunk(first.dual_encoder, config)
        assert trunk is not None, f"{name} has no frozen trunk"
        feature_NF = {artist: first.features(trunk, [cut_pictures("emoji", rows)]) for artist, rows in drawings.items()}
        for number, trial in enumerate(trials):
            learned, asked, seed = trial["learned"], trial["asked"], trial["seed"]
            learn, check = relations[learned], relations[asked]
            encoder = create(config, learn.texts, seed=seed)
            trunk = frozen_trunk(encoder, config)
            assert trunk is not None
            start_in_closed_form(encoder, feature_NF[learned], learn, config, seed=seed)
            if steps := trial["steps"]:
                negatives_NK = batch_negatives(mine_lexical_negatives(learn, MiningConfig(), seed=seed))
                items = TrainingItems(learn.item_ids, feature_NF[learned], learn, negatives_NK)
                training = TrainingConfig(max_minutes=None, max_steps=steps, seed=seed, threads=1)
                with trunk.aside():
                    train(encoder, items, Recipe(training, model=config), workdir=folder / str(number))
            own = Encoder(encoder)
            image_ND, text_TD = own.embed_features(trunk, feature_NF[asked]), own.embed_texts(check.texts)
            hubness_N = hubness(image_ND, own.embed_texts(learn.texts))
            metrics = evaluate(image_ND, text_TD, check, EvaluationConfig(k=(1, 10)), {}, hubness_N).as_dict()
            recalls = {short: metrics[long] for short, long in RECALLS.items()}
            recalls[SEARCHED] = metrics[f"{CORRECTED}_recall@1"]
            recalls[ALIKE] = alike(
                image_ND, own.embed_features(trunk, feature_NF[learned]), drawings[asked], drawings[learned]
            )
            yield {**trial, **recalls, "load": os.getloadavg()[0]}


def alike(asked_ND: Embeddings, learned_MD: Embeddings, asked: Rows, learned: Rows) -> float:
    """Share of the drawings whose nearest one by the artist who was learned is of the same concept."""
    asked_N, learned_M = (np.array([row["concept_id"] for row in rows]) for rows in (asked, learned))
    return float((learned_M[(asked_ND @ learned_MD.T).argmax(axis=1)] == asked_N).mean())


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: mean ± standard deviation of the seeds."""
    titles = ("architecture", "settings", "learned → asked", "steps", *COLUMNS, "seeds")
    lines = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    keys = ("architecture", "settings", "learned", "asked", "steps")
    for key in dict.fromkeys(tuple(each[name] for name in keys) for each in results):
        own = [each for each in results if tuple(each[name] for name in keys) == key]
        values_SF = np.array([[each[name] for name in COLUMNS] for each in own])
        mean_F, spread_F = values_SF.mean(axis=0), values_SF.std(axis=0, ddof=min(len(own) - 1, 1))
        cells = " | ".join(f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(mean_F, spread_F, strict=True))
        lines.append(f"| `{key[0]}` | {key[1]} | {key[2]} → {key[3]} | {key[4]} | {cells} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the trials that `--results` lacks and prints the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", choices=sorted(PRESETS), default=["drawings"])
    parser.add_argument("--model", default="{}", help="other ModelConfig fields, as JSON")
    parser.add_argument("--steps", type=int, help="those that go with the architecture where left out; 0 for none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    lines = options.results.read_text("utf-8").splitlines() if options.results.exists() else []
    done = [json.loads(line) for line in lines]
    settings = "as shipped" if options.model == "{}" else options.model
    for name in options.architectures:
        steps = options.steps if options.steps is not None else FITTED[name]["max_steps"]
        trials = [
            {
                "architecture": name,
                "settings": settings,
                "learned": way[0],
                "asked": way[1],
                "steps": steps,
                "seed": seed,
            }
            for seed in options.seeds
            for way in (ARTISTS, ARTISTS[::-1])
        ]
        missing = [each for each in trials if not any(each.items() <= own.items() for own in done)]
        for each in measured(name, missing, options) if missing else []:
            done.append(each)
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(each, ensure_ascii=False) + "\n")
    sys.stdout.write(f"{table(done)}\n")


if __name__ == "__main__":
    main()
