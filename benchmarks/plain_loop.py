"""The plain open_clip loop in the minutes that a night of ours has, asked what that night is asked.

    OMP_NUM_THREADS=1 python -m benchmarks.plain_loop --root corpora --tasks emoji --seeds 0 --results plain.jsonl

`open_clip_train.train.train_one_epoch` with its AdamW (`peer.py`) trains `tiny-32` from nothing on the training items
of a pipeline's corpus, for `--minutes` of processor time on one thread, and is asked its validation items. `artists`
learns all drawings of emoji by Twemoji that OpenMoji has drawn too, and is asked with OpenMoji's; `artists back` is the
other way round. Pictures are those that the corpus stores, cut to their content box, so that this part of ours is the
peer's, too, as are the vocabulary fitted to the texts and decoded pictures in memory. Batches of 256, open_clip's
random crops (90 to 100 % of the area), one of the item's texts by chance, a cosine after a warm-up over a tenth of the
minutes; `--still` leaves the crops out. Start-up, tokens and the evaluation aren't counted. Results are appended to
`--results`; what is there isn't run again.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from benchmarks.floor import opened
from benchmarks.peer import Batch, train_open_clip
from benchmarks.quality import RECALLS
from pairloom.models.batches.relations import Relations
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.pictures import mapped
from pairloom.models.pictures import opened as picture
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.storage.corpus import Corpus
from pairloom.tasks.items import read_items, split_images

TASKS = ("emoji", "grocery", "icons", "artists", "artists back")
WARMUP = 0.1


@dataclass(frozen=True)
class Trial:
    """One training."""

    task: str
    seed: int
    minutes: float
    learning_rate: float
    still: bool
    batch_size: int = 256


@dataclass(frozen=True)
class Taught:
    """What is learned, or asked."""

    images: list[Image.Image]
    texts: list[list[str]]
    relations: Relations


def taught(task: str, root: Path) -> tuple[Taught, Taught]:
    """What a task teaches and what it asks."""
    across = task.startswith("artists")
    corpus = Corpus(opened("emoji" if across else task, root).folder)
    snapshot = corpus.current()

    def split(name: str | None) -> tuple[list[str], list[str | None], list[list[str]], list[Image.Image], Relations]:
        items = read_items(corpus, snapshot, name)
        images = [each for batch in split_images(corpus, snapshot, name) for each in mapped(picture, batch)]
        return items.item_ids, items.groups, items.texts, images, items.relations

    if not across:
        learn, check = (Taught(*split(name)[3:1:-1], split(name)[4]) for name in ("train", "val"))
        return learn, check
    ids, groups, texts, images, _ = split(None)
    artist_N = [item_id.partition(":")[0] for item_id in ids]
    drawn = {artist: {groups[row] for row in range(len(ids)) if artist_N[row] == artist} for artist in set(artist_N)}
    both = set.intersection(*drawn.values())

    def by(artist: str) -> Taught:
        rows = [row for row in range(len(ids)) if artist_N[row] == artist and groups[row] in both]
        names, said = [ids[row] for row in rows], [texts[row] for row in rows]
        relations = Relations.build(names, [groups[row] for row in rows], said, names)
        return Taught([images[row] for row in rows], said, relations)

    way = by("twemoji"), by("openmoji")
    return way[::-1] if task == "artists back" else way


def trained(trial: Trial, learn: Taught) -> tuple[DualEncoder, int]:
    """What open_clip's loop makes of the training items, and in how many steps."""
    start = create(ModelConfig(architecture="tiny-32"), [text for own in learn.texts for text in own], seed=trial.seed)
    transform = image_transform_v2(PreprocessCfg(**start.preprocess_cfg), is_train=not trial.still)
    tokens = [start.tokenize(own) for own in learn.texts]
    torch.manual_seed(trial.seed)  # of its crops
    kept = [transform(image) for image in learn.images] if trial.still else []
    began = time.process_time()

    def fraction() -> float:
        return (time.process_time() - began) / (60 * trial.minutes)

    def rate(_step: int) -> float:
        done = fraction()
        if done < WARMUP:
            return trial.learning_rate * done / WARMUP
        return trial.learning_rate * 0.5 * (1 + math.cos(math.pi * min((done - WARMUP) / (1 - WARMUP), 1)))

    def batches() -> Iterator[Batch]:
        random = np.random.default_rng(trial.seed)
        while True:
            order = random.permutation(len(tokens))
            for first in range(0, len(order) - trial.batch_size + 1, trial.batch_size):
                if fraction() >= 1:
                    return
                rows = order[first : first + trial.batch_size]
                image_BCHW = torch.stack([kept[row] if kept else transform(learn.images[row]) for row in rows])
                yield image_BCHW, torch.stack([tokens[row][random.integers(len(tokens[row]))] for row in rows])

    steps = len(train_open_clip(start.network, batches(), rate))
    return start, steps


def measure(trial: Trial, root: Path) -> dict[str, Any]:
    """Trains and asks."""
    learn, check = taught(trial.task, root)
    model, steps = trained(trial, learn)
    encoder = Encoder(model)
    image_ND, text_TD = encoder.embed_images(check.images), encoder.embed_texts(check.relations.texts)
    metrics = evaluate(image_ND, text_TD, check.relations, EvaluationConfig(), {}).as_dict()
    recalls = {short: metrics[long] for short, long in RECALLS.items()}
    return asdict(trial) | {"steps": steps, "load": os.getloadavg()[0]} | recalls


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: mean ± standard deviation of the seeds."""
    lines = [f"| task | settings | {' | '.join(RECALLS)} | steps | seeds |", f"|{' --- |' * (len(RECALLS) + 4)}"]
    keys = ("task", "minutes", "learning_rate", "still")
    for task, minutes, rate, still in dict.fromkeys(tuple(own[key] for key in keys) for own in results):
        own = [each for each in results if tuple(each[key] for key in keys) == (task, minutes, rate, still)]
        cells = []
        for key in RECALLS:
            values = [each[key] for each in own]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(own) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        what = f"{minutes:g} min, rate {rate:g}, {'no crops' if still else 'crops'}"
        steps = np.mean([each["steps"] for each in own])
        lines.append(f"| {task} | {what} | {' | '.join(cells)} | {steps:.0f} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the trials that `--results` lacks and prints the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--still", action="store_true", help="pictures as they are, without random crops")
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    options.root.mkdir(parents=True, exist_ok=True)
    lines = options.results.read_text("utf-8").splitlines() if options.results.exists() else []
    done = [json.loads(line) for line in lines]
    for seed in options.seeds:
        for task in options.tasks:
            trial = Trial(task, seed, options.minutes, options.learning_rate, options.still)
            if any(asdict(trial).items() <= own.items() for own in done):
                continue
            done.append(measure(trial, options.root))
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[-1], ensure_ascii=False) + "\n")
    sys.stdout.write(f"{table(done)}\n")


if __name__ == "__main__":
    main()
