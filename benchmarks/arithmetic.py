"""Asks a release of emoji for analogies: an item's image, plus and minus a text, shall find the emoji so changed.

Compared, as recall@5 by kind of change, are the image ± the words that change ("dark skin tone"), the image ± whole
names ("woman running: dark skin tone"), the image alone (what a query that ignores the texts finds) and the target's
name alone (what needs no image). An answer is right where an image of the target, by either artist, is among the five
best of all items; the item asked with is left out of them, as `--like` does it, and in further tables left in. A
question belongs to the split of its target: of val and test, training has not seen the target's concept. Weights of the
texts are chosen on val.

pairloom run -p emoji-tones --file benchmarks/objectives/search.yaml
python -m benchmarks.arithmetic
"""

# Q = questions, B = questions at a time, N = items, D = embedding

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pairloom.flows.config import pipeline_folder
from pairloom.models.arrays import Embeddings
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
GENDERS = ("man", "woman", "person")
WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0)
K = 5
CHECKED = 20
"""Questions also asked through `search`, which must find the same."""


@dataclass(frozen=True)
class Item:
    """One emoji of one artist."""

    item_id: str
    concept: str
    base: str
    tone: str
    text: str
    split: str


@dataclass(frozen=True)
class Question:
    """What the item at row `asked` becomes by `plus` and `minus`."""

    kind: str
    asked: int
    plus: str | None
    minus: str | None
    source: str
    target: str
    """The target's first text."""
    rows: tuple[int, ...]
    """The target's items."""


def questions(items: Sequence[Item], split: str) -> Iterator[Question]:
    """Every question whose target is of `split`; the item asked with may be of any."""
    rows_of = defaultdict[str, list[int]](list)
    by_tone: dict[tuple[str, str], Item] = {}
    by_text: dict[str, Item] = {}
    for row, item in enumerate(items):
        rows_of[item.concept].append(row)
        by_tone.setdefault((item.base, item.tone), item)
        by_text.setdefault(item.text, item)

    def asked(kind: str, row: int, target: Item | None, plus: str | None, minus: str | None) -> Iterator[Question]:
        if target is not None and target.split == split:
            item = items[row]
            yield Question(kind, row, plus, minus, item.text, target.text, tuple(rows_of[target.concept]))

    for row, item in enumerate(items):
        worded = f"{item.tone} skin tone"
        for tone in TONES:
            target = by_tone.get((item.base, tone))
            if item.tone in TONES and tone != item.tone:
                yield from asked("tone to another", row, target, f"{tone} skin tone", worded)
            elif item.tone == "none":
                yield from asked("tone added", row, target, f"{tone} skin tone", None)
        if item.tone in TONES:
            yield from asked("tone removed", row, by_tone.get((item.base, "none")), None, worded)
        said = [word for word in re.findall(r"\w+", item.text) if word in GENDERS]
        for gender in GENDERS:
            if len(said) == 1 and gender != said[0]:
                target = by_text.get(re.sub(rf"\b{said[0]}\b", gender, item.text))
                kind = "man, woman" if "person" not in (gender, said[0]) else "person, man or woman"
                yield from asked(kind, row, target, gender, said[0])


class Asked:
    """Embeddings of the questions and of all items."""

    def __init__(self, release: OpenRelease, asked: Sequence[Question], image_ND: Embeddings) -> None:
        self.questions, self.image_ND = asked, image_ND
        texts = sorted({text for each in asked for text in (each.plus, each.minus, each.source, each.target) if text})
        embedded = dict(zip(texts, release.encoder.embed_texts(texts), strict=True))
        nothing_D = np.zeros(image_ND.shape[1], np.float32)

        def of(texts: Sequence[str | None]) -> Embeddings:
            return np.stack([embedded[text] if text else nothing_D for text in texts])

        self.query_QD = image_ND[[each.asked for each in asked]]
        self.change_QD = of([each.plus for each in asked]) - of([each.minus for each in asked])
        self.target_QD = of([each.target for each in asked])
        self.source_QD = of([each.source for each in asked])

    def composed(self, weight: float, *, whole: bool) -> Embeddings:
        """Image ± the words that change, or, with `whole`, ± the names of the target and of the item asked with."""
        change_QD = self.target_QD - self.source_QD if whole else self.change_QD
        composed_QD: Embeddings = self.query_QD + np.float32(weight) * change_QD
        return composed_QD

    def recall(self, query_QD: Embeddings, *, itself: bool) -> dict[str, float]:
        """recall@5 by kind of change, and their mean; with `itself` the item asked with is a candidate too."""
        right = defaultdict[str, list[bool]](list)
        for question, hit in zip(self.questions, hits(query_QD, self.image_ND, self.questions, itself), strict=True):
            right[question.kind].append(hit)
        found = {kind: float(np.mean(each)) for kind, each in sorted(right.items())}
        return found | {"mean": float(np.mean(list(found.values())))}


