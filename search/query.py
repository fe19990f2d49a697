"""Nearest items: by text, by image, by another item, and by sums and differences of these."""

# N = rows, D = embedding

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.evaluation.hubness import corrected
from pairloom.models.evaluation.similarity import MEASURES, Metric
from pairloom.search.combination import Item, Part, Picture, named, weighed
from pairloom.search.diversity import POOL, diversified
from pairloom.search.duplicates import folded
from pairloom.search.embedding import item_vector, open_picture, query_vector
from pairloom.search.fitting import (
    cutoff_for,
    fitting,
    fitting_by_words,
    margin_for,
    require_cutoff,
    unmet_words,
)
from pairloom.search.fusion import fused
from pairloom.search.keywords import keyword_rows
from pairloom.search.nearest import SCORE_DIGITS, check_filter, corrects, nearest_rows
from pairloom.search.options import MAX_K, Options
from pairloom.search.release import OpenRelease, Reader
from pairloom.search.rerank import Scorer, image_scorer, text_scorer
from pairloom.search.results import EXTRA, Hit, SearchResult, hit_of
from pairloom.storage.releases import Cutoff
from pairloom.storage.schema import HUBNESS
from pairloom.storage.table.index import Floats

__all__ = [
    "MAX_K",
    "SCORE_DIGITS",
    "Hit",
    "Query",
    "SearchResult",
    "answer",
    "check_filter",
    "corrects",
    "item_vector",
    "nearest_rows",
    "query_vector",
    "ranked",
    "search",
]

MORE = 3
"""Times as many rows are looked at where copies of pictures left too few."""


@dataclass(frozen=True)
class Query:
    """What to search for: the sum of all that is given, less `minus`. At least one of the others must be given."""

    text: str | None = None
    image: Picture | None = None
    like: str | None = None
    """An item_id: finds items whose image is like that item's; the item itself is left out."""
    plus: tuple[Part, ...] = ()
    """Texts, pictures and items, each as it is or `Weighted`."""
    minus: tuple[Part, ...] = ()
    text_weight: float = 1.0
    """How much each text counts beside the images and the items, which count 1: its own weight is multiplied by it."""
    image_as: str | None = None
    """As which value of the column that chooses between two image towers the images are encoded; by the first tower
    where nothing is said."""
    vector: Floats | None = field(default=None, compare=False)
    """An embedding of the release's own model, of any length but 0: taken as a direction that counts 1."""

    @property
    def of_texts(self) -> bool:
        """Whether nothing but texts is given."""
        whole = (self.image, self.like, self.vector)
        parts = (thing for _, thing in map(weighed, (*self.plus, *self.minus)))
        return all(each is None for each in whole) and all(isinstance(each, str) for each in parts)

    @property
    def title(self) -> str:
        """The query in words, for people."""
        image = named(self.image) if self.image else None
        image = f"{image} as {self.image_as}" if image and self.image_as is not None else image
        like = f"like {self.like}" if self.like is not None else None
        vector = "a vector" if self.vector is not None else None
        given = (self.text, image, like, vector, *map(named, self.plus))
        return " + ".join(each for each in given if each is not None) + "".join(
            f" − {named(each)}" for each in self.minus
        )

    @property
    def words(self) -> str:
        """The texts that are looked for, in one."""
        given = (self.text, *(thing for _, thing in map(weighed, self.plus) if isinstance(thing, str)))
        return " ".join(each for each in given if each is not None)

    @property
    def items(self) -> frozenset[str]:
        """Ids of the items that it is made of."""
        parts = (thing for _, thing in map(weighed, (*self.plus, *self.minus)))
        own = {self.like} if self.like is not None else set()
        return frozenset(own | {each.item_id for each in parts if isinstance(each, Item)})


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
    options = Options(k=k, where=where, metric=metric, rerank=rerank, hubness=hubness, only_fitting=only_fitting)
    return answer(reader, query, options)


def answer(reader: Reader, query: Query, options: Options) -> SearchResult:
    """The same, as the options say. Pages of one query, told by `offset`, have no hit in common and leave none out."""
    release = reader.current
    options.check(release.columns)
    if options.where is not None:
        check_filter(release, options.where)
    metadata = metadata_of(release, options)
    rows = _Ranking(release, query, options, ["item_id", "texts", "path", "thumbnail", *metadata]).page()
    return results_of(release, options)(query, hits_of(rows, metadata))


