"""What a query found, for people and programs: hits as objects, JSON, Arrow, pandas, and a grid for notebooks."""

import datetime
import html
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import BaseModel, Field

from pairloom.search.fitting import notes
from pairloom.storage.escaping import plain
from pairloom.storage.plain_values import json_value
from pairloom.storage.releases import Cutoff

if TYPE_CHECKING:
    import pandas as pd

GRID_COLUMNS, GRID_ROW = 5, 330
"""About how many hits stand beside one another in a notebook, and how many pixels they take."""
LISTED, LONGEST = 6, 200
"""Of a column's value: parts of a list, and characters, that people are shown."""


class Hit(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One item found."""

    item_id: str
    score: float
    """Similarity of the query and the item's image (or, for target text, its texts) by the metric asked for, rounded; a
    distance for `euclidean`."""
    fits: bool | None = None
    """Whether it reaches the release's cut-off for such a query; None where there is none."""
    rerank_score: float | None = None
    """What a re-ranked hit is ordered by instead; None for a hit that was not re-ranked."""
    fused_score: float | None = None
    """What a hit of a hybrid search is ordered by instead: large where it stands high in either ranking."""
    keyword_score: float | None = None
    """How well its texts hold the query's words (BM25); None where they hold none of them, or weren't asked."""
    collapsed: list[str] | None = None
    """Ids of further items that show the same picture; None where they weren't asked for."""
    texts: list[str]
    path: str | None
    metadata: dict[str, Any]
    """The pipeline's own columns, or those asked for."""
    thumbnail: bytes

    @property
    def shown_score(self) -> float:
        """What the hit stands at its place for."""
        better = (self.rerank_score, self.fused_score)
        return next((each for each in better if each is not None), self.score)


EXTRA = ("fits", "rerank_score", "fused_score", "keyword_score", "collapsed")
"""Fields that a hit has only where they were asked for, or can be known."""
GIVEN = ("item_id", "score", "texts", "path", "thumbnail")
_LACKING: dict[str, Any] = dict.fromkeys(Hit.model_fields)
_SET = {*Hit.model_fields}
_NOTHING_ELSE = (("__pydantic_extra__", None), ("__pydantic_private__", None))


def hit_of(row: Mapping[str, Any], metadata: Sequence[str], **given: Any) -> Hit:
    """A hit of a row of the table, of which some columns are its metadata; unchecked, since there may be thousands."""
    own = _LACKING | {name: row[name] for name in GIVEN if name not in given} | given
    own["metadata"] = {name: row[name] for name in metadata}
    # What `model_construct` does, without its look at every field's aliases and default: that took most of the time.
    hit = Hit.__new__(Hit)
    for name, value in (("__dict__", own), ("__pydantic_fields_set__", _SET), *_NOTHING_ELSE):
        object.__setattr__(hit, name, value)
    return hit


class SearchResult(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True):
    """Hits, best first, with the release and model they came from."""

    release: int
    model_id: str
    title: str
    cutoff: Cutoff | None = None
    """From which score on hits fit; None where none was measured for such a query."""
    unmet_words: tuple[str, ...] = ()
    """Words of the query that no training text of the model has: it can't know what they look like."""
    hits: list[Hit]
    offset: int = 0
    """Hits that were passed over."""
    where: str | None = None
    """The condition that the hits fulfil."""
    types: pa.Schema | None = Field(default=None, exclude=True, repr=False)
    """Of the columns in the hits' metadata."""

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
            "hits": [{name: json_value(value) for name, value in row.items()} for row in self.to_list()],
        }

    def to_list(self) -> list[dict[str, Any]]:
        """A dict a hit: item_id, score, texts, path, then its metadata; other scores only where they were asked for."""
        return [
            {
                "item_id": hit.item_id,
                "score": hit.score,
                **{name: value for name in EXTRA if (value := getattr(hit, name)) is not None},
                "texts": hit.texts,
                "path": hit.path,
                **hit.metadata,
            }
            for hit in self.hits
        ]

    def to_arrow(self) -> pa.Table:
        """The same as a table, a row a hit, with `rank` before and `thumbnail` (WebP bytes) behind.

        A column of the pipeline's own that is called `rank` stands in its place.
        """
        own = {
            "item_id": pa.string(),
            "score": pa.float64(),
            "fits": pa.bool_(),
            "rerank_score": pa.float64(),
            "fused_score": pa.float64(),
            "keyword_score": pa.float64(),
            "collapsed": pa.list_(pa.string()),
            "texts": pa.list_(pa.string()),
            "path": pa.string(),
        }
        asked = [name for name in own if name not in EXTRA or any(getattr(hit, name) is not None for hit in self.hits)]
        columns = {"rank": pa.array(range(self.offset + 1, self.offset + len(self.hits) + 1), pa.int64())}
        columns |= {name: pa.array([getattr(hit, name) for hit in self.hits], own[name]) for name in asked}
        types = {field.name: field.type for field in self.types or ()}
        names = list(types) or list(self.hits[0].metadata if self.hits else ())
        columns |= {name: pa.array([hit.metadata[name] for hit in self.hits], types.get(name)) for name in names}
        return pa.table(columns | {"thumbnail": pa.array([hit.thumbnail for hit in self.hits], pa.binary())})

    def to_pandas(self) -> "pd.DataFrame":
        """The same as a data frame."""
        return self.to_arrow().to_pandas()

    def show(self) -> None:
        """Show the hits: in a notebook as a grid of their pictures, elsewhere as lines on standard output."""
        if "IPython" in sys.modules:
            from IPython import get_ipython
            from IPython.display import HTML, display

            if get_ipython() is not None:
                display(HTML(self._repr_html_()))
                return
        sys.stdout.write(f"{self}\n")

    def __str__(self) -> str:
        lines = [f"{plain(self.title)} · release {self.release} · {len(self.hits)} hits"]
        lines += map(plain, self.notes)
        for hit in self.hits:
            mark, texts = "~ " if hit.fits is False else "", plain(" · ".join(hit.texts))[:120]
            lines.append(f"{mark}{hit.shown_score:.3f}  {plain(hit.item_id)}  {texts}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The page of `pairloom search --html`, in a frame that runs nothing and reaches nothing around it."""
        from pairloom.search.sheet import contact_sheet

        page = contact_sheet([(self.title, self)])
        height = 140 + GRID_ROW * max(1, math.ceil(len(self.hits) / GRID_COLUMNS))
        return (
            f'<iframe sandbox="" srcdoc="{html.escape(page, quote=True)}" '
            f'style="width:100%;height:{min(height, 900)}px;border:0"></iframe>'
        )


def shown_value(value: Any) -> str:
    """A column's value in one line, for people; not escaped."""
    match value:
        case None:
            return ""
        case float():
            return f"{value:.6g}"
        case bytes():
            return f"{len(value)} bytes"
        case datetime.datetime():
            return f"{value:%Y-%m-%d %H:%M}".removesuffix(" 00:00")
        case list():
            return ", ".join(map(shown_value, value[:LISTED])) + (f", … ({len(value)})" if len(value) > LISTED else "")
        case _:
            text = str(value)
            return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
