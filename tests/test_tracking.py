"""Experiment trackers are told of a night, by what they write themselves, and can't hurt it."""

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.tiny_nights import Nights
from pairloom.flows.outcome import Night
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import Plan, Verdict
from pairloom.tasks.tracking.config import TrackingConfig
from pairloom.tasks.tracking.track import track

missing = pytest.mark.skipif(not find_spec("mlflow"), reason="needs pairloom[mlflow]")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Nights, Night, list[str]]:
    """A night that released, with every tracker that is installed."""
    # A new SQLite file takes MLflow a quarter of a minute; both are stores of its own.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    nights = Nights(tmp_path_factory.mktemp("tracked"))
    nights.prepare(1)
    tracking: dict[str, Any] = {
        "mlflow": str(nights.folder / "stored" / "mlruns"),
        "experiment": "first",
        "max_seconds": 600,
    }
    nights.changes = {"tracking": tracking}
    if find_spec("wandb"):
        nights.changes["tracking"] |= {"wandb": {"project": "shop", "mode": "offline"}}
    warnings: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage())

    handler = Listening(logging.WARNING)
    logging.getLogger("pairloom.tasks.tracking").addHandler(handler)
    night = nights.run()
    monkeypatch.undo()
    logging.getLogger("pairloom.tasks.tracking").removeHandler(handler)
    return nights, night, warnings


@missing
def test_mlflow_has_the_settings_the_training_step_by_step_the_metrics_and_the_release(
    told: tuple[Nights, Night, list[str]],
) -> None:
    nights, night, warnings = told
    assert (night.outcome, warnings) == ("released", [])
    assert night.seconds["track"] > 0
    # Its own files, not its client: that takes seconds to import.
    (run,) = nights.folder.glob("stored/mlruns/*/*/meta.yaml")
    assert yaml.safe_load((run.parents[1] / "meta.yaml").read_text())["name"] == "first"
    assert yaml.safe_load(run.read_text())["end_time"]
    assert (run.parent / "params/training.max_steps").read_text() == "3"
    figures = (run.parent / "metrics/text_to_image_recall_at_5").read_text().split()
    assert float(figures[1]) == night.metrics["text_to_image_recall@5"]
    tags = {path.name.removeprefix("pairloom."): path.read_text() for path in run.parent.glob("tags/pairloom.*")}
    assert (tags["release"], tags["released"], tags["model_id"]) == ("1", "true", night.model_id)
    lines = (run.parent / "metrics/training/loss").read_text().splitlines()
    curve = [json.loads(line) for line in (nights.stored / f"models/{night.model_id}/training.jsonl").open()]
    assert [int(line.split()[2]) for line in lines] == [line["step"] for line in curve]
    assert [float(line.split()[1]) for line in lines] == pytest.approx([line["loss"] for line in curve])


@pytest.mark.skipif(not find_spec("wandb"), reason="needs wandb")
def test_wandb_leaves_a_run_to_be_sent_later(told: tuple[Nights, Night, list[str]]) -> None:
    nights, night, warnings = told
    assert warnings == []
    (written,) = nights.folder.glob("stored/.tracking/wandb/offline-run-*/run-*.wandb")
    content = written.read_bytes()
    for said in (
        "text_to_image_recall@5",
        "training/loss",
        "pairloom.release",
        str(night.model_id),
        "training.max_steps",
    ):
        assert said.encode() in content, said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.01, "given up after 0.01 seconds"), (600.0, "pip install 'pairloom[mlflow]' (it is gone)")]
)
def test_a_tracker_that_fails_is_a_warning(
    seconds: float,
    said: str,
    told: tuple[Nights, Night, list[str]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "mlflow.py").write_text("raise ImportError('it is gone')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    nights, night, _ = told
    tracking = TrackingConfig(mlflow="sqlite:///late.db", max_seconds=seconds)
    pipeline: Pipeline = nights.pipeline.model_copy(update={"tracking": tracking})
    plan = Plan(
        action="retrain",
        reason="first release",
        run_id="late",
        snapshot=1,
        training_digest="",
        champion=None,
        champion_model=None,
        champion_rows=0,
        champion_metrics={},
        brings_rows=True,
    )
    verdict = Verdict(
        passed=True, model_id=night.model_id, metrics=night.metrics, champion_metrics={}, reasons=(), comparisons=()
    )
    with caplog.at_level(logging.WARNING):
        track(pipeline, plan, verdict, None)
    assert said in caplog.text
