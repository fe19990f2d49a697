"""What is stored and served, as rows to show."""

from pathlib import Path
from typing import Any

from pairloom.flows.show.model_facts import model_facts
from pairloom.storage.approvals import waiting
from pairloom.storage.corpus import Corpus
from pairloom.storage.quarantine import RejectedRows
from pairloom.storage.releases import Release, release_log
from pairloom.storage.secrets import redacted

WAITING = {"model_id", "since", "until", "figures"}
"""What is shown of a challenger that waits for approval."""


def pipeline_status(folder: Path) -> dict[str, Any]:
    """One pipeline's state: its corpus, what was rejected beside it, its release, what that does not serve yet."""
    corpus = Corpus(folder)
    snapshot = corpus.current()
    rejected = RejectedRows(corpus, snapshot).counts()
    release = release_log(folder).current()
    challenger = waiting(folder)
    return {
        "pipeline": folder.name,
        "folder": str(folder),
        "snapshot": snapshot.number,
        "items": snapshot.rows,
        "duplicates": sum(each.rows for each in rejected if each.outcome == "duplicate"),
        "filtered": sum(each.rows for each in rejected if each.outcome == "filtered"),
        "quarantined": sum(each.rows for each in rejected if each.outcome == "quarantined"),
        "reasons": {each.reason: each.rows for each in rejected},
        "release": release.number if release else None,
        "model_id": release.model_id if release else None,
        "measured_model": release.measured_model if release else None,
        "architecture": _architecture(folder, release),
        "served": release.rows if release else 0,
        "up_to_date": release is not None and release.snapshot_digest == snapshot.digest,
        "waiting": challenger.model_dump(mode="json", include=WAITING) if challenger else None,
        "metrics": {name: value for name, value in release.metrics.items() if "/" not in name} if release else {},
    }


def _architecture(folder: Path, release: Release | None) -> str | None:
    """The architecture of the model that is served, with what `auto` took it for; None where that isn't known."""
    model = model_facts(folder, release.model_id).get("model") if release else None
    if not isinstance(model, dict):
        return None
    return f"{model.get('architecture')} ({model['chosen']})" if model.get("chosen") else model.get("architecture")


def status_or_error(folder: Path) -> dict[str, Any]:
    """The same; of a pipeline whose state can't be told, only where it is and what is wrong, as `error`."""
    try:
        return pipeline_status(folder)
    except (ValueError, RuntimeError, OSError) as error:
        return {"pipeline": folder.name, "folder": str(folder), "error": redacted(str(error))}


def release_rows(folder: Path) -> list[dict[str, Any]]:
    """The releases, newest first; before them, with no number and no rows, the challenger that waits for approval."""
    rows: list[dict[str, Any]] = []
    if challenger := waiting(folder):
        rows.append(
            {
                "release": None,
                "created": challenger.since.strftime("%Y-%m-%d %H:%M"),
                "model_id": challenger.model_id,
                "snapshot": challenger.training.snapshot,
                "rows": None,
                "reason": challenger.waits(folder.name),
            }
        )
    return rows + [
        {
            "release": release.number,
            "created": release.created_at.strftime("%Y-%m-%d %H:%M"),
            "model_id": release.model_id,
            "snapshot": release.snapshot,
            "rows": release.rows,
            "reason": release.reason,
        }
        for release in release_log(folder).newest_first()
    ]
