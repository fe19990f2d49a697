"""What measurements of search read of a release: its vectors, and texts embedded by its model."""

# N = items, T = texts, Q = queries, D = embedding

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairloom.models.arrays import Embeddings, Mask
from pairloom.models.batches.relations import normalize_text
from pairloom.models.towers.words import known_words
from pairloom.search.fitting import unaccented
from pairloom.search.release import OpenRelease
from pairloom.tasks.training.texts import MOST

COLUMNS = ["item_id", "group", "split", "texts", "image_vector"]


@dataclass(frozen=True)
class Asked:
    """Texts or images with the items that they are to find."""

    names: list[str]
    query_QD: Embeddings
    own_QN: Mask
    out_QN: Mask | None = None
    """Items that a query isn't asked about."""


class Served:
    """One release of a pipeline, in memory."""

    def __init__(self, folder: Path) -> None:
        self.release = OpenRelease.open(folder)
        columns = [*COLUMNS, *({"keywords"} & set(self.release.columns))]
        self.rows: list[dict[str, Any]] = self.release.dataset.to_table(columns=columns).to_pylist()
        self.image_ND: Embeddings = np.array([row["image_vector"] for row in self.rows], np.float32)
        self.group_N: npt.NDArray[np.str_] = np.array([str(row["group"]) for row in self.rows])
        self.split_N: npt.NDArray[np.str_] = np.array([row["split"] for row in self.rows])

    @cached_property
    def saying(self) -> defaultdict[str, set[int]]:
        """Which rows have a word in their texts."""
        found = defaultdict[str, set[int]](set)
        for number, row in enumerate(self.rows):
            for word in known_words(unaccented(" ".join(row["texts"]))):
                found[word].add(number)
        return found

    @property
    def splits(self) -> list[str]:
        """Those that there are."""
        return [split for split in ("val", "test", "train") if (self.split_N == split).any()]

    def texts(self, split: str) -> list[str]:
        """The unique texts of a split's items."""
        return sorted({normalize_text(text) for row in self.rows if row["split"] == split for text in row["texts"]})

    def asked(self, texts: Sequence[str], most: int = 600) -> Asked:
        """At most so many of some texts; own are the items with the text, and those of a group with one of them."""
        drawn = _drawn(texts, most)
        place: dict[str, set[str]] = {text: set() for text in drawn}
        for row, group in zip(self.rows, self.group_N, strict=True):
            for text in map(normalize_text, row["texts"]):
                if text in place:
                    place[text].add(group)
        own_QN = np.array([np.isin(self.group_N, sorted(place[text])) for text in drawn])
        return Asked(drawn, self.release.embed_texts(drawn), own_QN)

    def keywords(self, most: int = 600) -> Asked:
        """Keywords that are no item's text: what people call things otherwise."""
        known = {text for split in self.splits for text in self.texts(split)}
        words = {normalize_text(word) for row in self.rows for word in row.get("keywords") or ()}
        drawn = _drawn(sorted(words - known), most)
        has = [{normalize_text(word) for word in row.get("keywords") or ()} for row in self.rows]
        own_QN = np.array([[word in each for each in has] for word in drawn], bool).reshape(len(drawn), len(has))
        return Asked(drawn, self.release.embed_texts(drawn) if drawn else self.image_ND[:0], own_QN)

    def asked_images(self, split: str, half: int, most: int = 600) -> Asked:
        """At most so many images of half a split; own are the others of the group, and copies are not asked about."""
        ids = [row["item_id"] for row in self.rows]
        place = {item_id: number for number, item_id in enumerate(ids)}
        drawn = _drawn([ids[number] for number in np.flatnonzero(self.split_N == split)][half::2], most)
        rows_Q = [place[item_id] for item_id in drawn]
        query_QD = self.image_ND[rows_Q]
        out_QN = np.array([(self.image_ND == vector_D).all(axis=1) for vector_D in query_QD])
        own_QN = (self.group_N[rows_Q][:, None] == self.group_N) & ~out_QN
        some_Q = own_QN.any(axis=1)
        names = [item_id for item_id, some in zip(drawn, some_Q, strict=True) if some]
        return Asked(names, query_QD[some_Q], own_QN[some_Q], out_QN[some_Q])

    @cached_property
    def training_embeddings(self) -> Embeddings:
        """(T, D): the training texts that a model keeps, embedded."""
        return self.release.embed_texts(_drawn(self.texts("train"), MOST))


def _drawn(texts: Sequence[str], most: int) -> list[str]:
    if len(texts) <= most:
        return list(texts)
    return [texts[place] for place in sorted(np.random.default_rng(0).choice(len(texts), most, replace=False))]


def seeds(folders: Sequence[Path]) -> Iterator[tuple[str, list[Served]]]:
    """Each pipeline's name with its releases, one a folder."""
    for name in dict.fromkeys(folder.name for folder in folders):
        yield name, [Served(folder) for folder in folders if folder.name == name]


def say(line: str) -> None:
    """One line of a table."""
    sys.stdout.write(f"{line}\n")
