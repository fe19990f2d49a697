"""What is stored and served, as rows to show."""

from typing import Any

from storage.corpus import Corpus
from storage.releases import release_log
from tasks.pipeline import Pipeline


def pipeline_status(pipeline: Pipeline) -> dict[str, Any]:
    """One pipeline's state: its corpus, its release, what the release does not serve yet."""
    snapshot = Corpus(pipeline.folder).current()
    release = release_log(pipeline.folder).current()
    return {
        "pipeline": pipeline.name,
        "folder": str(pipeline.folder),
        "snapshot": snapshot.number,
        "items": snapshot.rows,
        "rejected": sum(part.rows for part in snapshot.quarantine),
        "release": release.number if release else None,
        "model_id": release.model_id if release else None,
        "served": release.rows if release else 0,
        "up_to_date": release is not None and release.snapshot_digest == snapshot.digest,
        "metrics": release.metrics if release else {},
    }


def release_rows(pipeline: Pipeline) -> list[dict[str, Any]]:
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
        for release in release_log(pipeline.folder).newest_first()
    ]
