"""Nearest items: by text, by image, by another item, and by sums and differences of these."""

import base64
import datetime
import decimal
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from pydantic import BaseModel

from models.similarity import MEASURES, Metric
from search.filters import bad_filter, lance_filter
from search.release import OpenRelease
from storage.images import IngestConfig, open_query_image
from storage.index import Floats, nearest

MAX_K = 10_000
SCORE_DIGITS = 6
"""Digits after which equal similarities differ by the order of summation only."""


@dataclass(frozen=True)
class Query:
    """What to search for: the sum of all that is given, less `minus`. At least one of the others must be given."""

    text: str | None = None
    image: Path | Image.Image | None = None
    like: str | None = None
    """An item_id: finds items whose image is like that item's; the item itself is left out."""
    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    text_weight: float = 1.0
    """How much each text counts beside the image and the item, which count 1."""

    @property
    def title(self) -> str:
        """The query in words, for people."""
        image = self.image.name if isinstance(self.image, Path) else "an image" if self.image else None
        given = (self.text, image, f"like {self.like}" if self.like is not None else None, *self.plus)
        return " + ".join(each for each in given if each is not None) + "".join(f" − {each}" for each in self.minus)


class Hit(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One item found."""

    item_id: str
    score: float
    """Similarity of the query and the item's image by the metric asked for, rounded; a distance for `euclidean`."""
    texts: list[str]
    path: str | None
    metadata: dict[str, Any]
    """The pipeline's own columns."""
    thumbnail: bytes


class SearchResult(BaseModel, frozen=True, extra="forbid"):
    """Hits, best first, with the release and model they came from."""

    release: int
    model_id: str
    title: str
    hits: list[Hit]

    def to_json(self) -> dict[str, Any]:
        """The document that `pairloom search --json` prints."""
        return {
            "release": self.release,
            "model_id": self.model_id,
            "hits": [
                {
                    "item_id": hit.item_id,
                    "score": hit.score,
                    "texts": hit.texts,
                    "path": hit.path,
                    **{name: json_value(value) for name, value in hit.metadata.items()},
                }
                for hit in self.hits
            ],
        }


def search(
    release: OpenRelease, query: Query, *, k: int = 10, where: str | None = None, metric: Metric = "cosine"
) -> SearchResult:
    """The `k` items of `release` nearest to `query` among those that fulfil the SQL condition `where`.

    All embeddings being L2-normalised, every `metric` gives the same hits in the same order, and scores of its own.
    Raises ValueError, in one line, for an empty query, an unknown item, an unreadable image or a malformed `where`.
    """
    keep = list(release.record.keep)
    columns = ["item_id", "texts", "path", "thumbnail", *keep]
    vector_D = query_vector(release, query)
    vectors = [] if metric == "cosine" else ["image_vector"]
    rows = nearest_rows(release, vector_D, k=k, where=where, columns=columns + vectors, without=query.like)
    if vectors and len(rows):
        found_KD = np.stack(rows["image_vector"].to_numpy())
        scores = MEASURES[metric](vector_D[None], found_KD)[0].round(SCORE_DIGITS)
    else:
        scores = rows["score"].to_numpy()
    hits = [
        Hit(
            item_id=row["item_id"],
            score=score,
            texts=row["texts"],
            path=row["path"],
            metadata={name: row[name] for name in keep},
            thumbnail=row["thumbnail"],
        )
        for row, score in zip(rows.to_pylist(), scores.tolist(), strict=True)
    ]
    return SearchResult(release=release.record.number, model_id=release.record.model_id, title=query.title, hits=hits)


def query_vector(release: OpenRelease, query: Query) -> Floats:
    """The query's embedding, L2-normalised, length D."""
    texts = [text for text in (query.text, *query.plus) if text is not None]
    if any(not text.strip() for text in (*texts, *query.minus)):
        raise ValueError("the query has an empty text")
    if not 0 < query.text_weight < math.inf:
        raise ValueError(f"the text weight is {query.text_weight}, must be above 0")
    parts: list[Floats] = []
    if texts or query.minus:
        weights = [query.text_weight] * len(texts) + [-query.text_weight] * len(query.minus)
        parts.extend(np.asarray(weights, np.float32)[:, None] * release.encoder.embed_texts([*texts, *query.minus]))
    if query.image is not None:
        parts.extend(release.encoder.embed_images([_opened(query.image, release.record.max_side)]))
    if query.like is not None:
        parts.append(item_vector(release, query.like))
    if len(parts) == len(query.minus):
        raise ValueError("nothing to search for: give a text, an image or an item")
    total_D: Floats = np.sum(parts, axis=0, dtype=np.float32)
    length = float(np.linalg.norm(total_D))
    if not length > 1e-6:
        raise ValueError(f"the parts of the query {query.title!r} cancel out")
    return np.asarray(total_D / length, dtype=np.float32)


def item_vector(release: OpenRelease, item_id: str) -> Floats:
    """The image vector of one item, length D; ValueError where the release has no such item."""
    found = release.dataset.to_table(columns=["image_vector"], filter=pc.field("item_id") == item_id)
    if not len(found):
        raise ValueError(f"release {release.record.number} has no item {item_id!r}")
    vector: Floats = found["image_vector"][0].values.to_numpy(zero_copy_only=False)
    return vector


def nearest_rows(
    release: OpenRelease,
    vector: Floats,
    *,
    k: int,
    where: str | None = None,
    columns: list[str],
    without: str | None = None,
) -> pa.Table:
    """`columns` and `score` of the `k` nearest rows, best first, equal scores in the order of their item_ids."""
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k is {k}, must be from 1 to {MAX_K}")
    condition = None if where is None else lance_filter(where, release.columns)
    wanted = k + (without is not None)
    asked = wanted + 8
    while True:
        try:
            found = nearest(release.dataset, vector, k=asked, where=condition, columns=columns)
        except (ValueError, OSError, RuntimeError) as error:
            if where is None:
                raise
            raise bad_filter(where, str(error), release.columns) from error
        scores = np.round(1 - found["_distance"].to_numpy().astype(np.float64), SCORE_DIGITS)
        # Where a tie straddles the k-th place, all of it must be seen before the item_ids can decide.
        if len(found) < asked or asked >= MAX_K or scores.min() < np.partition(scores, -wanted)[-wanted]:
            break
        asked = min(asked * 4, MAX_K)
    found = found.drop_columns(["_distance"]).append_column("score", pa.array(scores))
    if without is not None:
        found = found.filter(pc.field("item_id") != without)
    return found.sort_by([("score", "descending"), ("item_id", "ascending")]).slice(0, k)


def json_value(value: Any) -> Any:
    """`value` as JSON can hold it: times in ISO 8601, bytes in base64, NaN as null, whole decimals as integers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    return value if value is None or isinstance(value, str | int) else str(value)


def _opened(image: Path | Image.Image, max_side: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    return open_query_image(image, IngestConfig(max_side=max_side, min_side=1))
