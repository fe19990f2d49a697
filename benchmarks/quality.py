"""What each part of training brings at equal wall time: emoji of one artist are learned, another's are asked.

    python -m benchmarks.quality --minutes 2 --seeds 0 1 2 --results quality.jsonl

Trained on all 1,900 drawings by Twemoji (without skin tones; all splits), asked with OpenMoji's drawings of the same
1,900 concepts: the query is one of their names and the candidates are OpenMoji's drawings (t→i), or the other way round
(i→t). Any drawing or name of the same concept counts. No drawing by OpenMoji is seen in training.

The peer rows are `open_clip_train.train.train_one_epoch` with its own AdamW; like ours they get cached pixels (decoded
pictures, where its random crops are on), ready tokens, the same start, batch size, highest learning rate, and the same
warm-up and cosine over the minutes that have passed. Its row *plain* sees the first name; the others are what a careful
user would try: its own random crops, names and keywords in one caption, one or the other by chance. Ratios are to the
peer row whose two recalls have the highest mean. Our rows add one part after another.

Each training has one thread on a core of its own; as many run at once as there are cores. The minutes hold the training
steps, the making of batches and our checkpoints; not counted are start-up, tokenising, mining and the evaluation. With
`--clock cpu` they are minutes of processor time, of all threads of a training, so that other work on the machine takes
none of them. Every result is appended to `--results`, and what is there already is not run again: another version of
the code wants another file.
"""

# N = items, T = unique texts, B = batch

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from benchmarks.bundle import read_pictures, read_rows, unrelated
from benchmarks.peer import Batch, train_open_clip
from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import normalize_pixels, open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.geometry import Pixels
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.negatives import batch_negatives
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

TAUGHT, ASKED = "twemoji", "openmoji"
RECALLS = {
    "t→i@1": "text_to_image_recall@1",
    "i→t@1": "image_to_text_recall@1",
    "t→i@10": "text_to_image_recall@10",
    "i→t@10": "image_to_text_recall@10",
}
Texts = Literal["name", "joined", "both", "any"]
"""An item's texts: its first name; that name and the keywords in one; all names and `joined`; all names and keywords.
Of several, one is drawn a step."""


@dataclass(frozen=True)
class Peer:
    """A row of open_clip's loop."""

    name: str
    texts: Texts = "name"
    crops: bool = False
    """Its random crops (90 to 100 % of the picture's area)."""


@dataclass(frozen=True)
class Ours:
    """A row of our loop."""

    name: str
    texts: Texts = "both"
    related: bool = True
    """All known positives are targets; else an item's own text alone is."""
    training: dict[str, Any] = field(default_factory=dict)
    """`TrainingConfig` fields, beyond budget, seed, threads and what `PLAIN` sets."""


LIGHT = AugmentationConfig(shift=0.04, scale=0.08, rotation=3, colour=0.05)
PLAIN: dict[str, Any] = {"augmentation": None, "hard_fraction": 0.0}
AUGMENTED: dict[str, Any] = {"augmentation": LIGHT}
MINED = AUGMENTED | {"hard_fraction": 0.25}
AVERAGED = MINED | {"ema_decay": 0.99}

ROWS: tuple[Peer | Ours, ...] = (
    Peer("open_clip plain"),
    Peer("open_clip, crops", crops=True),
    Peer("open_clip, keywords in the caption", texts="joined"),
    Peer("open_clip, a name or name with keywords", texts="both"),
    Ours("ours plain", texts="name", related=False),
    Ours("+ augmentation", texts="name", related=False, training=AUGMENTED),
    Ours("+ several texts", related=False, training=AUGMENTED),
    Ours("+ multi-positive", training=AUGMENTED),
    Ours("+ mined batches", training=MINED),
    Ours("+ EMA", training=AVERAGED),
)


