"""What is stored and served, as rows to show."""

from pathlib import Path
from typing import Any

from pairloom.storage.corpus import Corpus
from pairloom.storage.releases import release_log


def pipeline_status(folder: Path) -> dict[str, Any]:
    """One pipeline's state: its corpus, its release, what the release does not serve yet."""
    snapshot = Corpus(folder).current()
    release = release_log(folder).current()
    return {
        "pipeline": folder.name,
        "folder": str(folder),
        "snapshot": snapshot.number,
        "items": snapshot.rows,
        "rejected": sum(part.rows for part in snapshot.quarantine),
        "release": release.number if release else None,
        "model_id": release.model_id if release else None,
        "served": release.rows if release else 0,
        "up_to_date": release is not None and release.snapshot_digest == snapshot.digest,
        "metrics": {name: value for name, value in release.metrics.items() if "/" not in name} if release else {},
    }


def release_rows(folder: Path) -> list[dict[str, Any]]:
    """The releases, newest first."""
    return [
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
