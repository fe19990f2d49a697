"""A release with what it came from: code, configuration, data, models, time and cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairloom.flows.show.console import out, short
from pairloom.flows.show.line import Line
from pairloom.flows.show.model_facts import model_facts
from pairloom.models.evaluation.slices import overall, slices
from pairloom.storage.releases import Release, release_log

MOST_PARENTS = 20


def release_document(folder: Path, release: Release) -> dict[str, Any]:
    """What `pairloom show N --json` prints: the record, with the slices apart from the metrics and the lineage told."""
    return release.model_dump(mode="json") | {
        "metrics": overall(release.metrics),
        "intervals": {name: ends for name, ends in release.intervals.items() if "/" not in name},
        "slices": slices(release.metrics),
        "lineage": lineage_of(folder, release),
    }


def lineage_of(folder: Path, release: Release) -> dict[str, Any]:
    """What a release came from, as far as that was written down; `changed` are the keys beside the release before."""
    own, model = release.lineage, model_facts(folder, release.model_id)
    before = next((each for each in release_log(folder).written() if each.number < release.number), None)
    known = before.lineage if before else None
    return {
        "version": own.version if own else None,
        "config_digest": own.config_digest if own else None,
        "config": own.config if own else {},
        "changed": changed(known.config, own.config) if own and known else {},
        "before": before.number if before else None,
        "version_before": known.version if known else None,
        "snapshot": release.snapshot,
        "items": release.rows,
        "model": release.model_id,
        "model_snapshot": model.get("snapshot"),
        "pairs": model.get("pairs"),
        "parents": parents(folder, release.model_id),
        "steps": model.get("steps"),
        "samples": model.get("samples"),
        "training_seconds": model.get("seconds"),
        "seconds": own.seconds if own else {},
        "cost": own.cost if own else {},
        "currency": own.currency if own else "",
    }


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The keys that differ, each with its value before and now; None is the default."""
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return {key: [before.get(key), now.get(key)] for key in keys}


def parents(folder: Path, model_id: str) -> list[str]:
    """The models that a model was warm-started from, one after the other, as far as they are kept."""
    found: list[str] = []
    while (parent := model_facts(folder, model_id).get("parent")) and parent not in found and len(found) < MOST_PARENTS:
        found.append(parent)
        model_id = parent
    return found


def show_lineage(lineage: Mapping[str, Any]) -> None:
    """The same for people."""
    out.print(Line("lineage", style="bold"))
    asked = ("version", "config_digest", "model_snapshot", "pairs", "parents", "steps", "samples", "training_seconds")
    rows = {name: lineage[name] for name in asked if lineage[name] not in (None, [], {})}
    rows |= {name: _summed(lineage[name], unit) for name, unit in (("seconds", ""), ("cost", lineage["currency"]))}
    for name, value in rows.items():
        if value:
            out.print(Line(f"  {name:<16} {short(value)}"))
    for key, (before, now) in lineage["changed"].items():
        out.print(Line(f"  {key}: {_told(before)} → {_told(now)}, since release {lineage['before']}"))


def _summed(values: Mapping[str, float], unit: str) -> str:
    if not values:
        return ""
    said = ", ".join(f"{name} {value:,.4g}" for name, value in values.items())
    return f"{sum(values.values()):,.4g} {unit}".strip() + f" ({said})"


def _told(value: Any) -> str:
    return "the default" if value is None else str(value)
