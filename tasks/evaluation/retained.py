"""Which release a challenger must not fall behind, beside the one that is served."""

import re
from collections.abc import Mapping, Sequence

from pairloom.storage.releases import Release, taken_back

RECALL = re.compile(r"text_to_image_recall@(\d+)")


def best_retained(retained: Sequence[Release]) -> Release | None:
    """Of some releases, newest first, the best whose model the newest doesn't serve; None where there is none.

    Best by the recalls that they were released with, which were measured on different items: those of the one chosen
    are measured anew. What a rollback took back is no measure.
    """
    newest, *older = retained
    wrong = taken_back(retained)
    found = [
        (recall, release.number, release)
        for release in older
        if release.number not in wrong
        and release.model_id != newest.model_id
        and (recall := headline(release.metrics)) is not None
    ]
    return max(found)[2] if found else None


def headline(metrics: Mapping[str, float]) -> float | None:
    """Mean of the headline metrics; None where nothing was measured."""
    values = [metrics[name] for name in headline_metrics(metrics)]
    return sum(values) / len(values) if values else None


def headline_metrics(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Names of recall at 10 (or at the largest k there is) both ways; none where nothing was measured."""
    ks = [int(found[1]) for name in metrics if (found := RECALL.fullmatch(name))]
    k = 10 if 10 in ks else max(ks, default=0)
    return (f"text_to_image_recall@{k}", f"image_to_text_recall@{k}") if ks else ()
