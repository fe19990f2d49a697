"""What may be wrong with a collection: texts that don't fit, copies, leaks across splits, pictures of nothing."""

# N = items of the release, S = items looked at, D = embedding, K = neighbours

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fastapi import APIRouter, Response
from PIL import Image
from pydantic import BaseModel

from pairloom.search.web.jobs import Jobs, Progress, Working
from pairloom.search.web.pictures import address
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service

Floats = npt.NDArray[np.float32]

MOST = 20_000
"""Items that are looked at, and beside one another: all of a smaller release, a seeded sample of a larger one."""
K = 10
SHOWN = 48
"""Findings of one kind that are shown."""
NEARNESS = 10.0
"""How much more a nearer neighbour says: the weight is exp of this times its cosine."""
BETTER, DOUBT = 0.1, 0.6
"""How much better neighbours' texts must fit an image than its own, in cosine similarity; and the least doubt, which
also counts how unlike the texts are and how far the neighbours agree. benchmarks/web.md says what that finds."""
COPY = 0.985
"""Cosine from which two images are near-duplicates, if their pixels agree as well."""
PIXELS = 12.0
"""Root mean square difference of two thumbnails' grey values, of 255, up to which they show the same."""
DARK, FLAT, BLURRED = 24.0, 6.0, 2.5
"""Below these a picture is too dark (mean grey), empty (deviation of grey), blurred (steepest edge)."""
SIDE = 64
BLOCK = 4_096


class Finding(BaseModel, frozen=True, use_attribute_docstrings=True):
    """An item that may be wrong, or two that may be one."""

    item_id: str
    text: str
    split: str
    picture: str
    score: float
    """How sure it is, by the kind's own measure: higher is surer."""
    other: str | None = None
    """The other item, of two."""
    other_text: str = ""
    other_split: str = ""
    other_picture: str | None = None
    said: str = ""
    """What would fit better."""


class Findings(BaseModel, frozen=True):
    """All of one kind."""

    kind: str
    title: str
    meaning: str
    count: int
    shown: list[Finding]


class DataReport(BaseModel, frozen=True, use_attribute_docstrings=True):
    """What may be wrong with the items of a release."""

    release: int
    model_id: str
    items: int
    looked_at: int
    held_out: int
    """Of those, items that the model didn't train on."""
    findings: list[Findings]


@dataclass(frozen=True)
class _Sample:
    """The items looked at."""

    row_ids: list[int]
    ids: list[str]
    texts: list[str]
    groups: list[str | None]
    splits: list[str]
    image_SD: Floats
    text_SD: Floats
    grey_SHW: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, release: ServedRelease, progress: Progress) -> "_Sample":
        rows = release.dataset.count_rows()
        places = np.sort(np.random.default_rng(0).choice(rows, min(rows, MOST), replace=False)).tolist()
        columns = ["item_id", "texts", "group", "split", "thumbnail", "image_vector", "text_vector", "_rowid"]
        found = cls([], [], [], [], [], np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))
        images, texts, greys = [], [], []
        for start in range(0, len(places), BLOCK):
            table = release.dataset.take(places[start : start + BLOCK], columns=columns)
            found.row_ids.extend(table["_rowid"].to_pylist())
            found.ids.extend(table["item_id"].to_pylist())
            found.texts.extend((own or [""])[0] for own in table["texts"].to_pylist())
            found.groups.extend(table["group"].to_pylist())
            found.splits.extend(table["split"].to_pylist())
            images.append(_matrix(table["image_vector"], release.record.dimension))
            texts.append(_matrix(table["text_vector"], release.record.dimension))
            greys.append(np.stack([_grey(content) for content in table["thumbnail"].to_pylist()]))
            progress(0.4 * min(1.0, (start + BLOCK) / len(places)))
        if not places:
            return found
        return cls(
            found.row_ids, found.ids, found.texts, found.groups, found.splits,
            np.concatenate(images), np.concatenate(texts), np.concatenate(greys),
        )  # fmt: skip

    def finding(
        self, release: ServedRelease, at: int, score: float, other: int | None = None, said: str = ""
    ) -> Finding:
        """One of them, or two."""
        beside = {}
        if other is not None:
            beside = {
                "other": self.ids[other],
                "other_text": self.texts[other],
                "other_split": self.splits[other],
                "other_picture": address(release, self.row_ids[other]),
            }
        return Finding(
            item_id=self.ids[at],
            text=self.texts[at],
            split=self.splits[at],
            picture=address(release, self.row_ids[at]),
            score=round(score, 4),
            said=said,
            **beside,
        )