@dataclass(frozen=True)
class Artist:
    """One artist's drawings of the concepts that both have drawn."""

    item_ids: list[str]
    concepts: list[str]
    names: list[list[str]]
    keywords: list[list[str]]
    pixel_hashes: list[str]
    images: list[Image.Image]

    def texts(self, kind: Texts) -> list[list[str]]:
        """Each item's texts of this kind, best first."""
        both = zip(self.names, self.keywords, strict=True)
        match kind:
            case "name":
                return [names[:1] for names in self.names]
            case "joined":
                return [[", ".join([names[0], *keywords])] for names, keywords in both]
            case "both":
                return [[*names, ", ".join([names[0], *keywords])] for names, keywords in both]
            case "any":
                return [[*names, *keywords] for names, keywords in both]

    def relations(self, texts: Sequence[Sequence[str]]) -> Relations:
        """Known positives: the same concept, an equal text, equal pixels."""
        return Relations.build(self.item_ids, self.concepts, texts, self.pixel_hashes)


@functools.cache
def read_artist(source: str) -> Artist:
    """All of an artist's emoji without skin tones that the other artist has drawn, too."""
    rows = read_rows("emoji")
    shared = set.intersection(*({row["concept_id"] for row in rows if row["source"] == own} for own in (TAUGHT, ASKED)))
    rows = [row for row in rows if row["source"] == source and row["concept_id"] in shared]
    columns = ("image_id", "concept_id", "texts", "keywords", "pixel_sha1")
    ids, concepts, names, keywords, hashes = ([row[column] for row in rows] for column in columns)
    return Artist(ids, concepts, names, keywords, hashes, read_pictures("emoji", rows))


@dataclass(frozen=True)
class Trial:
    """One training to be done."""

    row: str
    seed: int
    minutes: float
    architecture: str
    batch_size: int = 256


def our_config(row: Ours, trial: Trial) -> TrainingConfig:
    """The row's settings with the trial's budget; one thread."""
    fields = PLAIN | row.training
    return TrainingConfig(max_minutes=trial.minutes, batch_size=trial.batch_size, seed=trial.seed, threads=1, **fields)


def our_items(row: Ours, artist: Artist, pixels: Pixels) -> TrainingItems:
    """The artist's items with the texts and relations of the row."""
    texts = artist.texts(row.texts)
    relations = artist.relations(texts) if row.related else unrelated(artist.item_ids, texts)
    return TrainingItems(tuple(artist.item_ids), pixels, relations)


def train_ours(row: Ours, trial: Trial, start: DualEncoder, workdir: Path) -> int:
    """Trains `start` in place by our loop; steps done."""
    config, artist = our_config(row, trial), read_artist(TAUGHT)
    items = our_items(row, artist, open_pixels(workdir / "pixels.npy"))
    if config.hard_fraction:
        mined = artist.relations(artist.texts(row.texts))
        items = replace(
            items, negatives_NK=batch_negatives(mine_lexical_negatives(mined, MiningConfig(), seed=trial.seed))
        )
    return train(start, items, Recipe(config), workdir=workdir).steps


def train_peer(row: Peer, trial: Trial, start: DualEncoder, workdir: Path) -> int:
    """Trains `start` in place by open_clip's loop; steps done."""
    artist, pixels = read_artist(TAUGHT), open_pixels(workdir / "pixels.npy")
    transform = image_transform_v2(PreprocessCfg(**start.preprocess_cfg), is_train=True)
    tokens = [start.tokenize(own) for own in artist.texts(row.texts)]
    torch.manual_seed(trial.seed)  # of its crops
    config = TrainingConfig()  # of both, the same defaults
    began = time.perf_counter()

    def fraction() -> float:
        return (time.perf_counter() - began) / (60 * trial.minutes)

    def rate(_step: int) -> float:
        done, rising = fraction(), config.warmup_fraction
        if done < rising:
            return config.learning_rate * done / rising
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min((done - rising) / (1 - rising), 1)))

    def batches() -> Iterator[Batch]:
        random = np.random.default_rng(trial.seed)
        for _ in itertools.count():
            order = random.permutation(len(tokens))
            for first in range(0, len(order) - trial.batch_size + 1, trial.batch_size):
                if fraction() >= 1:
                    return
                rows = order[first : first + trial.batch_size]
                if row.crops:
                    image_BCHW = torch.stack([transform(artist.images[item]) for item in rows])
                else:
                    image_BCHW = normalize_pixels(pixels[rows], start.preprocess_cfg)
                yield image_BCHW, torch.stack([tokens[item][random.integers(len(tokens[item]))] for item in rows])

    return len(train_open_clip(start.network, batches(), rate))


