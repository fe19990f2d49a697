"""The floor on real collections: what textbook features reach, in how many CPU seconds.

    OMP_NUM_THREADS=1 python -m benchmarks.floor --root floor-corpora
    OMP_NUM_THREADS=1 python -m benchmarks.floor --root floor-corpora --rows emoji photos

Each row ingests its collection into `--root` (what is there already is only looked through) and then does what a night
does: fits on the training items and asks the validation items. CPU seconds are of this process, from the first picture
read to the last metric; ingest is not counted. `icons` are the demo's, rendered from the fonts of qtawesome; `many` are
the icons and all emoji in one corpus, to see what over ten thousand training items cost.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pairloom.flows.config import load_pipeline
from pairloom.flows.icons import render_icons
from pairloom.models.arrays import Embeddings
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import evaluate
from pairloom.storage.corpus import Corpus
from pairloom.tasks.evaluation.floor import fit_and_ask
from pairloom.tasks.ingest import ingest
from pairloom.tasks.items import Items, read_items
from pairloom.tasks.pipeline import Pipeline

DATA = Path(__file__).resolve().parents[2] / "shared/data"
EMOJI = {"kind": "jsonl", "path": str(DATA / "emoji/captions.jsonl"), "base": str(DATA)}
COLUMNS = {"id": "image_id", "image": "image", "texts": ["texts"], "group": "concept_id", "split": "split"}
ICONS = {"id": "id", "image": "image", "texts": ["texts"], "group": "group"}
ROWS = ("emoji", "emoji with skin tones", "grocery", "photos", "icons", "many")


def block(row: str, root: Path) -> dict[str, Any]:
    """The pipeline of one row."""
    icons = {"kind": "jsonl", "path": str(root / "icons/captions.jsonl")}
    if row == "icons":
        return {"sources": [icons], "columns": ICONS, "ingest": {"max_side": 64}}
    if row == "many":
        whole = [{**EMOJI, "columns": {**COLUMNS, "split": None}}, {**icons, "columns": ICONS}]
        return {"sources": whole, "ingest": {"max_side": 72}}
    if row == "emoji":
        return {"sources": [{**EMOJI, "where": "skin_tone = 'none'"}], "columns": COLUMNS, "ingest": {"max_side": 72}}
    if row == "emoji with skin tones":
        return {"sources": [EMOJI], "columns": COLUMNS, "ingest": {"max_side": 72}}
    source = {"kind": "jsonl", "path": str(DATA / row / "captions.jsonl"), "base": str(DATA)}
    return {"sources": [source], "columns": COLUMNS, "ingest": {"max_side": 96 if row == "grocery" else 256}}


def opened(row: str, root: Path) -> Pipeline:
    """The pipeline of one row, its corpus ingested."""
    icons = root / "icons"
    if row in ("icons", "many") and not (icons / "captions.jsonl").exists():
        render_icons(icons)
    name = row.replace(" ", "-")
    file = root / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"root": str(root.resolve()), "pipelines": {name: _absolute(block(row, root))}}))
    pipeline = load_pipeline(file)
    ingest(pipeline)
    return pipeline


def _absolute(raw: dict[str, Any]) -> dict[str, Any]:
    for source in raw["sources"]:
        source |= {key: str(Path(source[key]).resolve()) for key in ("path", "base") if key in source}
    return raw


def measured(pipeline: Pipeline) -> str:
    """One line of the table."""
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.current()
    asked = read_items(corpus, snapshot, "val")
    began = time.process_time()
    answers = fit_and_ask(corpus, snapshot, asked, seed=0)
    fitted = time.process_time()
    config = EvaluationConfig()
    found = evaluate(answers.image_ND, answers.text_TD, asked.relations, config, {}).as_dict()
    ended = time.process_time()
    both = [
        " / ".join(f"{found[f'{direction}_recall@{k}']:.3f}" for direction in ("text_to_image", "image_to_text"))
        for k in (1, 10)
    ]
    images = f"{found['image_to_image_recall@1']:.3f}" if "image_to_image_recall@1" in found else "–"
    cells = [
        f"{answers.items:,} of {answers.of:,}",
        f"{len(asked.item_ids):,}",
        *both,
        images,
        across(asked, answers.image_ND),
        f"{fitted - began:.1f}",
        f"{ended - fitted:.1f}",
    ]
    return " | ".join(cells)


def across(asked: Items, image_ND: Embeddings) -> str:
    """@1 of one emoji artist's drawings among the other's, both ways, over the concepts that both have drawn."""
    artist_N = [item_id.partition(":")[0] for item_id in asked.item_ids]
    drawn = [
        {group: row for row, group in enumerate(asked.groups) if artist_N[row] == artist}
        for artist in ("twemoji", "openmoji")
    ]
    both = sorted(set(drawn[0]) & set(drawn[1]), key=str)
    if not both or len(both) != len(drawn[0]):
        return "–"
    one_GD, other_GD = (image_ND[[own[group] for group in both]] for own in drawn)
    score_GG = one_GD @ other_GD.T
    right = np.arange(len(both))
    return f"{(score_GG.argmax(axis=1) == right).mean():.3f} / {(score_GG.argmax(axis=0) == right).mean():.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    asked = parser.parse_args()
    asked.root.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}\n\n")
    sys.stdout.write(
        "| collection | fitted on | asked | t → i / i → t @1 | @10 | image → image @1 | across artists @1 "
        "| CPU s fit and ask | metrics |\n"
        f"|{' --- |' * 9}\n"
    )
    for row in asked.rows:
        sys.stdout.write(f"| {row} | {measured(opened(row, asked.root))} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
