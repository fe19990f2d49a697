"""What learning from the held-out items brings those who search: the measured model beside what became of it.

    python -m benchmarks.refit --results refit.jsonl
    python -m benchmarks.refit --results refit-drawings.jsonl --architecture drawings --steps 100 --batch-size 256

Two catalogues. *emoji*: all 1,900 drawings by Twemoji (without skin tones), of which 397 concepts are held out as the
bundle's split says; OpenMoji's drawings of the same concepts are pictures that no training sees. *grocery*: photographs
of 81 classes with the bundle's validation items held out, and every ninth of the others for no training to see.

One model a seed is trained on the training items. It is then trained on: for a share of its steps on all items of the
catalogue, at a share of its learning rate (`TrainingConfig.further`), or, as the control, on the training items alone.
A tower that starts in closed form starts there anew, from what it is to learn from, as a night has it. Pictures are cut
to their content box, as ingest does. All are asked the same: the catalogue's own texts over its pictures, those of
formerly held-out items by themselves, and pictures that nobody has learned from: which item of their concept is nearest
among the catalogue.

Cut-offs: the score that at most 5 % of the held-out items' texts reach without any item of their own, told by the
measured model and by the refit itself; and how many other texts of these concepts (their keywords in one) reach it so
with the refit's vectors. Every result is appended to `--results`, and what is there already is not run again.
"""

# N = items of the catalogue, T = texts, M = pictures that nobody learned from, D = embedding

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.bundle import cut_pictures, read_rows
from pairloom.models.arrays import Embeddings, Features
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import Slice, evaluate
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.trunk import frozen_trunk
from pairloom.models.training.closed_start import start_in_closed_form
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

Rows = list[dict[str, Any]]
MOST = 0.05
"""Share of false finds that cut-offs are for."""


@dataclass(frozen=True)
class Variant:
    """What is done to the measured model."""

    name: str
    share: float
    """Of its steps."""
    rate: float = 0.3
    """Of its learning rate."""
    everything: bool = True
    """Whether it learns from all items; else from the training items."""


VARIANTS = (
    Variant("refit 0.3", 0.3),
    Variant("refit 0.3, the training items alone", 0.3, everything=False),
    Variant("refit 0.3, rate × 0.1", 0.3, rate=0.1),
    Variant("refit 0.3, rate × 1", 0.3, rate=1.0),
    Variant("refit 0.1", 0.1),
    Variant("refit 1", 1.0),
)
MEASURED = "measured"


@dataclass(frozen=True)
class Catalogue:
    """The items of one collection that are served, and pictures that no training sees."""

    rows: Rows
    strangers: Rows

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        """Which items are held out."""
        return np.array([row["split"] != "train" for row in self.rows])


def read_catalogue(name: str) -> Catalogue:
    """`emoji` or `grocery`."""
    rows = read_rows(name)
    if name == "emoji":
        shared = set.intersection(
            *({row["concept_id"] for row in rows if row["source"] == own} for own in ("twemoji", "openmoji"))
        )
        rows = [row for row in rows if row["concept_id"] in shared]
        own, others = ([row for row in rows if row["source"] == each] for each in ("twemoji", "openmoji"))
        return Catalogue(own, others)
    train_rows = [row for row in rows if row["split"] == "train"]
    strangers = train_rows[::9]
    known = {row["image_id"] for row in strangers}
    return Catalogue([row for row in rows if row["image_id"] not in known], strangers)


def relations_of(rows: Rows) -> Relations:
    """Known positives: the same concept, an equal text, equal pixels."""
    columns = ("image_id", "concept_id", "texts", "pixel_sha1")
    return Relations.build(*([row[column] for row in rows] for column in columns))


