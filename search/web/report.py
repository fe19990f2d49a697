"""What may be wrong with a collection: texts that don't fit, copies, leaks across splits, pictures of nothing."""

# N = items of the release, K = neighbours, P = pairs, L = items whose thumbnails are looked at

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
from fastapi import APIRouter, Response
from pydantic import BaseModel

from pairloom.models.arrays import Indices, Scores
from pairloom.models.mining.cells import Places, part_of
from pairloom.search.alike import Vectors, image_vectors, text_vectors
from pairloom.search.web.doubts import doubted
from pairloom.search.web.jobs import Jobs, Progress, Working
from pairloom.search.web.pictures import address
from pairloom.search.web.poor_pictures import Grey, apart, grey, measured, poor
from pairloom.search.web.ranking import rows_of
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service

K = 10
SHOWN = 48
"""Findings of one kind that are shown."""
LOOKED = 20_000
"""Thumbnails that are looked at: all of a smaller release, those with the fewest bytes of a larger one."""
COPY = 0.985
"""Cosine from which two images are near-duplicates, if their pixels agree as well."""
PAIRS = 20_000
"""Pairs so near whose pixels are compared: those of two splits first, then the nearest."""
FAR = 3.0
"""Robust standard deviations of the mean cosine to the nearest from which an item is unlike all others."""
PIXELS = 12.0
"""Root mean square difference of two thumbnails' grey values, of 255, up to which they show the same."""
AT_ONCE = 2_048


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


class Covered(BaseModel, frozen=True, use_attribute_docstrings=True):
    """What was looked at."""

    compared: int = 0
    """Items whose vectors were compared with others."""
    with_all: bool = True
    """Whether each was compared with all others; else with those in the cells nearest to it, which misses some."""
    pairs: int = 0
    """Pairs that are near enough for copies."""
    pairs_looked_at: int = 0
    """Those whose pixels were compared."""
    pictures: int = 0
    """Thumbnails that were looked at: where these aren't all, those with the fewest bytes."""


class DataReport(BaseModel, frozen=True, use_attribute_docstrings=True):
    """What may be wrong with the items of a release."""

    release: int
    model_id: str
    items: int
    held_out: int
    """Of those, items that the model didn't train on."""
    covered: Covered
    findings: list[Findings]


@dataclass(frozen=True)
class _Found:
    """Findings of one kind, by the places of their items."""

    kind: str
    title: str
    meaning: str
    count: int
    places: list[int]
    scores: list[float]
    others: list[int] = field(default_factory=list)
    """The other items of pairs."""
    said: list[int] = field(default_factory=list)
    """Items whose texts would fit better."""


def data_report(release: ServedRelease, progress: Progress) -> DataReport:
    """What may be wrong with the items of a release, by its own vectors and thumbnails; of all of them."""
    with image_vectors(release, None, part_of(progress, 0, 0.05), beside=["split", "_rowid"]) as items:
        trained_N = pc.equal(items.rows["split"], "train").to_numpy()
        covered, found = Covered(), list[_Found]()
        if len(trained_N):
            near_NK, cosine_NK = items.nearest_others(K, progress=part_of(progress, 0.05, 0.5))
            with text_vectors(release, items, part_of(progress, 0.5, 0.55)) as text_ND:
                doubts = doubted(
                    items.vector_ND, text_ND, (near_NK, cosine_NK), trained_N, part_of(progress, 0.55, 0.65)
                )
            suspects = doubts.suspects
            found.append(
                _Found(
                    kind="mislabelled",
                    title="Likely mislabelled",
                    meaning="The texts of its ten nearest neighbours fit the picture better than its own text does.",
                    count=len(suspects),
                    places=suspects[:SHOWN].tolist(),
                    scores=doubts.doubt_N[suspects[:SHOWN]].tolist(),
                    said=doubts.said_N[suspects[:SHOWN]].tolist(),
                )
            )
            pairs = _close(items, near_NK, cosine_NK)
            copies = _copies(release, items, pairs[:PAIRS], part_of(progress, 0.65, 0.75))
            found += _pairs_found(items, copies)
            if cosine_NK.shape[1]:
                found.append(_outliers(items, cosine_NK, part_of(progress, 0.75, 0.85)))
            places_L = _to_look_at(release, items)
            found += _poor(release, items, places_L, part_of(progress, 0.85, 1))
            covered = Covered(
                compared=len(trained_N),
                with_all=items.all_compared,
                pairs=len(pairs),
                pairs_looked_at=min(len(pairs), PAIRS),
                pictures=len(places_L),
            )
        return DataReport(
            release=release.record.number,
            model_id=release.record.model_id,
            items=release.record.rows,
            held_out=int((~trained_N).sum()),
            covered=covered,
            findings=_told(release, items, found),
        )


def _close(items: Vectors, near_NK: Places, cosine_NK: Scores) -> list[tuple[int, int, float]]:
    """Pairs of items that may show one picture, with their cosines: of two splits first, then the nearest."""
    at_P, place_P = np.nonzero(cosine_NK >= COPY)
    other_P = near_NK[at_P, place_P]
    key_P, first_P = np.unique(
        np.minimum(at_P, other_P).astype(np.int64) * len(near_NK) + np.maximum(at_P, other_P), return_index=True
    )
    one_P, two_P = np.divmod(key_P, len(near_NK))
    cosine_P = cosine_NK[at_P, place_P][first_P]
    splits = items.rows["split"]
    same_P = pc.equal(splits.take(one_P), splits.take(two_P)).to_numpy()
    order_P = np.lexsort((two_P, one_P, -cosine_P, same_P))
    return list(zip(one_P[order_P].tolist(), two_P[order_P].tolist(), cosine_P[order_P].tolist(), strict=True))


