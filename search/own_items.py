"""Some items of a release, drawn at random: whether their vectors are those that its model makes, and are found."""

# N = items, T = texts, D = embedding

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.evaluation.hubness import hubness
from pairloom.search.exact import nearest_by_product
from pairloom.search.keywords import MAX_CHARACTERS, keyword_rows
from pairloom.search.nearest import nearest_rows
from pairloom.search.release import OpenRelease
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import DamagedError
from pairloom.storage.images.decoding import open_stored
from pairloom.storage.releases import Release
from pairloom.storage.schema import HUBNESS
from pairloom.storage.table.words import has_words
from pairloom.storage.training_texts import TrainingTexts

Floats = npt.NDArray[np.float32]

NEW, OLD = 24, 8
"""Items that are drawn: of the parts that the served release has not, and of the others."""
ASKED = 8
"""Those of them that are searched for and embedded again."""
NEAREST = 10
"""An item is to be among this many for its own vector."""
TIE = 1e-5
UNIT = 1e-3
"""How far from 1 a vector's length may be."""
ALIKE = 0.999
"""Least cosine of two embeddings of one thing by one model, whatever processor made them."""
INDEXED_SHARE = 0.5
"""Of the items asked for, what an index must find at least: how good it is was measured where it was made."""
SHOWN = 5
WORD = re.compile(r"(?<![^\W_])[A-Za-z]{2,30}(?![^\W_])")
"""What is a word by itself however texts are parted."""


@dataclass(frozen=True)
class Vectors:
    """Both vectors of an item, as they are stored in one place."""

    image_D: Floats
    text_D: Floats

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Vectors":
        return cls(*(np.asarray(row[name], np.float32) for name in ("image_vector", "text_vector")))