def data_report(release: ServedRelease, progress: Progress) -> DataReport:
    """What may be wrong with the items of a release, by its own vectors and thumbnails."""
    sample = _Sample.of(release, progress)
    findings = []
    if sample.ids:
        near_SK, cosine_SK = _neighbours(sample.image_SD, lambda share: progress(0.4 + 0.5 * share))
        findings.append(_mislabelled(release, sample, near_SK, cosine_SK))
        copies = _copies(sample, near_SK, cosine_SK)
        findings.append(_duplicates(release, sample, copies))
        findings.append(_leaks(release, sample, copies))
        findings += _poor_pictures(release, sample)
    return DataReport(
        release=release.record.number,
        model_id=release.record.model_id,
        items=release.record.rows,
        looked_at=len(sample.ids),
        held_out=sum(split != "train" for split in sample.splits),
        findings=findings,
    )


def _neighbours(image_SD: Floats, progress: Progress) -> tuple[npt.NDArray[np.int64], Floats]:
    """Of each image its K nearest others, nearest first, with their cosines."""
    count = len(image_SD)
    k = min(K, count - 1)
    near, scores = np.empty((count, k), np.int64), np.empty((count, k), np.float32)
    for start in range(0, count, 512):
        cosine_BS = image_SD[start : start + 512] @ image_SD.T
        rows = np.arange(len(cosine_BS))
        cosine_BS[rows, start + rows] = -2
        found_BK = np.argpartition(-cosine_BS, max(k - 1, 0), axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(cosine_BS, found_BK, 1), axis=1, kind="stable")
        found_BK = np.take_along_axis(found_BK, order, 1)
        near[start : start + 512], scores[start : start + 512] = found_BK, np.take_along_axis(cosine_BS, found_BK, 1)
        progress(min(1.0, (start + 512) / count))
    return near, scores


def _mislabelled(
    release: ServedRelease, sample: _Sample, near_SK: npt.NDArray[np.int64], cosine_SK: Floats
) -> Findings:
    """Items whose image the texts of its neighbours fit better than its own, the more so where these agree.

    Out of fold as far as one model allows: an item's own text has no say in what its neighbours' texts are, and items
    that the model trained on are measured beside one another, as are those that it didn't.
    """
    doubt_S = np.zeros(len(sample.ids), np.float32)
    best: list[str] = []
    if near_SK.shape[1]:
        their_SK = np.einsum("sd,skd->sk", sample.image_SD, sample.text_SD[near_SK])
        own_S = np.einsum("sd,sd->s", sample.image_SD, sample.text_SD)
        # The median: one neighbour that is wrong itself decides nothing.
        better_S = np.median(their_SK, axis=1) - own_S
        weight_SK = np.exp((cosine_SK - 1) * NEARNESS)
        said_SD = np.einsum("sk,skd->sd", weight_SK / weight_SK.sum(axis=1, keepdims=True), sample.text_SD[near_SK])
        agreed_S = np.maximum(np.linalg.norm(said_SD, axis=1), 1e-9)
        unlike_S = 1 - np.einsum("sd,sd->s", said_SD / agreed_S[:, None], sample.text_SD)
        doubt_S = agreed_S * (better_S + unlike_S)
        trained_S = np.array([split == "train" for split in sample.splits])
        for own in (trained_S, ~trained_S):
            if own.any():
                doubt_S[own] -= max(0.0, float(np.median(doubt_S[own])))
        doubt_S[better_S < BETTER] = 0
        best = [
            sample.texts[int(near_K[place])] for near_K, place in zip(near_SK, their_SK.argmax(axis=1), strict=True)
        ]
    suspects = np.flatnonzero(doubt_S > DOUBT)
    suspects = suspects[np.argsort(-doubt_S[suspects], kind="stable")]
    return Findings(
        kind="mislabelled",
        title="Likely mislabelled",
        meaning="The texts of its ten nearest neighbours fit the picture better than its own text does.",
        count=len(suspects),
        shown=[sample.finding(release, at, float(doubt_S[at]), said=best[at]) for at in suspects[:SHOWN].tolist()],
    )


