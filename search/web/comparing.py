"""The answers of two releases beside one another, each asked with its own model, and what else they differ in."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from pydantic import BaseModel, Field

from pairloom.search.answer_diff import AnswersDiff, Questions, compare_answers, overlap, places_moved
from pairloom.search.row_diff import RowsDiff, compare_rows
from pairloom.search.web.answers import LONGEST_TEXT, PAGE, Answer, Answers, Asked
from pairloom.search.web.choice import chosen, condition, parameters
from pairloom.search.web.service import Service

ASKED = 40
"""Texts of validation items that both are asked."""

Number = Annotated[int, Parameter(ge=1, le=10**9)]


class Side(BaseModel, frozen=True, use_attribute_docstrings=True):
    """What one release answers; an `error` where it can't."""

    release: int
    answer: Answer | None
    error: str


class Compared(BaseModel, frozen=True, use_attribute_docstrings=True):
    """One question, two answers."""

    before: Side
    after: Side
    overlap: float | None
    """Share of the longer list that both hold; None where one has no answer."""
    moved: float | None
    """Places that an item moved on average, among ten."""
    places: dict[str, tuple[int | None, int | None]] = Field(default={})
    """Of every item in either: its place before and after."""


class Differences(BaseModel, frozen=True):
    """What two releases differ in."""

    before: int
    after: int
    same_model: bool
    rows: RowsDiff
    answers: AnswersDiff


def router(service: Service, answers: Answers) -> APIRouter:
    """Where two releases are compared."""
    routes = APIRouter(tags=["releases"])
    held = service.cache("differences", 16)

    @routes.get("/api/compare")
    def compare(
        request: Request,
        before: Number,
        after: Number,
        text: Annotated[str | None, Parameter(max_length=LONGEST_TEXT)] = None,
        like: Annotated[str | None, Parameter(max_length=4_096)] = None,
        image: Annotated[str | None, Parameter(max_length=64)] = None,
        k: Annotated[int, Parameter(ge=1, le=PAGE)] = 12,
    ) -> Compared:
        """What two releases answer to one question, each with its own model."""
        asked = Asked(
            text=(text or "").strip() or None, plus=(), minus=(), like=(like,) if like is not None else (), image=image
        )
        if asked.nothing:
            raise ValueError("nothing to compare by: give a text, an image or an item")
        old, new = (_side(service, answers, number, asked, request, k) for number in (before, after))
        lists = [[hit.item_id for hit in side.answer.hits] if side.answer else [] for side in (old, new)]
        both = old.answer is not None and new.answer is not None
        at = [{item: place for place, item in enumerate(own, 1)} for own in lists]
        return Compared(
            before=old,
            after=new,
            overlap=overlap(*lists) if both else None,
            moved=places_moved(*(own[:10] for own in lists)) if both else None,
            places={item: (at[0].get(item), at[1].get(item)) for item in dict.fromkeys([*lists[0], *lists[1]])},
        )

    @routes.get("/api/differences")
    def differences(before: Number, after: Number) -> Differences:
        """Rows that differ, and how the answers to texts of validation items moved."""

        def made() -> Differences:
            with service.reading(before) as old, service.reading(after) as new:
                return Differences(
                    before=before,
                    after=after,
                    same_model=old.record.model_id == new.record.model_id,
                    rows=compare_rows(old, new),
                    answers=compare_answers(old, new, Questions(sampled=ASKED), lambda _done, _of: None),
                )

        found: Differences = held.get((before, after), made)
        return found

    return routes


def _side(service: Service, answers: Answers, number: int, asked: Asked, request: Request, k: int) -> Side:
    try:
        with service.reading(number) as release:
            where = condition(chosen(release, parameters(request.query_params.multi_items())))
            return Side(release=number, answer=answers.page(release, asked, where, 0, k), error="")
    except ValueError as error:
        return Side(release=number, answer=None, error=str(error))
