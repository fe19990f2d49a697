"""Nearest items: by text, by image, by another item, and by sums and differences of these."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from pydantic import BaseModel

from pairloom.models.evaluation.hubness import corrected
from pairloom.models.evaluation.similarity import MEASURES, Metric
from pairloom.search.filters import bad_filter, lance_filter
from pairloom.search.fitting import cutoff_for, fitting, notes, require_cutoff, unmet_words
from pairloom.search.release import OpenRelease, Reader
from pairloom.search.rerank import Scorer, image_scorer, text_scorer
from pairloom.storage.images.decoding import open_query_image
from pairloom.storage.plain_values import json_value
from pairloom.storage.releases import Cutoff
from pairloom.storage.schema import HUBNESS
from pairloom.storage.sealed import MAX_SECONDS, in_time
from pairloom.storage.table.index import Floats, nearest

if TYPE_CHECKING:
    from pairloom.models.arrays import Mask

MAX_K = 10_000
CORRECTED = 300
"""Nearest items that are ordered anew where hubs are corrected; those behind them stay as they are."""
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
    image_as: str | None = None
    """As which value of the column that chooses between two image towers the image is encoded; by the first tower
    where nothing is said."""

    @property
    def of_texts(self) -> bool:
        """Whether nothing but texts is given."""
        return self.image is None and self.like is None

    @property
    def title(self) -> str:
        """The query in words, for people."""
        image = self.image.name if isinstance(self.image, Path) else "an image" if self.image else None
        image = f"{image} as {self.image_as}" if image and self.image_as is not None else image
        given = (self.text, image, f"like {self.like}" if self.like is not None else None, *self.plus)
        return " + ".join(each for each in given if each is not None) + "".join(f" − {each}" for each in self.minus)


class Hit(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One item found."""

    item_id: str
    score: float
    """Similarity of the query and the item's image by the metric asked for, rounded; a distance for `euclidean`."""
    fits: bool | None = None
    """Whether it reaches the release's cut-off for such a query; None where there is none."""
    rerank_score: float | None = None
    """What a re-ranked hit is ordered by instead; None for a hit that was not re-ranked."""
    texts: list[str]
    path: str | None
    metadata: dict[str, Any]
    """The pipeline's own columns."""
    thumbnail: bytes

    @property
    def shown_score(self) -> float:
        """What the hit stands at its place for."""
        return self.score if self.rerank_score is None else self.rerank_score


class SearchResult(BaseModel, frozen=True, extra="forbid"):
    """Hits, best first, with the release and model they came from."""

    release: int
    model_id: str
    title: str
    cutoff: Cutoff | None = None
    """From which score on hits fit; None where none was measured for such a query."""
    unmet_words: tuple[str, ...] = ()
    """Words of the query that no training text of the model has: it can't know what they look like."""
    hits: list[Hit]

    @property
    def notes(self) -> list[str]:
        """What is to be known of the hits, a sentence each: words never met, and what doesn't fit."""
        return notes(self.unmet_words, self.cutoff, [hit.fits for hit in self.hits])

    def to_json(self) -> dict[str, Any]:
        """The document that `pairloom search --json` prints."""
        return {
            "release": self.release,
            "model_id": self.model_id,
            "unmet_words": list(self.unmet_words),
            "hits": [
                {
                    "item_id": hit.item_id,
                    "score": hit.score,
                    **({} if hit.fits is None else {"fits": hit.fits}),
                    **({} if hit.rerank_score is None else {"rerank_score": hit.rerank_score}),
                    "texts": hit.texts,
                    "path": hit.path,
                    **{name: json_value(value) for name, value in hit.metadata.items()},
                }
                for hit in self.hits
            ],
        }


