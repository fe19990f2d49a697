"""Classes added to a release after its training: how well a few examples do, and does the release notice strangers?

    pairloom run -p grocery-known-images --file benchmarks/objectives/classify.yaml
    python -m benchmarks.classify

The release was trained without 16 of the 81 grocery classes and without half of the validation photographs. Each of
several draws adds every held-back class from a few of its training photographs (`add_examples`, what `pairloom classes
add` calls) and classifies all others of them, and the unreleased validation photographs of the released classes, among
all 81 (`classify`, what `pairloom classify` calls). Beside it, on the same embeddings: the nearest single photograph,
and logistic regression on standardised embeddings (as in models/probes.py) trained anew with the examples. Open set:
how well the score of the release without additions (similarity to the nearest prototype, to the nearest photograph,
highest probability) tells photographs of released classes from those of held-back ones.

The collection's training and validation photographs were taken on different occasions. So photographs of held-back
classes are counted apart: those of the examples' own occasions (split train) and those of others (split val), and only
the latter are comparable with the released classes' validation photographs.
"""

# N = released items, M = photographs asked, D = embedding

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pairloom.flows.config import pipeline_folder
from pairloom.models.arrays import Embeddings
from pairloom.search.classify import add_examples, classify
from pairloom.search.release import OpenRelease
from pairloom.storage.images.decoding import open_query_image

PIPELINES = Path(__file__).parent / "objectives" / "classify.yaml"
DATA = Path(__file__).parents[2] / "shared" / "data"
RESAMPLES = 1_000

Scores = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Photographs:
    """Photographs that the release does not hold."""

    paths: list[Path]
    classes: list[str]
    splits: list[str]
    image_MD: Embeddings

    def subset(self, chosen_M: Flags) -> "Photographs":
        """Some of them, in the same order."""
        rows = np.flatnonzero(chosen_M)
        return Photographs(
            [self.paths[row] for row in rows],
            [self.classes[row] for row in rows],
            [self.splits[row] for row in rows],
            self.image_MD[rows],
        )

    def kinds(self, known: frozenset[str]) -> dict[str, Flags]:
        """Which of them are of a released class, of a held-back one on the examples' occasions, and on others."""
        known_M = np.array([name in known for name in self.classes])
        other_M = np.array([split == "val" for split in self.splits])
        names = ("released", "new, other occasions", "new, same occasions")
        return dict(zip(names, (known_M, ~known_M & other_M, ~known_M & ~other_M), strict=True))


@dataclass(frozen=True)
class Answers:
    """Class and certainty that one method gives to every photograph."""

    names: list[str]
    score_M: Scores


Method = Callable[[Embeddings, Sequence[str], Embeddings], Answers]


def nearest_photograph(image_ND: Embeddings, names: Sequence[str], asked_MD: Embeddings) -> Answers:
    """The class of the most similar known photograph."""
    score_MN = asked_MD.astype(np.float64) @ image_ND.astype(np.float64).T
    return Answers([names[row] for row in score_MN.argmax(axis=1)], score_MN.max(axis=1))


def logistic(image_ND: Embeddings, names: Sequence[str], asked_MD: Embeddings) -> Answers:
    """Logistic regression, with the highest probability as its score."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(image_ND, list(names))
    chance_MC = model.predict_proba(asked_MD)
    return Answers([str(model.classes_[row]) for row in chance_MC.argmax(axis=1)], chance_MC.max(axis=1))


METHODS: dict[str, Method] = {"nearest photograph": nearest_photograph, "logistic regression": logistic}


def read_unreleased(release: OpenRelease, known: "Released") -> Photographs:
    """All photographs of classes that the release does not know, and the validation ones of its classes that it does
    not hold, with their embeddings.
    """
    held = set(release.dataset.to_table(columns=["item_id"])["item_id"].to_pylist())
    with (DATA / "grocery" / "captions.jsonl").open(encoding="utf-8") as lines:
        rows = [
            row
            for row in map(json.loads, lines)
            # Ingest may have found a training photograph twice.
            if row["image_id"] not in held and (row["split"] == "val" or row["concept_id"] not in known.classes)
        ]
    paths = [DATA / row["image"] for row in rows]
    image_MD = release.encoder.embed_images([open_query_image(path, release.as_ingested) for path in paths])
    return Photographs(paths, [row["concept_id"] for row in rows], [row["split"] for row in rows], image_MD)


def draw_examples(classes: Sequence[str], allowed_M: Flags, count: int, seed: int) -> Flags:
    """Which photographs are the `count` examples of their class, drawn from those allowed."""
    random = np.random.default_rng(seed)
    chosen_M = np.zeros(len(classes), bool)
    for name in sorted({name for name, allowed in zip(classes, allowed_M, strict=True) if allowed}):
        own = [row for row, each in enumerate(classes) if each == name and allowed_M[row]]
        chosen_M[random.choice(own, count, replace=False)] = True
    return chosen_M


def ask(release: OpenRelease, examples: Photographs, asked: Photographs) -> tuple[list[str], list[str | None]]:
    """What the release tells once the examples are added: the nearest class, and the class or None by its threshold."""
    for name in sorted(set(examples.classes)):
        own = [path for path, each in zip(examples.paths, examples.classes, strict=True) if each == name]
        add_examples(release, name, own)
    told = classify(release, asked.paths).images
    shutil.rmtree(release.folder / "classes")
    return [each.nearest for each in told], [each.name for each in told]


def one_draw(release: OpenRelease, known: "Released", unseen: Photographs, count: int, seed: int) -> dict[str, float]:
    """Shares told right, by method and kind of photograph."""
    example_M = draw_examples(unseen.classes, unseen.kinds(known.classes)["new, same occasions"], count, seed)
    examples, asked = unseen.subset(example_M), unseen.subset(~example_M)
    nearest, told = ask(release, examples, asked)
    answers: dict[str, Sequence[str | None]] = {"prototypes": nearest, "prototypes, at or above the threshold": told}
    for title, method in METHODS.items():
        image_ND = np.concatenate([known.image_ND, examples.image_MD])
        answers[title] = method(image_ND, [*known.names, *examples.classes], asked.image_MD).names
    found: dict[str, float] = {}
    for title, names in answers.items():
        right_M = np.array([name == wanted for name, wanted in zip(names, asked.classes, strict=True)])
        for kind, kind_M in asked.kinds(known.classes).items():
            found[f"{title}|{kind}"] = float(right_M[kind_M].mean())
    return found


@dataclass(frozen=True)
class Released:
    """The release's own items."""

    image_ND: Embeddings
    names: list[str]

    @property
    def classes(self) -> frozenset[str]:
        """The classes that it was trained with."""
        return frozenset(self.names)