@dataclass(frozen=True)
class Sample:
    """Items drawn from a snapshot, the part that each is in, and what is stored of them."""

    snapshot: Snapshot
    parts: dict[str, Part]
    """By item_id, as in the other two."""
    served: dict[str, Vectors]
    """In the table."""
    texts: dict[str, list[str]]
    hubness: dict[str, float]
    """In the table, where that has it."""
    embedded: dict[str, Vectors]
    """In the files that the table was made from, where they can be read."""

    @property
    def asked(self) -> list[str]:
        """A few of the items that the table has."""
        ids = list(self.served)
        return ids[:: max(1, len(ids) // ASKED)][:ASKED]


@dataclass
class Findings:
    """What is wrong with a sample."""

    faults: list[str] = field(default_factory=list)
    """Why the release can't be served."""
    warnings: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    """Digests of parts whose stored embeddings are damaged, or not what the model gives."""


def draw_sample(release: OpenRelease, before: Release | None, findings: Findings) -> Sample:
    """Items of `release`, most of them from what `before`, the one that is served, has not; others at each release."""
    corpus, record = Corpus(release.folder), release.record
    snapshot = corpus.log.read(record.snapshot)
    rows = release.dataset.count_rows()
    if not rows == record.rows == snapshot.rows or snapshot.digest != record.snapshot_digest:
        findings.faults.append(
            f"{record.table} holds {rows} rows, the release says {record.rows}, and snapshot {record.snapshot} has "
            f"{snapshot.rows}"
        )
    known = _parts_of(corpus, before)
    new, old = ([part for part in snapshot.parts if (part.digest in known) == there] for there in (False, True))
    draw = np.random.default_rng(record.number)
    parts = {**_drawn(corpus, snapshot, new, NEW, draw), **_drawn(corpus, snapshot, old, OLD, draw)}
    columns = ["item_id", "texts", "image_vector", "text_vector", *([HUBNESS] if HUBNESS in release.columns else [])]
    table = release.dataset.to_table(columns=columns, filter=pc.field("item_id").isin(list(parts)))
    stored = {row["item_id"]: row for row in table.to_pylist()}
    return Sample(
        snapshot,
        parts,
        served={item: Vectors.of(stored[item]) for item in parts if item in stored},
        texts={item: row["texts"] for item, row in stored.items()},
        hubness={item: row[HUBNESS] for item, row in stored.items() if HUBNESS in row},
        embedded=_embedded(EmbeddingStore(release.folder, record.model_id), parts, findings),
    )


def compare(release: OpenRelease, sample: Sample, findings: Findings) -> None:
    """Note items that the table lacks, or has with vectors that aren't those embedded or aren't of length 1."""
    count, table = f"of {len(sample.parts)} items", release.record.table
    if lost := [item for item in sample.parts if item not in sample.served]:
        findings.faults.append(f"{table} lacks {len(lost)} {count}: {shown_ids(lost)}")
    if odd := [item for item, own in sample.served.items() if not (_unit(own.image_D) and _unit(own.text_D))]:
        findings.faults.append(
            f"{table} holds vectors of another length than 1 for {len(odd)} {count}: {shown_ids(odd)}"
        )
    other = [item for item, own in sample.served.items() if not _same(own, sample.embedded.get(item, own))]
    if other:
        findings.faults.append(
            f"{table} holds other vectors than were embedded for {len(other)} {count}: {shown_ids(other)}"
        )


def measure_hubness_again(release: OpenRelease, sample: Sample, findings: Findings) -> None:
    """Note items whose hubness in the table isn't what the model's training texts give."""
    if not sample.hubness:
        return
    image_ND = np.stack([sample.served[item].image_D for item in sample.hubness])
    again_N = hubness(image_ND, TrainingTexts(release.folder / "models" / release.record.model_id).vectors())
    stored_N = np.array(list(sample.hubness.values()), np.float32)
    if other := [item for item, same in zip(sample.hubness, again_N == stored_N, strict=True) if not same]:
        findings.faults.append(
            f"{release.record.table} holds another hubness than is measured for {len(other)} of {len(again_N)} items: "
            f"{shown_ids(other)}"
        )


def ask(release: OpenRelease, sample: Sample, findings: Findings) -> None:
    """Note where a search by an item's own image vector doesn't find it."""
    # Without an index each search reads all vectors: all but one are asked for in one pass, like a batch of queries.
    one_by_one = sample.asked if release.record.index else sample.asked[:1]
    with ThreadPoolExecutor(ASKED) as threads:  # on object storage they are waited for most of the time
        found = [*threads.map(lambda item: _found(release, item, sample.served[item].image_D), one_by_one)]
    found += _found_at_once(release, sample, sample.asked[len(one_by_one) :])
    lost = [item for item, there in zip(sample.asked, found, strict=True) if not there]
    allowed = len(sample.asked) * (1 - INDEXED_SHARE) if release.record.index else 0
    if len(lost) > allowed:
        findings.faults.append(
            f"{len(lost)} of {len(sample.asked)} items aren't found by their own image vectors: {shown_ids(lost)}"
        )


def ask_by_words(release: OpenRelease, sample: Sample, findings: Findings) -> None:
    """Note where the full-text index, if there is one, finds nothing by the items' own texts."""
    if not has_words(release.dataset):
        return
    wordy = [item for item in sample.asked if WORD.search(" ".join(sample.texts[item]))]
    texts = {item: next(text for text in sample.texts[item] if WORD.search(text))[:MAX_CHARACTERS] for item in wordy}
    if texts and not any(len(keyword_rows(release, text, k=1, columns=["item_id"])) for text in texts.values()):
        findings.faults.append(
            f"the full-text index finds nothing by the texts of {len(wordy)} items: {shown_ids(wordy)}"
        )


def embed_texts_again(release: OpenRelease, sample: Sample, findings: Findings) -> None:
    """Note items whose texts the model embeds otherwise than is stored."""
    again = {}
    for item in sample.asked:
        again[item] = release.embed_texts(sample.texts[item]).mean(axis=0)
    _note_unlike("texts", release, sample, again, findings)


def embed_images_again(release: OpenRelease, sample: Sample, findings: Findings) -> None:
    """Note items whose images the model embeds otherwise than is stored."""
    corpus, again = Corpus(release.folder), dict[str, Floats]()
    tower = release.second
    columns = ["item_id", "image", *([tower.column] if tower else [])]
    for part in {sample.parts[item].digest: sample.parts[item] for item in sample.asked}.values():
        own = pa.array([item for item in sample.asked if sample.parts[item] == part], pa.string())
        for batch in corpus.read(sample.snapshot, part, columns, among=("item_id", own)):
            rows = batch.to_pylist()
            second_N = tower.takes([row[tower.column] for row in rows]) if tower else None
            image_ND = release.embed_images([open_stored(row["image"]["bytes"]) for row in rows], second_N)
            again.update(zip((row["item_id"] for row in rows), image_ND, strict=True))
    _note_unlike("images", release, sample, again, findings)


def shown_ids(ids: Sequence[str]) -> str:
    """The first of some ids, in a sentence."""
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return ", ".join(map(repr, ids[:SHOWN])) + more


def _parts_of(corpus: Corpus, release: Release | None) -> set[str]:
    """Digests of the parts that a release serves; none where nobody knows any more."""
    try:
        return {part.digest for part in corpus.log.read(release.snapshot).parts} if release else set()
    except (ValueError, DamagedError):
        return set()


def _drawn(
    corpus: Corpus, snapshot: Snapshot, parts: Sequence[Part], count: int, draw: np.random.Generator
) -> dict[str, Part]:
    """About `count` living items of some parts, as many of each as fall to it."""
    rows = np.array([part.rows for part in parts], float)
    found = dict[str, Part]()
    for part, own in zip(parts, draw.multinomial(count, rows / rows.sum()) if len(parts) else (), strict=True):
        if own:
            ids = corpus.part_ids(snapshot, part).to_pylist()
            found.update((ids[at], part) for at in draw.choice(len(ids), min(own, len(ids)), replace=False))
    return found


def _embedded(store: EmbeddingStore, parts: Mapping[str, Part], findings: Findings) -> dict[str, Vectors]:
    found = dict[str, Vectors]()
    for part in {part.digest: part for part in parts.values()}.values():
        own = [item for item, there in parts.items() if there == part]
        try:
            found.update((row["item_id"], Vectors.of(row)) for row in store.rows(part, own))
        except DamagedError as error:
            # No reader needs this file: it is made anew, and what was made from it stands.
            findings.warnings.append(str(error))
            findings.unlike.append(part.digest)
    return found


def _found(release: OpenRelease, item_id: str, image_D: Floats) -> bool:
    hits = nearest_rows(release, image_D, k=NEAREST, columns=["item_id"]).rows
    # Copies of one picture may fill all places.
    return item_id in hits["item_id"].to_pylist() or bool(len(hits) and hits["score"][-1].as_py() > 1 - TIE)


def _found_at_once(release: OpenRelease, sample: Sample, items: Sequence[str]) -> list[bool]:
    """The same of several items, by one pass over all vectors."""
    if not items:
        return []
    near = nearest_by_product(release.dataset, np.stack([sample.served[item].image_D for item in items]), k=NEAREST)
    offsets = np.unique(near.offsets_QK)
    ids = release.dataset.take(offsets.tolist(), columns=["item_id"])["item_id"].to_pylist()
    named = dict(zip(offsets.tolist(), ids, strict=True))
    return [
        item in (named[place] for place in places_K.tolist()) or bool(scores_K[-1] > 1 - TIE)
        for item, places_K, scores_K in zip(items, near.offsets_QK, near.scores_QK, strict=True)
    ]


def _note_unlike(
    kind: str, release: OpenRelease, sample: Sample, again: Mapping[str, Floats], findings: Findings
) -> None:
    unlike = []
    for item, vector_D in again.items():
        stored = sample.embedded.get(item, sample.served[item])
        stored_D = stored.image_D if kind == "images" else stored.text_D
        if not _cosine(vector_D, stored_D) >= ALIKE:
            unlike.append(item)
    if unlike:
        findings.faults.append(
            f"model {release.record.model_id} embeds the {kind} of {len(unlike)} of {len(again)} items otherwise than "
            f"is stored: {shown_ids(unlike)}"
        )
        findings.unlike += [sample.parts[item].digest for item in unlike]


def _cosine(one_D: Floats, other_D: Floats) -> float:
    lengths = float(np.linalg.norm(one_D)) * float(np.linalg.norm(other_D))
    return float(one_D @ other_D) / lengths if one_D.shape == other_D.shape and lengths else float("nan")


def _same(one: Vectors, other: Vectors) -> bool:
    return np.array_equal(one.image_D, other.image_D) and np.array_equal(one.text_D, other.text_D)


def _unit(vector_D: Floats) -> bool:
    return bool(abs(float(np.linalg.norm(vector_D)) - 1) < UNIT)