def search(
    reader: Reader,
    query: Query,
    *,
    k: int = 10,
    where: str | None = None,
    metric: Metric = "cosine",
    rerank: int | None = None,
    hubness: bool | None = None,
    only_fitting: bool = False,
) -> SearchResult:
    """The `k` items of the reader's release nearest to `query` among those that fulfil the SQL condition `where`.

    All embeddings being L2-normalised, every `metric` gives the same hits in the same order, and scores of its own.
    With `rerank`, the cross-encoder orders the nearest `rerank` of them (`k` where that is more) before the best `k`
    are taken. `hubness` says whether hits for texts are ordered with their hubness taken off, None that they are where
    the release says so; the scores are the same. `only_fitting` leaves out those of the `k` that don't fit.

    Raises ValueError, in one line, for an empty query, an unknown item, an unreadable image or a malformed `where`, and
    where the model has no cross-encoder, the table no hubness, the release no cut-off for the query, or where it is
    none that the cross-encoder reads.
    """
    release = reader.current
    if where is not None:
        check_filter(release, where)
    keep = list(release.record.keep)
    columns = ["item_id", "texts", "path", "thumbnail", *keep]
    cutoff = cutoff_for(release, query)
    if only_fitting:
        require_cutoff(release, cutoff)
    scorer = None if rerank is None else _scorer(release, query)
    vector_D, wanted = query_vector(release, query), max(k, rerank or k)
    columns += [] if metric == "cosine" else ["image_vector"]
    columns += [HUBNESS] if cutoff and cutoff.corrected else []
    correct = corrects(release, query, hubness)
    rows = nearest_rows(release, vector_D, k=wanted, where=where, columns=columns, without=query.like, hubness=correct)
    if scorer:
        rows = rows.append_column("rerank_score", pa.array(scorer(rows), pa.float64()))
        rows = rows.sort_by([("rerank_score", "descending"), ("item_id", "ascending")]).slice(0, k)
    if metric != "cosine" and len(rows):
        found_KD = np.stack(rows["image_vector"].to_numpy())
        scores = MEASURES[metric](vector_D[None], found_KD)[0].round(SCORE_DIGITS)
    else:
        scores = rows["score"].to_numpy()
    hits = [
        Hit(
            item_id=row["item_id"],
            score=score,
            fits=fits,
            rerank_score=row.get("rerank_score"),
            texts=row["texts"],
            path=row["path"],
            metadata={name: row[name] for name in keep},
            thumbnail=row["thumbnail"],
        )
        for row, score, fits in zip(rows.to_pylist(), scores.tolist(), fitting(rows, cutoff), strict=True)
        if fits or not only_fitting
    ]
    return SearchResult(
        release=release.record.number,
        model_id=release.record.model_id,
        title=query.title,
        cutoff=cutoff,
        unmet_words=unmet_words(release, query),
        hits=hits,
    )


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
        parts.extend(np.asarray(weights, np.float32)[:, None] * release.embed_texts([*texts, *query.minus]))
    if query.image is not None:
        image = open_query_image(query.image, release.as_ingested)
        parts.extend(release.encoder.embed_images([image], _second_tower(release, query.image_as)))
    elif query.image_as is not None:
        raise ValueError(f"the query has no image to take as {query.image_as!r}")
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
    hubness: bool = False,
) -> pa.Table:
    """`columns` and `score` of the `k` nearest rows, best first, equal scores in the order of their item_ids.

    Scores that only their last bits could tell apart are equal. With `hubness`, the first `CORRECTED` are ordered by
    their scores less that.
    """
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k is {k}, must be from 1 to {MAX_K}")
    condition = None if where is None else lance_filter(where, release.columns, release.times)
    wanted = k + (without is not None)
    wanted = max(wanted, CORRECTED) if hubness else wanted
    asked = wanted + 8
    read = [*columns, HUBNESS] if hubness and HUBNESS not in columns else columns
    while True:
        try:
            find = partial(nearest, release.dataset, vector, k=asked, where=condition, columns=read)
            found = find() if where is None else in_time(find, MAX_SECONDS)
        except (ValueError, OSError, RuntimeError) as error:
            if where is None:
                raise
            raise bad_filter(where, str(error), release.columns) from error
        scores = _tied(1 - found["_distance"].to_numpy().astype(np.float64))
        # Where a tie straddles the k-th place, all of it must be seen before the item_ids can decide.
        if len(found) < asked or asked >= MAX_K or scores.min() < np.partition(scores, -wanted)[-wanted]:
            break
        asked = min(asked * 4, MAX_K)
    found = found.drop_columns(["_distance"]).append_column("score", pa.array(scores))
    if without is not None:
        found = found.filter(pc.field("item_id") != without)
    found = found.sort_by([("score", "descending"), ("item_id", "ascending")])
    return (_reordered(found) if hubness else found).slice(0, k).select([*columns, "score"])