class Pictures:
    """Those of the catalogue and then of the strangers, or what a frozen trunk makes of them."""

    def __init__(self, name: str, catalogue: Catalogue, start: DualEncoder, model: ModelConfig, folder: Path) -> None:
        rows = [*catalogue.rows, *catalogue.strangers]
        self._pictures = cut_pictures(name, rows)
        self._count, self._model = len(catalogue.rows), model
        trunk = frozen_trunk(start, model)
        if trunk is not None:
            self.shown: Any = Encoder(start).features(trunk, [self._pictures])
        else:
            write_pixels(self._pictures, len(rows), start.preprocess_cfg, folder / "pixels.npy")
            self.shown = open_pixels(folder / "pixels.npy")

    def items(self, catalogue: Catalogue, chosen: npt.NDArray[np.int64]) -> TrainingItems:
        """Some items, ready for training."""
        rows = [catalogue.rows[row] for row in chosen]
        return TrainingItems(tuple(row["image_id"] for row in rows), self.shown[chosen], relations_of(rows))

    def embedded(self, encoder: DualEncoder) -> tuple[Embeddings, Embeddings]:
        """Vectors of the catalogue's pictures, and of the strangers'."""
        trunk = frozen_trunk(encoder, self._model)
        feature_NF: Features = self.shown
        vector_ND = (
            Encoder(encoder).embed_images(self._pictures)
            if trunk is None
            else Encoder(encoder).embed_features(trunk, feature_NF)
        )
        return vector_ND[: self._count], vector_ND[self._count :]


def ask(encoder: DualEncoder, catalogue: Catalogue, pictures: Pictures) -> dict[str, float]:
    """All recalls of one model."""
    relations = relations_of(catalogue.rows)
    image_ND, stranger_MD = pictures.embedded(encoder)
    text_TD = Encoder(encoder).embed_texts(relations.texts)
    held_N = catalogue.held
    held_T = np.zeros(len(relations.texts), bool)
    held_T[relations.item_texts.take(np.flatnonzero(held_N)).values_V] = True
    slices = {"held=out": Slice(held_T, held_N)}
    found = evaluate(image_ND, text_TD, relations, EvaluationConfig(), slices).as_dict()
    concept_N, concept_M = (
        np.array([row["concept_id"] for row in rows]) for rows in (catalogue.rows, catalogue.strangers)
    )
    right_M = concept_N[(stranger_MD @ image_ND.T).argmax(axis=1)] == concept_M
    held_M = np.isin(concept_M, concept_N[held_N])
    told = {"strangers": float(right_M.mean()), "strangers of held-out concepts": float(right_M[held_M].mean())}
    for short, direction in (("t→i", "text_to_image"), ("i→t", "image_to_text")):
        told[f"{short}@1"] = found[f"{direction}_recall@1"]
        told[f"{short}@1, held out"] = found[f"{direction}_recall@1/held=out"]
    return told


def false_scores(encoder: DualEncoder, catalogue: Catalogue, image_ND: Embeddings, column: str) -> npt.NDArray[Any]:
    """Of the texts of each held-out item, the best score of an item of another concept."""
    held = np.flatnonzero(catalogue.held)
    texts = [", ".join(row["keywords"]) if column == "keywords" else row["texts"][0] for row in catalogue.rows]
    wanted = [row for row in held if texts[row]]
    concept_N = np.array([row["concept_id"] for row in catalogue.rows])
    score_QN = Encoder(encoder).embed_texts([texts[row] for row in wanted]) @ image_ND.T
    score_QN[concept_N[wanted][:, None] == concept_N[None]] = -1
    best_Q: npt.NDArray[Any] = score_QN.max(axis=1)
    return best_Q


def cut_off(encoder: DualEncoder, catalogue: Catalogue, image_ND: Embeddings) -> float:
    """The score that a share of `MOST` of the held-out texts reaches without an item of their own."""
    return float(np.quantile(false_scores(encoder, catalogue, image_ND, "texts"), 1 - MOST))


