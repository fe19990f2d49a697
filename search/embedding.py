"""Queries as embeddings: whatever some of them are made of is encoded at once, by the release's own model."""

# Q = queries, D = embedding

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pairloom.search.combination import Item, Part, Picture, Stored, direction, weighed
from pairloom.search.release import OpenRelease
from pairloom.storage.images.decoding import open_query_image, open_stored
from pairloom.storage.table.index import Floats

if TYPE_CHECKING:
    from pairloom.models.arrays import Mask
    from pairloom.search.query import Query

Given = tuple[float, str | Picture | Item]
"""A text, a picture or an item with its weight, below 0 where it is taken away."""


def query_vector(release: OpenRelease, query: "Query") -> Floats:
    """The query's embedding, L2-normalised, length D."""
    vector: Floats = query_vectors(release, [query])[0]
    return vector


def query_vectors(release: OpenRelease, queries: "Sequence[Query]") -> Floats:
    """The embeddings of some queries, L2-normalised, (Q, D): all texts are encoded at once, and all pictures.

    Raises ValueError, in one line, for the first query that is empty, unreadable or names an unknown item.
    """
    parts = [_parts(query) for query in queries]
    things = [thing for own in parts for _, thing in own]
    texts = _embedded_texts(release, things)
    items = _item_vectors(release, {thing.item_id for thing in things if isinstance(thing, Item)})
    pictures = iter(_embedded_pictures(release, queries, parts))
    found_QD = np.empty((len(queries), release.record.dimension), np.float32)
    for row, (query, own) in enumerate(zip(queries, parts, strict=True)):
        weights, vectors = [weight for weight, _ in own], list[Floats]()
        for _, thing in own:
            if isinstance(thing, str):
                vectors.append(texts[thing])
            else:
                vectors.append(items[thing.item_id] if isinstance(thing, Item) else next(pictures))
        if query.vector is not None:
            weights.append(1.0)
            vectors.append(_unit(query.vector, release.record.dimension))
        total_D = direction(weights, vectors)
        if total_D is None:
            raise ValueError(f"the parts of the query {query.title!r} cancel out")
        found_QD[row] = total_D
    return found_QD


def item_vector(release: OpenRelease, item_id: str) -> Floats:
    """The image vector of one item, length D; ValueError where the release has no such item."""
    return _item_vectors(release, {item_id})[item_id]


def open_picture(release: OpenRelease, image: Picture) -> Image.Image:
    """A picture of a query, made like those of the items. ValueError where it is none."""
    if isinstance(image, Stored):
        return open_stored(image.content)
    return open_query_image(image, release.as_ingested)


def _parts(query: "Query") -> list[Given]:
    """What the query is the sum of, but for its vector. Raises ValueError where it asks for nothing."""
    if not 0 < query.text_weight < math.inf:
        raise ValueError(f"the text weight is {query.text_weight}, must be above 0")
    like = None if query.like is None else Item(query.like)
    wanted: list[Part | None] = [query.text, *query.plus, query.image, like]
    found = [
        (sign, *weighed(part)) for sign, parts in ((1, wanted), (-1, query.minus)) for part in parts if part is not None
    ]
    if any(isinstance(thing, str) and not thing.strip() for *_, thing in found):
        raise ValueError("the query has an empty text")
    if len(found) == len(query.minus) and query.vector is None:
        raise ValueError("nothing to search for: give a text, an image or an item")
    return [
        (sign * weight * (query.text_weight if isinstance(thing, str) else 1), thing) for sign, weight, thing in found
    ]


def _embedded_texts(release: OpenRelease, things: Sequence[object]) -> dict[str, Floats]:
    texts = list(dict.fromkeys(thing for thing in things if isinstance(thing, str)))
    return dict(zip(texts, release.embed_texts(texts), strict=True)) if texts else {}


def _embedded_pictures(
    release: OpenRelease, queries: "Sequence[Query]", parts: Sequence[Sequence[Given]]
) -> Iterable[Floats]:
    """Embeddings of all pictures of all queries, in their order."""
    pictures: list[Image.Image] = []
    second: list[Mask | None] = []
    for query, own in zip(queries, parts, strict=True):
        mine = [thing for _, thing in own if not isinstance(thing, str | Item)]
        if query.image_as is not None and not mine:
            raise ValueError(f"the query has no image to take as {query.image_as!r}")
        pictures += (open_picture(release, each) for each in mine)
        second += [_second_tower(release, query.image_as)] * len(mine)
    if not pictures:
        return ()
    none = np.zeros(1, bool)
    second_N = (
        None
        if all(each is None for each in second)
        else np.concatenate([none if each is None else each for each in second])
    )
    return release.embed_images(pictures, second_N)


def _item_vectors(release: OpenRelease, ids: set[str]) -> dict[str, Floats]:
    """The image vectors of some items, by their ids; ValueError where the release lacks one of them."""
    if not ids:
        return {}
    wanted = pc.field("item_id").isin(pa.array(sorted(ids), pa.string()))
    found = release.dataset.to_table(columns=["item_id", "image_vector"], filter=wanted)
    known = found["item_id"].to_pylist()
    if lacking := sorted(ids - set(known)):
        raise ValueError(f"release {release.record.number} has no item {lacking[0]!r}")
    return {
        item_id: vector.values.to_numpy(zero_copy_only=False)
        for item_id, vector in zip(known, found["image_vector"], strict=True)
    }


def _unit(vector: "Floats | Sequence[float]", length: int) -> Floats:
    given_D = np.asarray(vector, np.float32)
    size = float(np.linalg.norm(given_D)) if given_D.shape == (length,) else math.nan
    if not 0 < size < math.inf:
        raise ValueError(f"the vector must be {length} finite numbers, not all 0; its shape is {given_D.shape}")
    unit_D: Floats = given_D / np.float32(size)
    return unit_D


def _second_tower(release: OpenRelease, value: str | None) -> "Mask | None":
    """Whether the second image tower encodes an image taken as `value`; ValueError where no item has that value."""
    if value is None:
        return None
    tower = release.second
    if tower is None:
        raise ValueError(f"release {release.record.number} has one image tower: leave out which one is for {value!r}")
    if value not in tower.values and tower.column in release.columns:
        from pairloom.models.towers.config import as_texts

        stored = release.dataset.to_table(columns=[tower.column])[tower.column].unique().to_pylist()
        known = sorted({text for each in stored for text in as_texts(each)})
        if value not in known:
            raise ValueError(f"no item's {tower.column} is {value!r}; there are {', '.join(known[:20])}")
    return tower.takes([value])
