"""Which release a challenger must not fall behind, beside the one that is served."""

import re
from collections.abc import Mapping, Sequence

from pairloom.storage.releases import Release, taken_back
from pairloom.tasks.refs import Plan, Verdict

RECALL = re.compile(r"text_to_image_recall@(\d+)")


def best_retained(retained: Sequence[Release]) -> Release | None:
    """Of some releases, newest first, the best whose model the newest doesn't serve; None where there is none.

    The one that the newest names; else by the recalls that they were released with, which were measured on different
    items: those of the one chosen are measured anew. What a rollback took back is no measure.
    """
    newest, *older = retained
    if named := [each for each in older if each.number == newest.best and each.measured != newest.measured]:
        return named[0]
    wrong = taken_back(retained)
    found = [
        (recall, release.number, release)
        for release in older
        if release.number not in wrong
        and release.measured != newest.measured
        and (recall := headline(release.metrics)) is not None
    ]
    return max(found)[2] if found else None


def best_measured(plan: Plan, champion: Release | None, verdict: Verdict | None) -> int | None:
    """`Release.best` of what follows on `champion`: it changes where a challenger that passed was measured beside it.

    Quality could else sink without end, by less at each release than the queries can tell.
    """
    if champion is None:
        return None
    if verdict is None or not verdict.passed or not verdict.champion_metrics:
        return champion.best
    contenders = (None, verdict.metrics), (plan.champion, verdict.champion_metrics), (plan.best, verdict.best_metrics)
    measured = [(recall, number) for number, metrics in contenders if (recall := headline(metrics)) is not None]
    return max(measured, key=lambda each: each[0], default=(0.0, champion.best))[1]


def headline(metrics: Mapping[str, float]) -> float | None:
    """Mean of the headline metrics; None where nothing was measured."""
    values = [metrics[name] for name in headline_metrics(metrics)]
    return sum(values) / len(values) if values else None


def headline_metrics(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Names of recall at 10 (or at the largest k there is) both ways; none where nothing was measured."""
    ks = [int(found[1]) for name in metrics if (found := RECALL.fullmatch(name))]
    k = 10 if 10 in ks else max(ks, default=0)
    return (f"text_to_image_recall@{k}", f"image_to_text_recall@{k}") if ks else ()