def _copies(sample: _Sample, near_SK: npt.NDArray[np.int64], cosine_SK: Floats) -> list[tuple[int, int, float]]:
    """Pairs of near-duplicates, surest first."""
    at_P, place_P = np.nonzero(cosine_SK >= COPY)
    pairs = {}
    for at, place in zip(at_P.tolist(), place_P.tolist(), strict=True):
        one, other = sorted((at, int(near_SK[at, place])))
        apart = _apart(sample.grey_SHW[one], sample.grey_SHW[other])
        if apart <= PIXELS:
            pairs[one, other] = 1 - apart / 255
    return [(*pair, score) for pair, score in sorted(pairs.items(), key=lambda each: (-each[1], each[0]))]


def _apart(one_HW: npt.NDArray[np.uint8], other_HW: npt.NDArray[np.uint8]) -> float:
    return float(np.sqrt(np.square(one_HW.astype(np.float32) - other_HW.astype(np.float32)).mean()))


def _duplicates(release: ServedRelease, sample: _Sample, copies: Sequence[tuple[int, int, float]]) -> Findings:
    return Findings(
        kind="near_duplicates",
        title="Near-duplicates",
        meaning="Two items whose pictures are almost the same, by their vectors and by their pixels.",
        count=len(copies),
        shown=[sample.finding(release, one, score, other) for one, other, score in copies[:SHOWN]],
    )


def _leaks(release: ServedRelease, sample: _Sample, copies: Sequence[tuple[int, int, float]]) -> Findings:
    leaks = [each for each in copies if sample.splits[each[0]] != sample.splits[each[1]]]
    return Findings(
        kind="leaks",
        title="Leaks across splits",
        meaning="Near-duplicates of which one is trained on and the other is measured by, or in two splits otherwise: "
        "metrics look better than they are.",
        count=len(leaks),
        shown=[sample.finding(release, one, score, other) for one, other, score in leaks[:SHOWN]],
    )


def _poor_pictures(release: ServedRelease, sample: _Sample) -> Iterator[Findings]:
    grey_SHW = sample.grey_SHW
    mean_S = grey_SHW.mean(axis=(1, 2))
    spread_S = grey_SHW.std(axis=(1, 2))
    edge_S = np.array([_sharpest(each) for each in grey_SHW])
    empty_S = spread_S < FLAT
    dark_S = (mean_S < DARK) & ~empty_S
    blurred_S = (edge_S < BLURRED) & ~empty_S & ~dark_S
    kinds: list[tuple[str, str, str, npt.NDArray[np.bool_], npt.NDArray[np.floating]]] = [
        ("dark", "Too dark", "Hardly anything in the picture is brighter than black.", dark_S, DARK - mean_S),
        ("blurred", "Blurred", "No edge in the thumbnail is sharp.", blurred_S, BLURRED - edge_S),
        ("empty", "Empty", "The picture is of one colour.", empty_S, FLAT - spread_S),
    ]
    for kind, title, meaning, mask_S, sure_S in kinds:
        found = np.flatnonzero(mask_S)
        found = found[np.argsort(-sure_S[found], kind="stable")]
        yield Findings(
            kind=kind,
            title=title,
            meaning=meaning,
            count=len(found),
            shown=[sample.finding(release, at, float(sure_S[at])) for at in found[:SHOWN].tolist()],
        )


def _sharpest(grey_HW: npt.NDArray[np.uint8]) -> float:
    """How steep the steepest hundredth of the edges is: a step from pixel to pixel in quarters of a percent of the
    contrast."""
    values_HW = grey_HW.astype(np.float32)
    steps = np.concatenate([np.abs(np.diff(values_HW, axis=0)).ravel(), np.abs(np.diff(values_HW, axis=1)).ravel()])
    contrast = float(values_HW.max() - values_HW.min()) or 1.0
    return float(np.percentile(steps, 99)) / contrast * 100 / 4


def _grey(content: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _matrix(column: pa.ChunkedArray, dimension: int) -> Floats:
    flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks])
    matrix_ND: Floats = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, dimension)
    return matrix_ND


def router(service: Service, jobs: Jobs) -> APIRouter:
    """Where the report is had."""
    routes = APIRouter(tags=["report"])

    @routes.get("/api/report", responses={202: {"model": Working, "description": "It is being made: ask again."}})
    def report(response: Response) -> DataReport | Working:
        """Items that may be mislabelled, near-duplicates, leaks across splits, dark, blurred and empty pictures."""
        with service.reading() as release:
            found = jobs.get(("report", release.key), lambda progress: data_report(release, progress), wait=1.0)
        if isinstance(found, Working):
            response.status_code = 202
        return found

    return routes