def ranked(
    release: OpenRelease, query: Query, options: Options, *, depth: int, columns: Sequence[str]
) -> tuple[pa.Table, Cutoff | None]:
    """`columns` (`item_id` among them), `score` and, where a cut-off is known, `fits` of the first rows of all pages.

    At least `depth` of them, where there are so many; the order of those does not depend on `depth`. Beside them the
    cut-off. Raises ValueError as `answer` does.
    """
    ranking = _Ranking(release, query, options, list(columns))
    return ranking.told(ranking.rows(depth)), ranking.cutoff


def results_of(release: OpenRelease, options: Options) -> Callable[[Query, list[Hit]], SearchResult]:
    """Makes a result of a query and its hits."""
    types = pa.schema([release.dataset.schema.field(name) for name in metadata_of(release, options)])
    record = release.record

    def result(query: Query, hits: list[Hit]) -> SearchResult:
        return SearchResult.model_construct(
            release=record.number,
            model_id=record.model_id,
            title=query.title,
            cutoff=cutoff_for(release, query, options.target, hybrid=options.hybrid),
            unmet_words=unmet_words(release, query),
            hits=hits,
            offset=options.offset,
            where=options.where,
            types=types,
        )

    return result


def metadata_of(release: OpenRelease, options: Options) -> tuple[str, ...]:
    """The columns that hits bring as their metadata."""
    return tuple(release.record.keep) if options.columns is None else options.columns


def hits_of(rows: pa.Table, metadata: tuple[str, ...]) -> list[Hit]:
    """A hit a row: its columns are the hit's fields, and those of `metadata`."""
    extra = [name for name in EXTRA if name in rows.column_names]
    return [hit_of(row, metadata, **{name: row[name] for name in extra}) for row in rows.to_pylist()]


