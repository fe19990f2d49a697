"""Two rankings made one: reciprocal rank fusion (Cormack, Clarke and Büttcher 2009)."""

from collections.abc import Sequence

CONSTANT = 60
"""What is added to every rank, as in the paper: how much the first few places of a ranking outweigh the others."""
SCORE_DIGITS = 6


def fused(rankings: Sequence[Sequence[str]]) -> dict[str, float]:
    """The sum of 1 / (60 + rank) over the rankings that hold an id, ranks from 1; best first, each id once.

    Of ids with one sum that comes first which stands better in the last ranking that tells them apart.
    """
    places = [{item_id: place for place, item_id in enumerate(ranking, 1)} for ranking in rankings]
    ids = {item_id for own in places for item_id in own}
    score = {
        item_id: round(sum(1 / (CONSTANT + own[item_id]) for own in places if item_id in own), SCORE_DIGITS)
        for item_id in ids
    }
    last = max(map(len, rankings), default=0) + 1
    order = sorted(ids, key=lambda each: (-score[each], [own.get(each, last) for own in reversed(places)], each))
    return {item_id: score[item_id] for item_id in order}