def measure(trial: Trial) -> dict[str, Any]:
    """Trains one row and asks it about the other artist."""
    row = next(row for row in ROWS if row.name == trial.row)
    artist, asked = read_artist(TAUGHT), read_artist(ASKED)
    # All rows start from the same weights and vocabulary.
    texts = [text for own in artist.texts("any") for text in own]
    start = create(ModelConfig(architecture=trial.architecture), texts, seed=trial.seed)
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        write_pixels(artist.images, len(artist.images), start.preprocess_cfg, workdir / "pixels.npy")
        began = time.perf_counter()
        steps = (
            train_peer(row, trial, start, workdir) if isinstance(row, Peer) else train_ours(row, trial, start, workdir)
        )
        seconds = time.perf_counter() - began
    encoder, relations = Encoder(start), asked.relations(asked.names)
    image_ND, text_TD = encoder.embed_images(asked.images), encoder.embed_texts(relations.texts)
    metrics = evaluate(image_ND, text_TD, relations, EvaluationConfig(), {}).as_dict()
    recalls = {short: metrics[long] for short, long in RECALLS.items()}
    return vars(trial) | {"steps": steps, "seconds": seconds, "load": os.getloadavg()[0]} | recalls


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a row with mean ± standard deviation over the seeds, and ratios to the best peer row."""
    by_row = {row.name: [own for own in results if own["row"] == row.name] for row in ROWS}
    by_row = {name: own for name, own in by_row.items() if own}
    mean = {name: {key: float(np.mean([one[key] for one in own])) for key in RECALLS} for name, own in by_row.items()}
    peers = [row.name for row in ROWS if isinstance(row, Peer) and row.name in by_row]
    best = max(peers, key=lambda name: mean[name]["t→i@1"] + mean[name]["i→t@1"]) if peers else None
    titles = ["row", *RECALLS, "÷ peer, t→i@1", "÷ peer, i→t@1", "steps", "seeds"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for name, own in by_row.items():
        cells = [name + (" (best of the peer)" if name == best else "")]
        for key in RECALLS:
            spread = float(np.std([one[key] for one in own], ddof=1)) if len(own) > 1 else math.nan
            cells.append(f"{mean[name][key]:.3f} ± {spread:.3f}")
        for key in ("t→i@1", "i→t@1"):
            cells.append(f"{mean[name][key] / mean[best][key]:.2f}" if best and mean[best][key] else "–")
        cells += [f"{np.mean([one['steps'] for one in own]):.0f}", str(len(own))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _take_core(cores: "Queue[int]", clock: str) -> None:
    """Pins a worker process to a core of its own, and sets the clock that both loops go by."""
    os.sched_setaffinity(0, {cores.get()})
    if clock == "cpu":
        time.perf_counter = time.process_time
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # for the peer, too


def main() -> None:
    """Runs the trials that `--results` lacks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="tiny-32")
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[row.name for row in ROWS])
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    options = parser.parse_args()
    # Seed by seed: a run that is cut off has whole seeds.
    trials = [
        Trial(row, seed, options.minutes, options.architecture)
        for seed, row in itertools.product(options.seeds, options.rows)
    ]
    done = (
        [json.loads(line) for line in options.results.read_text("utf-8").splitlines()]
        if options.results.exists()
        else []
    )
    missing = [trial for trial in trials if not any(vars(trial).items() <= own.items() for own in done)]
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    queue: Queue[int] = context.Queue()
    for core in cores:
        queue.put(core)
    with (
        options.results.open("a", encoding="utf-8") as file,
        ProcessPoolExecutor(len(cores), context, _take_core, (queue, options.clock)) as pool,
    ):
        for number, future in enumerate(as_completed([pool.submit(measure, trial) for trial in missing]), 1):
            done.append(future.result())
            file.write(json.dumps(done[-1], ensure_ascii=False) + "\n")
            file.flush()
            sys.stderr.write(f"{number} of {len(missing)}: {json.dumps(done[-1], ensure_ascii=False)}\n")
    asked = [own for own in done if any(vars(trial).items() <= own.items() for trial in trials)]
    budget = f"{options.minutes:g} minutes ({options.clock}) each"
    what = f"{options.architecture}, {budget}, one thread each, {len(cores)} at once"
    sys.stdout.write(f"{what}\n\n{table(asked)}\n")


if __name__ == "__main__":
    main()