def hits(query_QD: Embeddings, image_ND: Embeddings, asked: Sequence[Question], itself: bool) -> Iterator[bool]:
    """Of each question, whether fewer than five other items score as high as the best of its target's."""
    for start in range(0, len(query_QD), 512):
        score_BN = query_QD[start : start + 512] @ image_ND.T
        for score_N, question in zip(score_BN, asked[start : start + 512], strict=True):
            target = list(question.rows)
            before_N = score_N >= score_N[target].max()
            before_N[target] = False
            if not itself:
                before_N[question.asked] = False
            yield bool(before_N.sum() < K)


def best_weight(asked: Asked, *, whole: bool) -> float:
    """The weight of the highest mean recall."""
    return max(WEIGHTS, key=lambda weight: asked.recall(asked.composed(weight, whole=whole), itself=False)["mean"])


def check_search(release: OpenRelease, items: Sequence[Item], asked: Asked, weight: float) -> None:
    """Asserts that `search` finds what the products here say, for a few questions."""
    for place in np.random.default_rng(0).choice(len(asked.questions), CHECKED, replace=False):
        question = asked.questions[place]
        score_N = asked.image_ND @ (asked.query_QD[place] + weight * asked.change_QD[place])
        score_N[question.asked] = -np.inf
        plus, minus = (tuple(filter(None, [text])) for text in (question.plus, question.minus))
        query = Query(like=items[question.asked].item_id, plus=plus, minus=minus, text_weight=weight)
        found = search(release, query, k=K).hits
        score_of = {item.item_id: float(score) for item, score in zip(items, score_N, strict=True)}
        best = np.sort(score_N)[::-1][:K]
        assert np.allclose([score_of[hit.item_id] for hit in found], best, atol=1e-4), query


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path(__file__).parent / "objectives" / "search.yaml")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--splits", nargs="+", default=["val", "test"], help="concepts asked about; val chooses")
    options = parser.parse_args()
    release = OpenRelease.open(pipeline_folder(options.file, "emoji-tones", root=options.root))
    columns = ["item_id", "group", "base_id", "skin_tone", "texts", "split", "image_vector"]
    table = release.dataset.to_table(columns=columns)
    image_ND = np.stack(table["image_vector"].to_numpy())
    items = [
        Item(row["item_id"], row["group"], row["base_id"], row["skin_tone"], row["texts"][0], row["split"])
        for row in table.drop_columns(["image_vector"]).to_pylist()
    ]
    asked = {split: Asked(release, list(questions(items, split)), image_ND) for split in options.splits}

    short, whole = (best_weight(asked["val"], whole=whole) for whole in (False, True))
    sys.stdout.write(f"{len(items):,} items; weights chosen on val of {WEIGHTS}\n")
    for itself in (False, True):
        for split, own in asked.items():
            shown = {
                **{f"image ± words, weight {weight:g}": own.composed(weight, whole=False) for weight in (1.0, short)},
                **{f"image ± names, weight {weight:g}": own.composed(weight, whole=True) for weight in (1.0, whole)},
                "image alone": own.query_QD,
                "target's text alone": own.target_QD,
            }
            rows = {title: own.recall(query_QD, itself=itself) for title, query_QD in shown.items()}
            counts = {kind: sum(each.kind == kind for each in own.questions) for kind in rows["image alone"]}
            titles = [f"{kind} ({counts[kind]:,})" if counts[kind] else kind for kind in counts]
            sys.stdout.write(f"\nItem asked with {'among the candidates' if itself else 'left out'}, {split}:\n\n")
            sys.stdout.write(f"| recall@{K} | {' | '.join(titles)} |\n| --- |{' ---: |' * len(titles)}\n")
            for title, found in rows.items():
                sys.stdout.write(f"| {title} | {' | '.join(f'{value:.3f}' for value in found.values())} |\n")
    check_search(release, items, asked["val"], short)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
