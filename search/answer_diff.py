"""How the answers to some queries moved from one release to another, each asked with its own model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from pydantic import BaseModel

from pairloom.search.query import Query, corrects, nearest_rows, query_vector
from pairloom.search.release import OpenRelease

PLACES = 10
SHOWN = 5
"""Queries that are shown: those that moved most."""

Progress = Callable[[int, int], None]
"""Hears what is done, and of how much."""


@dataclass(frozen=True)
class Questions:
    """What both releases are asked."""

    golden: Sequence[Query] = ()
    """Queries that people chose."""
    sampled: int = 50
    """How many texts of validation items."""
    seed: int = 0
    """Of the draw of these texts."""


class Found(BaseModel, frozen=True, extra="forbid"):
    """One of the nearest items."""

    item_id: str
    text: str
    score: float


class MovedAnswer(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What one query finds before and after."""

    query: str
    golden: bool
    """Whether it is one of `evaluation.golden`; else its text was drawn from the validation items."""
    overlap: float
    """Share of the nearest ten that stay among them, 0 to 1."""
    moved: float
    """Places by which an item of the ten before or after moved, on average; one that isn't among ten counts as the
    eleventh."""
    before: list[Found]
    after: list[Found]
    error: str = ""
    """Why one of the releases has no answer."""


class AnswersDiff(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How the ten nearest items of all queries moved."""

    golden: int
    """Golden queries asked."""
    sampled: int
    """Texts of validation items asked."""
    overlap: float | None
    """Mean over all queries that both releases answer; None where there is none."""
    moved: float | None
    """Likewise."""
    unchanged: int
    """Queries that find the same ten in the same order."""
    most: list[MovedAnswer]
    """Those that moved most, the worst first, and those that a release has no answer to."""


def compare_answers(before: OpenRelease, after: OpenRelease, questions: Questions, progress: Progress) -> AnswersDiff:
    """Ask both releases for the ten nearest of every question."""
    golden, texts = questions.golden, sampled_texts((before, after), questions)
    asked = [*((query, True) for query in golden), *((Query(text=text), False) for text in texts)]
    found = []
    for number, (query, is_golden) in enumerate(asked):
        progress(number, len(asked))
        found.append(_asked(before, after, query, golden=is_golden))
    progress(len(asked), len(asked))
    failed, answered = ([each for each in found if bool(each.error) == error] for error in (True, False))
    moved = sorted((each for each in answered if each.moved), key=lambda each: (-each.moved, each.query))
    return AnswersDiff(
        golden=len(golden),
        sampled=len(texts),
        overlap=float(np.mean([each.overlap for each in answered])) if answered else None,
        moved=float(np.mean([each.moved for each in answered])) if answered else None,
        unchanged=len(answered) - len(moved),
        most=moved[:SHOWN] + failed,
    )


def sampled_texts(releases: Sequence[OpenRelease], questions: Questions) -> list[str]:
    """Best texts of validation items, drawn; of all items where there are none."""
    texts: set[str] = set()
    for filter_ in (pc.field("split") == "val", None):
        for release in releases:
            own = release.dataset.to_table(columns=["texts"], filter=filter_)["texts"]
            texts |= set(pc.list_element(own.filter(pc.greater(pc.list_value_length(own), 0)), 0).to_pylist())
        if texts:
            break
    known = sorted(text for text in texts if text.strip())
    drawn = np.random.default_rng(questions.seed).choice(len(known), min(questions.sampled, len(known)), replace=False)
    return [known[place] for place in sorted(drawn)]


def _asked(before: OpenRelease, after: OpenRelease, query: Query, *, golden: bool) -> MovedAnswer:
    lists: list[list[Found]] = []
    errors = []
    for release in (before, after):
        try:
            lists.append(_ten(release, query))
        except ValueError as error:
            lists.append([])
            errors.append(f"release {release.record.number}: {error}")
    old, new = ([each.item_id for each in own] for own in lists)
    return MovedAnswer(
        query=query.title,
        golden=golden,
        overlap=overlap(old, new),
        moved=places_moved(old, new),
        before=lists[0],
        after=lists[1],
        error="; ".join(errors),
    )


def _ten(release: OpenRelease, query: Query) -> list[Found]:
    vector_D = query_vector(release, query)
    columns, correct = ["item_id", "texts"], corrects(release, query)
    near = nearest_rows(release, vector_D, k=PLACES, columns=columns, without=query.like, hubness=correct)
    return [
        Found(item_id=row["item_id"], text=row["texts"][0] if row["texts"] else "", score=row["score"])
        for row in near.rows.select(["item_id", "texts", "score"]).to_pylist()
    ]


def overlap(before: Sequence[str], after: Sequence[str]) -> float:
    """Share of the longer list that both hold; 1 where both are empty."""
    longer = max(len(before), len(after))
    return len({*before} & {*after}) / longer if longer else 1.0


def places_moved(before: Sequence[str], after: Sequence[str]) -> float:
    """Mean change of place over the items of either list; one that a list lacks stands just behind the tenth."""
    place = [{item: number for number, item in enumerate(own)} for own in (before, after)]
    items = {*before, *after}
    changes = [abs(place[0].get(item, PLACES) - place[1].get(item, PLACES)) for item in items]
    return float(np.mean(changes)) if changes else 0.0