class _Ranking:
    """The rows that answer one query, best first."""

    def __init__(self, release: OpenRelease, query: Query, options: Options, columns: Sequence[str]) -> None:
        self.release = release
        self.query = query
        self.options = options
        self.cutoff = cutoff_for(release, query, options.target, hybrid=options.hybrid)
        if options.only_fitting:
            require_cutoff(release, self.cutoff)
        self._given = columns
        self._correct = corrects(release, query, options.hubness, options.target)
        self._scorer = None if options.rerank is None else _scorer(release, query)
        self._vector_D = query_vector(release, query)
        self._margin: float | None = None

    def page(self) -> pa.Table:
        """Those from `offset` on, with their scores by `metric`, and whether they fit where that is known."""
        options = self.options
        rows = self.told(self.rows(options.depth).slice(options.offset, options.k))
        if options.only_fitting:
            rows = rows.filter(rows["fits"])
        if options.metric != "cosine" and len(rows):
            measured = MEASURES[options.metric](self._vector_D[None], _vectors(rows, self._side))[0]
            scores = pa.array(measured.round(SCORE_DIGITS))
            rows = rows.set_column(rows.schema.get_field_index("score"), "score", scores)
        return rows

    def rows(self, depth: int) -> pa.Table:
        """At least `depth` of them, where there are so many."""
        rows = self._in_order(depth)
        if self.options.diversity:
            pool = rows.slice(0, POOL)
            order = diversified(self._standing(pool), _vectors(pool, "image_vector"), self.options.diversity)
            rows = pa.concat_tables([pool.take(order), rows.slice(POOL)])
        return rows

    def told(self, rows: pa.Table) -> pa.Table:
        """Rows with whether they fit, where that is known."""
        if self.cutoff is None:
            return rows
        fits = fitting(rows, self.cutoff, self._margin or 0.0)
        if self.options.hybrid:
            called = fitting_by_words(self.release, self.query, rows["texts"].to_pylist())
            fits = [fit or name for fit, name in zip(fits, called, strict=True)]
        return rows.append_column("fits", pa.array(fits, pa.bool_()))

    def _in_order(self, depth: int) -> pa.Table:
        """As many, in the order of their scores; copies of one picture folded where that is asked."""
        options = self.options
        wanted = max(depth, options.rerank or 0, POOL if options.diversity or options.hybrid else 0)
        if not options.collapse_duplicates:
            return self._reordered(wanted)
        while True:
            wanted = min(wanted * MORE, MAX_K)
            rows = self._reordered(wanted)
            different = _without_copies(rows)
            if len(different) >= depth or len(rows) < wanted or wanted == MAX_K:
                return different

    def _reordered(self, wanted: int) -> pa.Table:
        near = nearest_rows(
            self.release,
            self._vector_D,
            k=wanted,
            where=self.options.where,
            columns=self._columns,
            without=self.query.items,
            target=self.options.target,
            hubness=self._correct,
        )
        rows = near.rows
        if self._margin is None:
            self._margin = margin_for(self.release, self._vector_D, near, self.options.where, self.cutoff)
        if self.options.hybrid:
            rows = self._with_keywords(rows)
        if self._scorer:
            looked_at = max(self.options.k, self.options.rerank or 0)
            first, rest = rows.slice(0, looked_at), rows.slice(looked_at)
            first = first.append_column("rerank_score", pa.array(self._scorer(first), pa.float64()))
            first = first.sort_by([("rerank_score", "descending"), ("item_id", "ascending")])
            rest = rest.append_column("rerank_score", pa.nulls(len(rest), pa.float64()))
            rows = pa.concat_tables([first, rest])
        return rows

    def _with_keywords(self, rows: pa.Table) -> pa.Table:
        """Rows by both rankings made one: their first `POOL`, fused, then what is left of the nearest."""
        columns = [*self._columns, *([] if self._side in self._columns else [self._side])]
        found = keyword_rows(
            self.release,
            self.query.words,
            k=POOL,
            where=self.options.where,
            columns=columns,
            without=self.query.items,
        )
        near = rows["item_id"].to_pylist()
        by_words = dict(zip(found["item_id"].to_pylist(), found["keyword_score"].to_pylist(), strict=True))
        score = fused([near[:POOL], list(by_words)])
        fresh = found.filter(pc.invert(pc.is_in(found["item_id"], rows["item_id"].combine_chunks())))
        similar_N = [float(vector_D @ self._vector_D) for vector_D in fresh[self._side].to_numpy()]
        similar = pa.array(np.round(similar_N, SCORE_DIGITS), pa.float64())
        both = pa.concat_tables([rows, fresh.append_column("score", similar).select(rows.column_names)])
        ids = both["item_id"].to_pylist()
        both = both.append_column("fused_score", pa.array([score.get(each) for each in ids], pa.float64()))
        both = both.append_column("keyword_score", pa.array([by_words.get(each) for each in ids], pa.float64()))
        place = {item_id: place for place, item_id in enumerate(score)}
        return both.take(np.argsort([place.get(each, len(ids)) for each in ids], kind="stable"))

    def _standing(self, rows: pa.Table) -> npt.NDArray[np.float64]:
        """What each row stands at its place for; those that were not re-ranked, for a little less than the others."""
        name = next((each for each in ("rerank_score", "fused_score") if each in rows.column_names), "score")
        found: npt.NDArray[np.float64] = rows[name].to_numpy().astype(np.float64)
        if name == "score" and self._correct:
            found = corrected(found, rows[HUBNESS].to_numpy())
        lacking = np.isnan(found)
        if lacking.any():
            found = np.where(lacking, np.nanmin(found) - 1e-6, found)
        return found

    @property
    def _side(self) -> str:
        """The column that the query is compared with."""
        return f"{self.options.target}_vector"

    @property
    def _columns(self) -> list[str]:
        options = self.options
        names = [*self._given]
        if self._scorer or options.collapse_duplicates:
            names += ["texts", "thumbnail"]
        if options.hybrid and self.cutoff:
            names.append("texts")
        if options.metric != "cosine":
            names.append(self._side)
        if options.diversity or options.collapse_duplicates:
            names.append("image_vector")
        if self._correct or (self.cutoff and self.cutoff.corrected):
            names.append(HUBNESS)
        return list(dict.fromkeys(names))


def _without_copies(rows: pa.Table) -> pa.Table:
    """The first of the rows that show one picture, with the ids of the others as `collapsed`."""
    first_N = folded(_vectors(rows, "image_vector"), rows["thumbnail"].to_pylist())
    ids = rows["item_id"].to_pylist()
    copies: dict[int, list[str]] = {place: [] for place in np.unique(first_N).tolist()}
    for place, first in enumerate(first_N.tolist()):
        if place != first:
            copies[first].append(ids[place])
    kept = rows.take(list(copies))
    return kept.append_column("collapsed", pa.array(list(copies.values()), pa.list_(pa.string())))


def _vectors(rows: pa.Table, column: str) -> Floats:
    """The vectors of some rows, (N, D)."""
    found: Floats = np.stack(rows[column].to_numpy()) if len(rows) else np.empty((0, 1), np.float32)
    return found


def _scorer(release: OpenRelease, query: Query) -> Scorer:
    """The cross-encoder's view of the query. ValueError where it is not one text or one image."""
    several = query.like is not None or query.plus or query.minus or query.vector is not None
    if several or (query.text is None) == (query.image is None):
        raise ValueError("re-ranking reads one text or one image: leave the other parts of the query out")
    if query.text is not None:
        return text_scorer(release, query.text)
    assert query.image is not None
    return image_scorer(release, open_picture(release, query.image))
