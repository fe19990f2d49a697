"""A challenger that passed learns from all items and serves; all that is compared is the model before that."""

import json
import shutil
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path

import pytest
from nights import current, folder, night

from pairloom.flows.approval import approve_waiting
from pairloom.flows.config import load_pipeline
from pairloom.flows.outcome import Night
from pairloom.models.training.config import REFIT_RATE, TrainingConfig
from pairloom.search.answer_diff import Questions
from pairloom.search.diff import compare
from pairloom.search.release import OpenRelease
from pairloom.storage.approvals import require_waiting, waiting_models
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import DamagedError
from pairloom.storage.garbage import collect_garbage
from pairloom.storage.modelstore import ModelStore, model_digest
from pairloom.storage.releases import roll_back
from pairloom.storage.retention import RetentionConfig
from pairloom.storage.runs import Run
from pairloom.storage.verify import verify
from pairloom.tasks.calibration.known import Known
from pairloom.tasks.calibration.measured import measured_cutoffs
from pairloom.tasks.refs import Refit, TableRef, Verdict
from pairloom.tasks.stage import listen
from pairloom.tasks.training.refitting import fallen

WritePipelines = Callable[..., Path]

TRAINING = {"max_minutes": None, "max_steps": 4, "batch_size": 16, "threads": 1, "refit": 0.5}
GATE = {"max_regression": 1, "first": "none", "floor": "off"}
SEARCH = {"max_false_finds": 0.5}
FEW = "retrain.min_new_fraction=0.9"


@pytest.fixture(scope="module")
def refitted(
    shapes: Path, write_pipelines: WritePipelines, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Night]:
    """A folder whose release 1 is a refit, and the night that made it. Shared: tests copy it."""
    folder = tmp_path_factory.mktemp("refitted")
    shutil.copytree(shapes, folder / "shapes")
    file = write_pipelines(folder, Path("shapes"), training=TRAINING, gate=GATE, search=SEARCH)
    return folder, night(file)


@pytest.fixture
def file(refitted: tuple[Path, Night], tmp_path: Path) -> Path:
    """pipelines.yaml of a copy."""
    return shutil.copytree(refitted[0], tmp_path / "copy") / "pipelines.yaml"


def rename(file: Path, old: str, new: str) -> None:
    """Give some items other texts."""
    captions = file.parent / "shapes" / "captions.jsonl"
    captions.write_text(captions.read_text("utf-8").replace(old, new), encoding="utf-8")


def test_a_refit_serves_and_says_what_was_measured_on_what(refitted: tuple[Path, Night]) -> None:
    file, first = refitted[0] / "pipelines.yaml", refitted[1]
    release = current(file)
    assert (first.outcome, first.model_id, first.measured_model) == ("released", release.model_id, release.measured)
    assert release.measured not in (None, release.model_id)
    assert release.metrics == first.metrics
    assert f"model {release.model_id} is model {release.measured}, which was measured, after 2" in first.comparisons[-1]
    models = ModelStore(folder(file))
    assert {each: model_digest(models.path(each)) for each in models.ids()} == {each: each for each in models.ids()}
    served, measured = (
        json.loads((models.path(each) / "pairloom.json").read_bytes()) for each in (release.model_id, release.measured)
    )
    assert served["metrics"] == measured["metrics"] == release.metrics
    assert (served["parent"], measured["parent"]) == (release.measured, None)
    assert (served["refit"]["items"], served["refit"]["steps"], measured["steps"]) == (60, 2, 4)
    assert served["refit"]["metrics"].keys() >= {"text_to_image_recall@10"}
    card = (models.path(release.model_id) / "README.md").read_text("utf-8")
    assert f"Model {release.measured} was trained on the training items alone" in card
    assert "What was measured" not in (models.path(str(release.measured)) / "README.md").read_text("utf-8")
    assert not any(name.startswith(f"models/{release.measured}/") for name in release.needed)
    assert OpenRelease.open(folder(file)).search("a red circle", k=3).hits


def test_cutoffs_come_from_the_model_that_has_not_seen_the_validation_items(file: Path) -> None:
    own = current(file).cutoffs
    assert own["text_to_image"].queries
    # The table's vectors are of the refit: cut-offs of these would be others.
    pipeline = load_pipeline(file)
    release = current(file)
    ref = TableRef(
        model_id=release.model_id,
        snapshot=release.snapshot,
        path=release.table,
        version=release.table_version,
        rows=release.rows,
        dimension=release.dimension,
        index=None,
        ann_recall=None,
    )
    most = pipeline.search.max_false_finds
    assert most is not None
    assert measured_cutoffs(pipeline, ref, release.measured, most, Known()).cutoffs == own
    assert measured_cutoffs(pipeline, ref, release.model_id, most, Known()).cutoffs != own


