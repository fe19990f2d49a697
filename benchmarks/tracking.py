"""MLflow's light client on a SQLite file, which is its own default: two nights told to it, and read back without it.

pip install 'pairloom[mlflow]'
python -m benchmarks.tracking
"""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from pairloom.tasks.tracking.config import TrackingConfig
from pairloom.tasks.tracking.night import TrackedNight
from pairloom.tasks.tracking.track import COMMAND, QUIET

STEPS = 150
"""More figures than a client takes in one call."""
READ = {
    "experiments": "SELECT name FROM experiments WHERE name = 'shop'",
    "runs": "SELECT status FROM runs",
    "params": "SELECT key, value FROM params",
    "metrics": "SELECT key, value, step FROM metrics",
    "tags": "SELECT key, value FROM tags WHERE key LIKE 'pairloom.%'",
}


def night(number: int, folder: Path) -> TrackedNight:
    """One that released."""
    return TrackedNight(
        tracking=TrackingConfig(mlflow="sqlite:///mlflow.db"),
        pipeline="shop",
        folder=str(folder),
        name=f"shop, night {number}",
        settings={"training.max_steps": str(STEPS), "model.architecture": "tiny-64"},
        training=[{"step": step, "loss": 1 / step} for step in range(1, STEPS + 1)],
        metrics={"text_to_image_recall@10": 0.5},
        tags={"release": str(number), "released": "true", "verdict": "passed"},
    )


def tell(number: int, folder: Path) -> dict[str, float]:
    """Seconds of the process that a night tells its trackers by."""
    began, before = time.monotonic(), os.times()
    said = night(number, folder).model_dump_json().encode()
    subprocess.run(COMMAND, input=said, cwd=folder, env={**QUIET, **os.environ}, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": round(time.monotonic() - began, 1), "cpu": round(cpu, 1)}


def main() -> None:
    """Prints what the nights took; raises where the file lacks something that was told."""
    with tempfile.TemporaryDirectory() as name:
        seconds = [tell(number, Path(name)) for number in (1, 2)]
        with closing(sqlite3.connect(Path(name) / "mlflow.db")) as database:
            found = {table: database.execute(query).fetchall() for table, query in READ.items()}
    counts = {table: len(rows) for table, rows in found.items()}
    if counts != {"experiments": 1, "runs": 2, "params": 4, "metrics": 2 * (STEPS + 1), "tags": 6}:
        raise RuntimeError(f"something was lost: {counts}")
    if {status for (status,) in found["runs"]} != {"FINISHED"}:
        raise RuntimeError(f"a run has not ended: {found['runs']}")
    sys.stdout.write(json.dumps({"first": seconds[0], "second": seconds[1], "rows": counts}) + "\n")


if __name__ == "__main__":
    main()
