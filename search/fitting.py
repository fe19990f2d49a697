"""Whether hits fit: the release's cut-off for a kind of query, and the words of it that the model never met."""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pairloom.models.evaluation.hubness import corrected
from pairloom.models.towers.words import known_words
from pairloom.search.combination import weighed
from pairloom.search.exact import Side
from pairloom.search.nearest import SCORE_DIGITS, Near, nearest_rows
from pairloom.search.release import OpenRelease
from pairloom.storage.releases import Cutoff
from pairloom.storage.schema import HUBNESS
from pairloom.storage.table.index import Floats

if TYPE_CHECKING:
    from pairloom.search.query import Query

LEAST = 0.2
"""Share of what is there that a cut-off must find, to say of anything that it doesn't fit."""


def cutoff_for(release: OpenRelease, query: "Query", target: Side = "image", *, hybrid: bool = False) -> Cutoff | None:
    """The one measured with such queries: one text, image or item; None for sums and vectors, for the items' texts as
    the target, and where none was measured, or one that hardly finds anything: that tells only beside words (hybrid).
    """
    given = (query.text, query.image, query.like, *query.plus)
    if sum(each is not None for each in given) != 1 or query.minus or query.vector is not None or target != "image":
        return None
    found = release.record.cutoffs.get("text_to_image" if query.of_texts else "image_to_image")
    return found if found and (hybrid or found.true_finds >= LEAST) else None


def require_cutoff(release: OpenRelease, cutoff: Cutoff | None) -> None:
    """Raises ValueError where it isn't known what fits."""
    if cutoff is None:
        raise ValueError(
            f"release {release.record.number} has no cut-off for such a query: there are some for one text, image or "
            f"item where the validation items were enough to measure them, and {LEAST:.0%} of what is there is found"
        )


def fitting(rows: pa.Table, cutoff: Cutoff | None, margin: float) -> list[bool | None]:
    """Whether each of the rows, which have a `score`, reaches the cut-off for a query of such a margin among all items;
    None where there is none."""
    if cutoff is None:
        return [None] * len(rows)
    return reaching(rows["score"].to_numpy(), rows[HUBNESS].to_numpy() if cutoff.corrected else None, cutoff, margin)


def margin_for(release: OpenRelease, vector: Floats, near: Near, where: str | None, cutoff: Cutoff | None) -> float:
    """The query's margin among all items, whichever `where` left to `near`: what fits doesn't depend on that. 0 where
    the cut-off doesn't weigh it."""
    if cutoff is None or not cutoff.margin_weight:
        return 0.0
    return near.margin if where is None else nearest_rows(release, vector, k=1, columns=["item_id"]).margin


def reaching(
    scores: npt.NDArray[np.float64], hubness: npt.NDArray[np.floating] | None, cutoff: Cutoff, margin: float
) -> list[bool | None]:
    """Whether each of some cosine similarities to one query reaches the cut-off; `hubness` where that is of corrected
    scores."""
    if hubness is not None:
        scores = corrected(scores, hubness)
    found: list[bool | None] = ((scores + cutoff.margin_weight * margin).round(SCORE_DIGITS) >= cutoff.score).tolist()
    return found


def unmet_words(release: OpenRelease, query: "Query") -> tuple[str, ...]:
    """The query's words that no training text has; none where nobody knows them."""
    parts = [thing for _, thing in map(weighed, (*query.plus, *query.minus))]
    texts = [each for each in (query.text, *parts) if isinstance(each, str)]
    words = [word for text in texts for word in known_words(text)]
    known = release.model.words if words else None
    return () if known is None else tuple(word for word in dict.fromkeys(words) if word not in known)


def fitting_by_words(release: OpenRelease, query: "Query", texts: Sequence[Sequence[str]]) -> list[bool]:
    """Whether an item, for the texts of each, is called what the query says, whatever its cosine.

    It is where one of its texts has the query's words and no others, or where they have all words of the query that
    the model never met, if there are some. Upper case, accents and order don't count.
    """
    known = release.model.words or frozenset()
    unmet = [word for word in unmet_words(release, query) if unaccented(word) not in known]
    return called(query.words, unmet, texts)


def called(asked: str, unmet: Sequence[str], texts: Sequence[Sequence[str]]) -> list[bool]:
    """The same for a text and those of its words that the model never met."""
    said, strange = _words(asked), {unaccented(word) for word in unmet}
    found = []
    for own in texts:
        each = [_words(text) for text in own]
        found.append(said in each or (bool(strange) and strange <= set().union(*each)))
    return found


def _words(text: str) -> set[str]:
    return set(known_words(unaccented(text)))


def unaccented(text: str) -> str:
    """A text without its accents."""
    parted = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFC", "".join(each for each in parted if not unicodedata.combining(each)))


def notes(unmet: Sequence[str], cutoff: Cutoff | None, fits: Sequence[bool | None]) -> list[str]:
    """What is to be known of hits, a sentence each."""
    said = []
    if unmet:
        said.append(f"no training text has {', '.join(map(repr, unmet))}: the model can't know what that looks like")
    if cutoff and not any(fits):
        said.append("nothing fits")
    elif cutoff and not all(fits):
        said.append(f"{sum(each is False for each in fits)} of {len(fits)} hits don't fit")
    return said