def corrects(release: OpenRelease, query: Query, wanted: bool | None = None) -> bool:
    """Whether hits of `query` are ordered with their hubness taken off: it is of images, measured by texts.

    None as the release says. ValueError where it is wanted and the release's table doesn't hold it.
    """
    if wanted and HUBNESS not in release.columns:
        raise ValueError(f"release {release.record.number} was made without hubness: there is nothing to correct by")
    return query.of_texts and (release.record.hubness if wanted is None else wanted)


def _reordered(rows: pa.Table) -> pa.Table:
    """Rows, nearest first, of which the first `CORRECTED` are ordered by their corrected scores."""
    scores = corrected(rows["score"].to_numpy()[:CORRECTED], rows[HUBNESS].to_numpy()[:CORRECTED])
    # Stable: what is equally good stays in the order of scores and item_ids.
    order = np.argsort(-_tied(scores), kind="stable")
    return pa.concat_tables([rows.slice(0, len(order)).take(pa.array(order)), rows.slice(len(order))])


def check_filter(release: OpenRelease, where: str) -> None:
    """Raises ValueError, in one line, where `where` is no condition on the columns: before a model is loaded."""
    condition = lance_filter(where, release.columns, release.times)
    try:
        in_time(lambda: release.dataset.scanner(columns=["item_id"], filter=condition).explain_plan(), MAX_SECONDS)
    except (ValueError, OSError, RuntimeError) as error:
        raise bad_filter(where, str(error), release.columns) from error


def _tied(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scores rounded, those of copies to the same: a score counts as the best that is no more than a unit above it.

    Rounding alone would part copies whose last bits lie on two sides of an edge.
    """
    tied, best = np.empty_like(scores), math.inf
    for place in np.argsort(-scores, kind="stable"):
        if scores[place] < best - 10**-SCORE_DIGITS:
            best = scores[place]
        tied[place] = best
    return tied.round(SCORE_DIGITS)


def _second_tower(release: OpenRelease, value: str | None) -> "Mask | None":
    """Whether the second image tower encodes an image taken as `value`; ValueError where no item has that value."""
    if value is None:
        return None
    tower = release.encoder.second
    if tower is None:
        raise ValueError(f"release {release.record.number} has one image tower: leave out which one is for {value!r}")
    if value not in tower.values and tower.column in release.columns:
        from pairloom.models.towers.config import as_texts

        stored = release.dataset.to_table(columns=[tower.column])[tower.column].unique().to_pylist()
        known = sorted({text for each in stored for text in as_texts(each)})
        if value not in known:
            raise ValueError(f"no item's {tower.column} is {value!r}; there are {', '.join(known[:20])}")
    return tower.takes([value])


def _scorer(release: OpenRelease, query: Query) -> Scorer:
    """The cross-encoder's view of the query. ValueError where it is not one text or one image."""
    if query.like is not None or query.plus or query.minus or (query.text is None) == (query.image is None):
        raise ValueError("re-ranking reads one text or one image: leave the other parts of the query out")
    if query.text is not None:
        return text_scorer(release, query.text)
    assert query.image is not None
    return image_scorer(release, open_query_image(query.image, release.as_ingested))
