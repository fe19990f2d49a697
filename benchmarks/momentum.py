"""Does a queue of past embeddings help a small batch? Recall at equal steps, with and without.

    python -m benchmarks.momentum images --seeds 0 1 2 --results FILE
    python -m benchmarks.momentum emoji --seeds 0 1 2 --results FILE

Arms of batch 64, equal but for the objective; momentum contrast without a queue is there to tell the moving average
from the queue. Towers are tiny-32, from nothing.

*images*: all 9,317 training pictures of the three collections, without any text or label. Pictures that training never
saw are searched for one another: each of 2,031 by another random view of itself, and each emoji by the same emoji of
the other artist. Beside it NT-Xent, whose negatives are the batch alone.
*emoji*: images and texts, without skin tones. Recalls are of concepts that training never saw, and in-catalogue of the
training items. Beside it CLIP's loss, alone and added to the queue's.

Appends a JSON line a training to FILE, and prints the table of all lines in it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.bundle import read_collection, read_pictures, read_rows
from benchmarks.towers import recalls
from pairloom.models.batches.augmentation import augment, draw_changes
from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import normalize_pixels, open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.encoder import Encoder
from pairloom.models.objectives.config import ClipConfig, MomentumConfig, NtXentConfig, Objective
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, TrainingResult, train

SLOW = 0.999
ARMS: dict[str, dict[str, Sequence[Objective]]] = {
    "images": {
        "nt_xent": [NtXentConfig(temperature=None)],
        "momentum, no queue": [MomentumConfig(contrasts=("image_image",), queue=0, momentum=SLOW)],
        "momentum, queue 4,096": [MomentumConfig(contrasts=("image_image",), queue=4096, momentum=SLOW)],
    },
    "emoji": {
        "clip": [ClipConfig()],
        "momentum, no queue": [MomentumConfig(queue=0, momentum=SLOW)],
        "momentum, queue 4,096": [MomentumConfig(queue=4096, momentum=SLOW)],
        "clip + momentum, queue 4,096": [
            ClipConfig(weight=0.5),
            MomentumConfig(queue=4096, momentum=SLOW, weight=0.5),
        ],
    },
}
LIGHT = AugmentationConfig(shift=0.04, scale=0.08, rotation=3, colour=0.05)
STRONG = AugmentationConfig(shift=0.1, scale=0.25, rotation=12, flip=True, colour=0.25)
FOLDERS = ("emoji", "grocery", "photos")


def measure_emoji(objectives: Sequence[Objective], config: TrainingConfig) -> dict[str, float]:
    """Trains one arm on images and texts; recalls on the validation and the training split."""
    learn, check = read_collection("emoji", "train"), read_collection("emoji", "val")
    config = config.model_copy(update={"augmentation": LIGHT})
    start = create(ModelConfig(architecture="tiny-32"), [text for own in learn.texts for text in own], seed=config.seed)
    with tempfile.TemporaryDirectory() as folder:
        write_pixels(learn.images, len(learn.images), start.preprocess_cfg, Path(folder) / "pixels.npy")
        items = TrainingItems(tuple(learn.item_ids), open_pixels(Path(folder) / "pixels.npy"), learn.relations)
        result, milliseconds = timed(start, items, Recipe(config, objectives), Path(folder) / "run")
    encoder = Encoder(result.encoder)
    inside = {f"in-catalogue {name}": value for name, value in recalls(encoder, learn).items() if "@1" in name}
    return recalls(encoder, check) | inside | {"CPU ms/step": milliseconds}


def measure_images(objectives: Sequence[Objective], config: TrainingConfig) -> dict[str, float]:
    """Trains one arm on images alone; recalls among images of the other splits."""
    rows = [(name, row) for name in FOLDERS for row in read_rows(name, skin_tones=True)]
    learn, check = ([each for each in rows if (each[1]["split"] == "train") == wanted] for wanted in (True, False))
    ids = [row["image_id"] for _, row in learn]
    # Each picture is related to itself and to equal ones alone.
    relations = Relations.build(ids, ids, [[own] for own in ids], [row["pixel_sha1"] for _, row in learn])
    config = config.model_copy(update={"augmentation": STRONG})
    start = create(ModelConfig(architecture="tiny-32"), ["no text"], seed=config.seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.npy"
        write_pixels(pictures(learn), len(learn), start.preprocess_cfg, file)
        items = TrainingItems(tuple(ids), open_pixels(file), relations)
        result, milliseconds = timed(start, items, Recipe(config, objectives), Path(folder) / "run")
        write_pixels(pictures(check), len(check), start.preprocess_cfg, file)
        image_BCHW = normalize_pixels(open_pixels(file), start.preprocess_cfg)
    return image_recalls(result.encoder, image_BCHW, [row for _, row in check]) | {"CPU ms/step": milliseconds}


def pictures(rows: Sequence[tuple[str, dict[str, Any]]]) -> list[Image.Image]:
    """Of rows with their folders."""
    return [picture for name, row in rows for picture in read_pictures(name, [row])]


def image_recalls(encoder: DualEncoder, image_BCHW: torch.Tensor, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How often an image is found by a changed view of it, and an emoji by that of the other artist, at 1 and at 10."""
    views_BCHW = augment(image_BCHW, draw_changes(len(rows), STRONG, torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        image_BD, view_BD = (
            torch.cat([encoder.encode_images(part) for part in torch.split(each, 256)]).numpy()
            for each in (image_BCHW, views_BCHW)
        )
    found = ranks_of(view_BD @ image_BD.T, np.eye(len(rows), dtype=bool))
    emoji = [n for n, row in enumerate(rows) if row.get("skin_tone") == "none"]
    concept_E, source_E = (np.array([rows[n][key] for n in emoji]) for key in ("concept_id", "source"))
    concept_EE, artist_EE = (each[:, None] == each[None] for each in (concept_E, source_E))
    both_E = (concept_EE & ~artist_EE).any(axis=1)
    across_EE = np.where(artist_EE, -np.inf, image_BD[emoji] @ image_BD[emoji].T)
    across = ranks_of(across_EE[both_E], (concept_EE & ~artist_EE)[both_E])
    return {
        f"{title}@{k}": float(np.mean(ranks < k))
        for title, ranks in (("other view", found), ("other artist", across))
        for k in (1, 10)
    }


def ranks_of(score_QC: npt.NDArray[Any], wanted_QC: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(Q,): how many candidates come before the first wanted one of each query."""
    best_Q = np.where(wanted_QC, score_QC, -np.inf).max(axis=1)
    rank_Q: npt.NDArray[np.int64] = (score_QC > best_Q[:, None]).sum(axis=1)
    return rank_Q


def timed(start: DualEncoder, items: TrainingItems, recipe: Recipe, workdir: Path) -> tuple[TrainingResult, float]:
    """A training, and its CPU time in milliseconds a step."""
    cpu = time.process_time()
    result = train(start, items, recipe, workdir=workdir)
    return result, 1e3 * (time.process_time() - cpu) / result.steps


COLLECTIONS = {"emoji": measure_emoji, "images": measure_images}


def table(lines: Sequence[Mapping[str, float | str]]) -> str:
    """Mean ± standard deviation over seeds, an arm a row."""
    first = lines[0]
    metrics = [name for name in first if name not in ("arm", "steps", "batch", "seed", "load")]
    rows = [f"| objective | steps | batch | seeds | {' | '.join(metrics)} |", f"|{' --- |' * (len(metrics) + 4)}"]
    for key in dict.fromkeys((line["arm"], line["steps"], line["batch"]) for line in lines):
        own = [line for line in lines if (line["arm"], line["steps"], line["batch"]) == key]
        values = [np.array([float(line[name]) for line in own]) for name in metrics]
        spread = [f"{each.mean():.4g} ± {each.std(ddof=1) if len(each) > 1 else 0:.2g}" for each in values]
        rows.append(f"| {key[0]} | {key[1]} | {key[2]} | {len(own)} | {' | '.join(spread)} |")
    return "\n".join(rows)


def main() -> None:
    """Trains the chosen arms with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", choices=list(COLLECTIONS))
    parser.add_argument("--arms", nargs="+", help="some of them; default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    arms = ARMS[options.collection]
    for seed in options.seeds:
        for arm in options.arms or arms:
            config = TrainingConfig(
                max_minutes=None,
                max_steps=options.steps,
                batch_size=options.batch,
                seed=seed,
                threads=1,
                hard_fraction=0,
            )
            line = {"arm": arm, "steps": options.steps, "batch": options.batch, "seed": seed}
            line |= COLLECTIONS[options.collection](arms[arm], config) | {"load": os.getloadavg()[0]}
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    lines = [json.loads(line) for line in options.results.read_text(encoding="utf-8").splitlines()]
    sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