def trained(start: DualEncoder, items: TrainingItems, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Trains in place, from a start in closed form where the model has one; what it took."""
    began, trunk = time.process_time(), frozen_trunk(start, recipe.model)
    if trunk is not None:
        start_in_closed_form(start, np.asarray(items.pixels), items.relations, recipe.model, seed=seed)
    with tempfile.TemporaryDirectory() as folder, trunk.aside() if trunk else contextlib.nullcontext():
        done = train(start, items, recipe, workdir=Path(folder))
    return {"steps": done.steps, "cpu_seconds": round(time.process_time() - began, 1)}


def measure(name: str, seed: int, variants: Sequence[Variant], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One seed of one collection: the measured model, and each variant of what becomes of it."""
    catalogue = read_catalogue(name)
    model = ModelConfig(architecture=options.architecture)
    config = TrainingConfig(
        max_minutes=None,
        max_steps=options.steps,
        batch_size=options.batch_size,
        seed=seed,
        threads=1,
        hard_fraction=0,
        checkpoint_seconds=1e6,
    )
    train_rows, all_rows = np.flatnonzero(~catalogue.held), np.arange(len(catalogue.rows))
    texts = [text for row in train_rows for text in catalogue.rows[row]["texts"]]
    encoder = create(model, texts, seed=seed)
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pictures = Pictures(name, catalogue, encoder, model, folder)
        cost = trained(encoder, pictures.items(catalogue, train_rows), Recipe(config, model=model), seed)
        encoder.save(folder / "model")
        image_ND, _ = pictures.embedded(encoder)
        threshold = cut_off(encoder, catalogue, image_ND)
        found.append({"variant": MEASURED, **cost, **ask(encoder, catalogue, pictures)})
        if name == "emoji":
            asked_Q = false_scores(encoder, catalogue, image_ND, "keywords")
            found[-1]["false finds, the measured model's"] = float((asked_Q >= threshold).mean())
        for variant in variants:
            further = replace_rate(config.model_copy(update={"refit": variant.share}).further(options.steps), variant)
            chosen = all_rows if variant.everything else train_rows
            if model.closed_form_start:
                own = [text for row in chosen for text in catalogue.rows[row]["texts"]]
                encoder, champion = create(model, own, seed=seed), None
            else:
                encoder, champion = load(folder / "model"), folder / "model"
            recipe = Recipe(further, model=model, champion=champion)
            cost = trained(encoder, pictures.items(catalogue, chosen), recipe, seed)
            told = {"variant": variant.name, **cost, **ask(encoder, catalogue, pictures)}
            if name == "emoji" and variant.everything:
                image_ND, _ = pictures.embedded(encoder)
                asked_Q = false_scores(encoder, catalogue, image_ND, "keywords")
                own_threshold = cut_off(encoder, catalogue, image_ND)
                told |= {
                    "false finds, the measured model's": float((asked_Q >= threshold).mean()),
                    "false finds, its own": float((asked_Q >= own_threshold).mean()),
                }
            found.append(told)
    return [{"collection": name, "seed": seed, "load": os.getloadavg()[0], **each} for each in found]


def replace_rate(further: TrainingConfig, variant: Variant) -> TrainingConfig:
    """The training with the variant's share of the rate in place of the product's."""
    return further.model_copy(update={"learning_rate": variant.rate * TrainingConfig().learning_rate})


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line a variant of each collection, mean ± standard deviation over the seeds."""
    titles = [key for key in dict.fromkeys(itertools.chain(*results)) if key not in NO_FIGURES]
    lines = [f"| collection | what | {' | '.join(titles)} | seeds |", f"|{' --- |' * (len(titles) + 3)}"]
    for name, variant in dict.fromkeys((own["collection"], own["variant"]) for own in results):
        own = [each for each in results if (each["collection"], each["variant"]) == (name, variant)]
        cells = [_cell([each[key] for each in own if key in each]) for key in titles]
        lines.append(f"| {name} | {variant} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


NO_FIGURES = ("collection", "variant", "seed", "load")


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    if max(values) > 1:
        return f"{np.mean(values):.0f}"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main() -> None:
    """Runs what `--results` lacks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="tiny-32")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--collections", nargs="+", default=["emoji", "grocery"])
    parser.add_argument("--variants", nargs="+", default=[each.name for each in VARIANTS])
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    variants = [each for each in VARIANTS if each.name in options.variants]
    lines = options.results.read_text("utf-8").splitlines() if options.results.exists() else []
    done = [json.loads(line) for line in lines]
    for seed, name in itertools.product(options.seeds, options.collections):
        known = {each["variant"] for each in done if (each["collection"], each["seed"]) == (name, seed)}
        missing = [each for each in variants if each.name not in known]
        if MEASURED in known and not missing:
            continue
        for each in measure(name, seed, missing, options):
            if each["variant"] not in known:
                done.append(each)
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(each, ensure_ascii=False) + "\n")
        sys.stderr.write(f"{name}, seed {seed}\n")
    sys.stdout.write(f"{table(done)}\n")


if __name__ == "__main__":
    main()