def test_nights_after_a_refit_compare_and_mine_with_the_measured_model(file: Path) -> None:
    first = current(file)
    assert (night(file).outcome, night(file).reason) == ("unchanged", "nothing new")

    rename(file, "a large red circle", "a big red circle")
    second = night(file, FEW)
    release = current(file)
    assert (second.outcome, "refit" in second.seconds) == ("released", False)
    assert (release.model_id, release.measured, release.cutoffs) == (first.model_id, first.measured, first.cutoffs)
    snapshot = Corpus(folder(file)).current()
    for model_id in (first.model_id, first.measured):
        assert not EmbeddingStore(folder(file), model_id).missing(snapshot)

    anew = "training.seed=1"
    held = night(file, anew, "gate.min.text_to_image_recall@1=1.0")
    assert (held.outcome, "refit" in held.seconds) == ("held", False)
    third = night(file, anew)
    last = current(file)
    assert (third.outcome, third.release, last.number) == ("released", 3, 3)
    assert len({first.model_id, first.measured, last.model_id, last.measured}) == 4
    measured = json.loads((ModelStore(folder(file)).path(last.measured) / "pairloom.json").read_bytes())
    assert measured["parent"] == first.measured
    audits = [json.loads(path.read_bytes()) for path in (folder(file) / "pairs").glob("*/audit.json")]
    assert {audit["negatives_from"] for audit in audits} == {"texts", first.measured}

    sides = compare(folder(file), 1, 3, Questions(sampled=1), lambda *_: None)
    assert (sides.before.measured_model, sides.after.measured_model) == (first.measured, last.measured)
    assert verify(folder(file), 7).whole
    assert roll_back(folder(file), 1).measured == first.measured
    back = night(file, anew)
    assert (back.outcome, back.release, back.model_id, back.measured_model) == (
        "unchanged",
        4,
        first.model_id,
        first.measured,
    )
    collect_garbage(folder(file), RetentionConfig(releases=1, grace_hours=0), ())
    assert {*ModelStore(folder(file)).ids()} == {first.model_id, first.measured}


def test_a_refit_that_was_interrupted_goes_on_waits_for_a_person_and_ends_the_same(
    refitted: tuple[Path, Night], tmp_path: Path, write_pipelines: WritePipelines
) -> None:
    asking = {**GATE, "approval": "person"}
    file = write_pipelines(tmp_path, refitted[0] / "shapes", training=TRAINING, gate=asking, search=SEARCH)

    def interrupt(stage: str, done: float, total: float | None, note: str) -> None:  # noqa: ARG001
        if stage == "refit" and "loss" in note:
            raise KeyboardInterrupt

    def interrupted_night() -> None:
        listen(interrupt)
        night(file)

    with pytest.raises(KeyboardInterrupt):
        copy_context().run(interrupted_night)
    (run,) = (folder(file) / "runs").iterdir()
    measured = json.loads((run / "train.json").read_bytes())["model_id"]
    assert (run / "refit" / "pixels.npy").is_file()
    held = night(file)
    assert (held.outcome, held.release, held.trained) == ("held", None, measured)
    released = current(refitted[0] / "pipelines.yaml")
    challenger = require_waiting(folder(file))
    assert (challenger.model_id, challenger.measured) == (released.model_id, released.measured)
    assert challenger.comparisons[-1].endswith("after 2 further steps on all 60 items")
    assert waiting_models(folder(file)) == {released.model_id, measured}
    assert not Run(folder(file), run.name).scratch()
    assert {*ModelStore(folder(file)).ids()} == {released.model_id, measured}
    approved = approve_waiting(load_pipeline(file), by="Ada")
    assert (approved.outcome, approved.model_id, approved.measured_model) == ("released", released.model_id, measured)
    assert current(file).metrics == released.metrics


def test_damage_to_a_measured_model_harms_no_reader_and_stops_nights_that_need_it(file: Path) -> None:
    release = current(file)
    weights = folder(file) / "models" / release.measured / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert OpenRelease.open(folder(file)).search("a red circle", k=3).hits
    (finding,) = verify(folder(file), 7).findings
    assert (finding.kind, finding.releases, finding.repair) == ("measured model", (1,), "none")
    assert night(file).outcome == "unchanged"
    rename(file, "a large red circle", "a big red circle")
    with pytest.raises(DamagedError, match="that was measured for release 1 is not the one measured"):
        night(file)


def test_without_a_refit_configurations_are_what_they_were_and_records_name_one_model() -> None:
    assert "refit" not in TrainingConfig().shape
    assert TrainingConfig(refit=0.2).shape["refit"] == 0.2
    further = TrainingConfig(refit=0.25, max_minutes=5).further(401)
    assert (further.max_minutes, further.max_steps, further.refit) == (None, 100, None)
    assert further.learning_rate == REFIT_RATE * TrainingConfig().learning_rate
    assert [TrainingConfig(refit=0.1).further(steps).max_steps for steps in (1, 0)] == [1, 0]


def test_a_refit_serves_only_where_no_headline_metric_fell() -> None:
    before = {"text_to_image_recall@10": 0.5, "image_to_text_recall@10": 0.4, "text_to_image_recall@1": 0.3}
    assert fallen(before, {**before, "text_to_image_recall@1": 0.0}, 0.01) == ""
    assert fallen(before, {**before, "image_to_text_recall@10": 0.395}, 0.01) == ""
    said = fallen(before, {**before, "image_to_text_recall@10": 0.3}, 0.01)
    assert said == "image_to_text_recall@10 fell from 0.4000 to 0.3000 on items that it has learned from"
    verdict = Verdict(passed=True, model_id="m", metrics={}, champion_metrics={}, reasons=(), comparisons=())
    for serves, model_id in ((True, "r"), (False, "m")):
        refit = Refit(model_id="r", serves=serves, said="")
        assert verdict.model_copy(update={"refit": refit}).serving == model_id