def read_released(release: OpenRelease) -> Released:
    """Vectors and groups of the table."""
    table = release.dataset.to_table(columns=["image_vector", "group"])
    return Released(np.array(table["image_vector"].to_pylist(), np.float32), table["group"].to_pylist())


def open_set(release: OpenRelease, known: Released, unseen: Photographs) -> dict[str, Scores]:
    """Scores that the release as it is gives to every photograph, by method; tells what its threshold does."""
    told = classify(release, unseen.paths)
    scores = {"prototypes": np.array([each.score for each in told.images])}
    for title, method in METHODS.items():
        scores[title] = method(known.image_ND, known.names, unseen.image_MD).score_M
    right_M = np.array([each.nearest == wanted for each, wanted in zip(told.images, unseen.classes, strict=True)])
    refused_M = np.array([each.name is None for each in told.images])
    sys.stdout.write(f"{told.threshold}\n\nWithout additions:\n\n")
    sys.stdout.write("| photographs | number | told right | of these kept | of all refused |\n|" + " --- |" * 5 + "\n")
    for kind, kind_M in unseen.kinds(known.classes).items():
        cells = "– | –"
        if kind == "released":
            cells = f"{right_M[kind_M].mean():.3f} | {1 - refused_M[kind_M & right_M].mean():.3f}"
        sys.stdout.write(f"| {kind} | {kind_M.sum()} | {cells} | {refused_M[kind_M].mean():.3f} |\n")
    return scores


def auroc_interval(score_M: Scores, known_M: Flags, *, seed: int = 0) -> tuple[float, float, float]:
    """AUROC with its 95 % interval, photographs resampled within known and unknown ones."""
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(seed)
    sides = [np.flatnonzero(known_M), np.flatnonzero(~known_M)]
    drawn = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([random.choice(side, len(side)) for side in sides])
        drawn.append(roc_auc_score(known_M[rows], score_M[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(roc_auc_score(known_M, score_M)), float(low), float(high)


def show_accuracy(count: int, draws: Sequence[Mapping[str, float]]) -> None:
    """A line a method: mean over the draws, with the lowest and the highest."""
    for title in dict.fromkeys(key.partition("|")[0] for key in draws[0]):
        cells = []
        for key in draws[0]:
            if key.startswith(f"{title}|"):
                values = [draw[key] for draw in draws]
                cells.append(f"{np.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})")
        sys.stdout.write(f"| {count} | {title} | {' | '.join(cells)} |\n")
    sys.stdout.flush()


def main() -> None:
    """Prints what is asked, then three Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", type=int, default=[1, 5, 10], help="of each held-back class")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--pipeline", default="grocery-known-images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # A copy of what is served: the pipeline itself keeps no class of these.
        copy = Path(folder) / options.pipeline
        for part in ("models", "vectors", "releases"):
            shutil.copytree(pipeline_folder(PIPELINES, options.pipeline) / part, copy / part)
        release = OpenRelease.open(copy)
        known = read_released(release)
        unseen = read_unreleased(release, known)
        kinds = unseen.kinds(known.classes)
        sys.stdout.write(
            f"{len(known.names)} released items of {len(known.classes)} classes; "
            f"{len(set(unseen.classes) - known.classes)} held back; load {os.getloadavg()[0]:.1f}\n\n"
        )
        scores = open_set(release, known, unseen)
        released_M, other_M, _ = kinds.values()
        sys.stdout.write("\n| AUROC (95 % interval) | released / new, other occasions | released / all new |\n")
        sys.stdout.write("| --- | --- | --- |\n")
        for title, score_M in scores.items():
            cells = []
            for asked_M in (released_M | other_M, np.ones_like(released_M)):
                value, low, high = auroc_interval(score_M[asked_M], released_M[asked_M])
                cells.append(f"{value:.3f} ({low:.3f}–{high:.3f})")
            sys.stdout.write(f"| {title} | {' | '.join(cells)} |\n")
        sys.stdout.write(f"\n| examples | method | {' | '.join(kinds)} |\n|{' --- |' * 5}\n")
        for count in options.examples:
            show_accuracy(count, [one_draw(release, known, unseen, count, seed) for seed in range(options.draws)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
