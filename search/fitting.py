"""Whether hits fit: the release's cut-off for a kind of query, and the words of it that the model never met."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from pairloom.models.evaluation.hubness import corrected
from pairloom.models.towers.words import known_words
from pairloom.search.release import OpenRelease
from pairloom.storage.releases import Cutoff
from pairloom.storage.schema import HUBNESS

if TYPE_CHECKING:
    from pairloom.search.query import Query

SCORE_DIGITS = 6


def cutoff_for(release: OpenRelease, query: "Query") -> Cutoff | None:
    """The one measured with such queries: one text, image or item; None for sums, and where none was measured."""
    given = (query.text, query.image, query.like, *query.plus)
    if sum(each is not None for each in given) != 1 or query.minus:
        return None
    return release.record.cutoffs.get("text_to_image" if query.of_texts else "image_to_image")


def require_cutoff(release: OpenRelease, cutoff: Cutoff | None) -> None:
    """Raises ValueError where it isn't known what fits."""
    if cutoff is None:
        raise ValueError(
            f"release {release.record.number} has no cut-off for such a query: there are some for one text, image or "
            "item where the validation items were enough to measure them"
        )


def fitting(rows: pa.Table, cutoff: Cutoff | None) -> list[bool | None]:
    """Whether each of the rows, which have a `score`, reaches the cut-off; None where there is none."""
    if cutoff is None:
        return [None] * len(rows)
    scores = rows["score"].to_numpy()
    if cutoff.corrected:
        scores = corrected(scores, rows[HUBNESS].to_numpy())
    found: list[bool | None] = (scores.round(SCORE_DIGITS) >= cutoff.score).tolist()
    return found


def unmet_words(release: OpenRelease, query: "Query") -> tuple[str, ...]:
    """The query's words that no training text has; none where nobody knows them."""
    words = [word for text in (query.text, *query.plus, *query.minus) if text for word in known_words(text)]
    known = release.model.words if words else None
    return () if known is None else tuple(word for word in dict.fromkeys(words) if word not in known)


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