def _copies(
    release: ServedRelease, items: Vectors, pairs: Sequence[tuple[int, int, float]], progress: Progress
) -> list[tuple[int, int, float]]:
    """Those of the pairs whose pixels agree as well, with how far they do, surest first."""
    wanted = sorted({place for one, other, _ in pairs for place in (one, other)})
    seen = dict(zip(wanted, _greys(release, items, wanted, progress), strict=True))
    found = [(one, other, 1 - apart(seen[one], seen[other]) / 255) for one, other, _ in pairs]
    same = [each for each in found if each[2] >= 1 - PIXELS / 255]
    return sorted(same, key=lambda each: (-each[2], each[:2]))


def _pairs_found(items: Vectors, copies: list[tuple[int, int, float]]) -> Iterator[_Found]:
    splits = items.rows["split"]
    leaks = [each for each in copies if splits[each[0]] != splits[each[1]]]
    kinds = [
        (
            "near_duplicates",
            "Near-duplicates",
            "Two items whose pictures are almost the same, by their vectors and by their pixels.",
            copies,
        ),
        (
            "leaks",
            "Leaks across splits",
            "Near-duplicates of which one is trained on and the other is measured by, or in two splits otherwise: "
            "metrics look better than they are.",
            leaks,
        ),
    ]
    for kind, title, meaning, pairs in kinds:
        shown = pairs[:SHOWN]
        yield _Found(
            kind=kind,
            title=title,
            meaning=meaning,
            count=len(pairs),
            places=[one for one, _, _ in shown],
            scores=[score for *_, score in shown],
            others=[other for _, other, _ in shown],
        )


def _outliers(items: Vectors, cosine_NK: Scores, progress: Progress) -> _Found:
    """Those further from their nearest than `FAR` robust standard deviations beyond the median."""
    mean_N = cosine_NK.mean(axis=1)
    middle = float(np.median(mean_N))
    bound = middle - FAR * 1.4826 * float(np.median(np.abs(mean_N - middle)))
    far_K, mean_K, _ = items.outliers(SHOWN, K, progress=progress, known_NK=cosine_NK)
    shown_K = mean_K < bound
    count = int((mean_N < bound).sum())
    return _Found(
        kind="outliers",
        title="Unlike all others",
        meaning="Even its ten nearest are far from it, beside what is usual here: a wrong picture, a placeholder.",
        # Means over cells are never too high: where fewer than these are left, all are known.
        count=count if shown_K.all() else int(shown_K.sum()),
        places=far_K[shown_K].tolist(),
        scores=(1 - mean_K[shown_K]).tolist(),
    )


def _to_look_at(release: ServedRelease, items: Vectors) -> Indices:
    """Places of the items whose thumbnails are looked at. What shows little, takes few bytes."""
    if len(items.vector_ND) <= LOOKED:
        return np.arange(len(items.vector_ND))
    batches = release.dataset.scanner(columns=["thumbnail"], batch_size=AT_ONCE).to_batches()
    size_N = np.concatenate([pc.binary_length(batch["thumbnail"]).to_numpy() for batch in batches])[items.order_N]
    return np.sort(np.argsort(size_N, kind="stable")[:LOOKED])


def _poor(release: ServedRelease, items: Vectors, places_L: Indices, progress: Progress) -> Iterator[_Found]:
    for each in poor([measured(each) for each in _greys(release, items, places_L.tolist(), progress)]):
        yield _Found(
            kind=each.kind,
            title=each.title,
            meaning=each.meaning,
            count=len(each.places),
            places=places_L[each.places[:SHOWN]].tolist(),
            scores=each.sureness[:SHOWN].tolist(),
        )


def _greys(release: ServedRelease, items: Vectors, places: Sequence[int], progress: Progress) -> Iterator[Grey]:
    """The thumbnails of some items."""
    row_ids = items.rows["_rowid"].take(np.asarray(places, np.int64)).to_pylist()
    for start in range(0, len(row_ids), AT_ONCE):
        progress(start / len(row_ids))
        for row in rows_of(release, row_ids[start : start + AT_ONCE], ["thumbnail"]):
            yield grey(row["thumbnail"])


def _told(release: ServedRelease, items: Vectors, found: Sequence[_Found]) -> list[Findings]:
    """Findings with what people see of their items."""
    places = sorted({place for each in found for place in (*each.places, *each.others, *each.said)})
    row_ids = items.rows["_rowid"].take(np.asarray(places, np.int64)).to_pylist()
    rows = rows_of(release, row_ids, ["item_id", "texts", "split"])
    known = dict(zip(places, zip(row_ids, rows, strict=True), strict=True))

    def text(place: int) -> str:
        return next(iter(known[place][1]["texts"] or ()), "")

    def finding(each: _Found, at: int) -> Finding:
        row_id, row = known[each.places[at]]
        beside = {}
        if each.others:
            other_id, other = known[each.others[at]]
            beside = {
                "other": other["item_id"],
                "other_text": text(each.others[at]),
                "other_split": other["split"],
                "other_picture": address(release, other_id),
            }
        return Finding(
            item_id=row["item_id"],
            text=text(each.places[at]),
            split=row["split"],
            picture=address(release, row_id),
            score=round(each.scores[at], 4),
            said=text(each.said[at]) if each.said else "",
            **beside,
        )

    return [
        Findings(
            kind=each.kind,
            title=each.title,
            meaning=each.meaning,
            count=each.count,
            shown=[finding(each, at) for at in range(len(each.places))],
        )
        for each in found
    ]


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
