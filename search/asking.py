"""What people write of a query, as one: `2:red shoe`, names of files, one thing or several."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pairloom.search.combination import Item, Part, Picture, Stored, Weighted, parsed
from pairloom.search.query import Query
from pairloom.search.rerank import CANDIDATES
from pairloom.storage.table.index import Floats

Pictures = str | Picture | Weighted | Sequence[str | Picture | Weighted]
"""A file by its name or path, an open picture, or several of these."""


def asked_for(
    query: Query | str | None = None,
    *,
    text: str | None = None,
    image: Pictures | None = None,
    like: str | None = None,
    vector: Floats | Sequence[float] | None = None,
    plus: Part | Sequence[Part] = (),
    minus: Part | Sequence[Part] = (),
) -> Query:
    """All of it as one query. ValueError where a whole one comes with parts of another, or two texts are *the* text."""
    given = (text, image, like, vector)
    if isinstance(query, Query):
        if any(each is not None for each in given) or len(_several(plus)) + len(_several(minus)):
            raise ValueError("a whole Query holds all of its parts: give either it or parts")
        return query
    if query is not None and text is not None:
        raise ValueError("the query has two texts: add the second one with plus")
    first = parsed(query) if query is not None else None if text is None else parsed(text)
    pictures = [_picture(each) for each in ([] if image is None else _several(image))]
    # Those that count once stand where the cross-encoder, and the query's title, look for them.
    lone = first if isinstance(first, str) else None
    only = pictures[0] if pictures and not isinstance(pictures[0], Weighted) else None
    more: list[Part] = [first] if isinstance(first, Weighted) else []
    more += pictures if only is None else pictures[1:]
    return Query(
        text=lone,
        image=only,
        like=like,
        plus=(*more, *map(_part, _several(plus))),
        minus=tuple(map(_part, _several(minus))),
        vector=None if vector is None else np.asarray(vector, np.float32),
    )


def candidates(rerank: int | bool | None) -> int | None:
    """How many of the nearest the cross-encoder orders; None for none of them."""
    if isinstance(rerank, bool):
        return CANDIDATES if rerank else None
    return rerank


def named_picture(name: str) -> Path | Weighted:
    """A file by its name, `2:photo.jpg` where it counts twice; the name as it is where there is such a file."""
    found = name if Path(name).exists() else parsed(name)
    return Weighted(Path(str(found.part)), found.weight) if isinstance(found, Weighted) else Path(found)


def _several(given: object) -> "list[str | Picture | Item | Weighted]":
    one = isinstance(given, str | Path | Image.Image | Stored | Item | Weighted)
    return [given] if one else list(given)  # type: ignore[list-item, call-overload]  # the callers' types say which


def _part(part: Part) -> Part:
    return parsed(part) if isinstance(part, str) else part


def _picture(given: "str | Picture | Item | Weighted") -> "Picture | Weighted":
    match given:
        case str():
            return Path(given)
        case Weighted(part=str(name), weight=weight):
            return Weighted(Path(name), weight)
        case Item():
            raise ValueError("an image is a file or an open picture: give an item to like or plus")
        case _:
            return given
