"""Whole nights of a small collection, as plain calls; killed ones as the command line runs them."""

import json
import shutil
import signal
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pytest
from child_processes import running
from nights import current, night
from PIL import Image
from safetensors.numpy import load_file, save_file

from pairloom.flows import stages
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.flows.outcome import Night
from pairloom.flows.plan import STAGES
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.escaping import markdown_text
from pairloom.storage.files import DamagedError
from pairloom.storage.garbage import collect_garbage
from pairloom.storage.modelstore import ModelStore, model_digest
from pairloom.storage.pairs import PairStore
from pairloom.storage.releases import release_log, roll_back, taken_back
from pairloom.storage.retention import RetentionConfig
from pairloom.storage.runs import Run
from pairloom.tasks.decide import decide, newer_than_training, snapshot_ref
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, Verdict
from pairloom.tasks.stage import listen

WritePipelines = Callable[..., Path]


@pytest.fixture
def file(tmp_path: Path, shapes: Path, write_pipelines: WritePipelines) -> Path:
    """pipelines.yaml over a collection that a test may change."""
    shutil.copytree(shapes, tmp_path / "shapes")
    return write_pipelines(tmp_path, tmp_path / "shapes")


@pytest.fixture
def released(tmp_path: Path, first_night: Path, write_pipelines: WritePipelines) -> Path:
    """The same where a first night has been."""
    shutil.copytree(first_night, tmp_path, dirs_exist_ok=True)
    return write_pipelines(tmp_path, tmp_path / "shapes")


def add_rows(file: Path, count: int, *, first: int = 0) -> None:
    """Append rows with pictures of their own to the captions."""
    folder = file.parent / "shapes"
    with (folder / "captions.jsonl").open("a", encoding="utf-8") as captions:
        for number in range(first, first + count):
            pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"noise-{number}.png")
            row = {"id": f"noise-{number}", "image": f"noise-{number}.png", "text": f"noise number {number}"}
            captions.write(json.dumps({**row, "group": f"noise {number}", "colour": "grey", "size": 64}) + "\n")


def served_ids(pipeline: Pipeline) -> list[str]:
    release = OpenRelease.open(pipeline.folder)
    ids: list[str] = release.dataset.to_table(columns=["item_id"])["item_id"].to_pylist()
    return sorted(ids)


def test_a_first_night_releases_and_a_second_one_finds_nothing_to_do(file: Path) -> None:
    first = night(file)
    assert (first.outcome, first.release, first.reason) == ("released", 1, "first release")
    assert first.rows == {
        "seen": 60, "new": 60, "updated": 0, "duplicate": 0, "filtered": 0, "quarantined": 0, "removed": 0,
        "removals_held": 0, "served": 60,
    }  # fmt: skip
    assert {"text_to_image_recall@10", "image_to_text_recall@10"} <= set(first.metrics)
    assert {"ingest", "mine", "train", "evaluate", "embed", "index", "publish"} <= set(first.seconds)
    before = sorted(path for path in file.parent.rglob("*") if path.is_file())
    second = night(file)
    assert (second.outcome, second.release, second.rows["new"], second.rows["served"]) == ("unchanged", 1, 0, 60)
    assert sorted(path for path in file.parent.rglob("*") if path.is_file()) == before
    pipeline = load_pipeline(file)
    assert len(set(served_ids(pipeline))) == 60
    assert not list((pipeline.folder / "runs").glob("*"))


def test_a_few_new_rows_are_embedded_by_the_champion(released: Path) -> None:
    first = current(released)
    champion_part = next((load_pipeline(released).folder / "embeddings").rglob("part-*.parquet"))
    written = champion_part.stat().st_mtime_ns
    add_rows(released, 3)
    second = night(released, "retrain.min_new_fraction=0.5")
    assert (second.outcome, second.release, second.rows["new"], second.rows["served"]) == ("released", 2, 3, 63)
    assert second.model_id == first.model_id
    assert "train" not in second.seconds
    assert champion_part.stat().st_mtime_ns == written
    assert "noise-2" in served_ids(load_pipeline(released))


def rewrite(file: Path, **changes: Callable[[dict[str, Any]], Any]) -> None:
    """Change keys of all rows."""
    captions = file.parent / "shapes" / "captions.jsonl"
    rows = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
    rows = [{**row, **{key: change(row) for key, change in changes.items()}} for row in rows]
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def served(pipeline: Pipeline, *columns: str) -> dict[str, tuple[Any, ...]]:
    rows = OpenRelease.open(pipeline.folder).dataset.to_table(columns=["item_id", *columns]).to_pylist()
    return {row["item_id"]: tuple(row[column] for column in columns) for row in rows}


def test_moved_pictures_and_renamed_sources_are_not_embedded_again_and_reach_the_table(released: Path) -> None:
    pipeline = load_pipeline(released)
    before = served(pipeline, "image_vector", "text_vector")
    (released.parent / "shapes" / "moved").mkdir()
    for picture in (released.parent / "shapes").glob("large-*.png"):
        picture.rename(picture.parent / "moved" / picture.name)
    rewrite(released, image=lambda row: f"moved/{row['image']}" if row["image"].startswith("large-") else row["image"])
    renamed = load_pipeline(released, overrides=["sources.0.name=drawings"])
    snapshot = stages.ingest(renamed)
    assert snapshot.rows_seen["updated"] == 60
    assert stages.embed(renamed).embedded == 0
    second = night(released, "sources.0.name=drawings")
    assert (second.outcome, second.rows["updated"], second.rows["new"]) == ("released", 60, 0)
    assert "train" not in second.seconds
    assert served(pipeline, "image_vector", "text_vector") == before
    found = served(pipeline, "path", "source")
    assert found["large-red-circle"] == ("moved/large-red-circle.png", "drawings")
    assert found["small-red-circle"] == ("small-red-circle.png", "drawings")


def test_a_changed_text_is_embedded_and_a_changed_price_or_split_is_not(released: Path) -> None:
    rewrite(released, text=lambda row: "a corrected text" if row["id"] == "small-red-circle" else row["text"])
    rewrite(released, size=lambda row: 77 if row["colour"] == "blue" else row["size"])
    pipeline = load_pipeline(released)
    assert stages.ingest(pipeline).rows_seen["updated"] == 11
    assert stages.embed(pipeline).embedded == 1
    second = night(released, "retrain.min_new_fraction=0.9")
    assert (second.outcome, second.rows["updated"]) == ("released", 11)
    assert served(pipeline, "texts")["small-red-circle"] == (["a corrected text"],)
    assert {size for colour, size in served(pipeline, "colour", "size").values() if colour == "blue"} == {77}
    third = night(released, "ingest.val_fraction=0.4", "retrain.min_new_fraction=0.9")
    assert (third.outcome, third.rows["new"], third.rows["removed"]) == ("released", 0, 0)
    assert third.rows["updated"] > 0
    corpus = Corpus(pipeline.folder)
    stored = corpus.table(corpus.current(), ["item_id", "split"]).to_pylist()
    assert served(pipeline, "split") == {row["item_id"]: (row["split"],) for row in stored}


def test_items_that_changed_under_their_ids_are_newer_than_the_last_training(released: Path) -> None:
    first = current(released)
    rewrite(released, size=lambda row: row["size"] + 1)
    assert night(released).reason == "new rows, too few to retrain"
    rewrite(released, text=lambda row: f"now {row['text']}")
    third = night(released, "gate.max_regression=1", "gate.rows.accept=true")
    assert third.reason.startswith("60 items (100.0%) are newer than the last training; accepted although 60 of 60")
    assert third.model_id != first.model_id


def test_a_record_of_a_training_from_before_snapshots_were_noted_counts_items(released: Path) -> None:
    pipeline = load_pipeline(released)
    release = release_log(pipeline.folder).current()
    assert release is not None
    assert release.training.snapshot == 1
    older = release.training.model_copy(update={"snapshot": None})
    rewrite(released, text=lambda row: f"now {row['text']}")
    snapshot = stages.ingest(pipeline)
    assert newer_than_training(pipeline, snapshot, release.training) == 60
    assert newer_than_training(pipeline, snapshot, older) == 0


def test_a_night_says_which_removals_it_holds_and_one_that_accepts_them_lets_go(released: Path) -> None:
    captions = released.parent / "shapes" / "captions.jsonl"
    captions.write_text("".join(captions.read_text("utf-8").splitlines(keepends=True)[:40]), encoding="utf-8")
    add_rows(released, 1)
    held = night(released)
    assert (held.outcome, held.rows["removals_held"], held.rows["removed"], held.rows["served"]) == (
        "released",
        20,
        0,
        61,
    )
    assert "20 of 60 items of shapes/captions would leave" in held.reason
    assert "--accept-removals" in held.reason
    again = night(released)
    assert (again.outcome, again.release, again.rows["served"]) == ("held", held.release, 61), "nothing else is new"
    assert "--accept-removals" in again.reason
    let_go = nightly(load_pipeline(released).accepting_removals())
    assert (let_go.outcome, let_go.rows["removals_held"], let_go.rows["removed"]) == ("released", 0, 20)
    assert len(served_ids(load_pipeline(released))) == 41


def test_a_night_that_another_one_began_counts_what_it_brings(released: Path) -> None:
    add_rows(released, 2)
    stages.ingest(load_pipeline(released))
    assert night(released, "retrain.min_new_fraction=0.9").rows["new"] == 2


def test_many_new_rows_bring_a_challenger_with_negatives_from_the_champion(released: Path) -> None:
    first = current(released)
    add_rows(released, 30)
    second = night(released, "gate.max_regression=1")
    assert second.outcome == "released"
    assert second.model_id != first.model_id
    pipeline = load_pipeline(released)
    audits = [json.loads(path.read_bytes()) for path in (pipeline.folder / "pairs").glob("*/audit.json")]
    assert {audit["negatives_from"] for audit in audits} == {"texts", first.model_id}
    lineage = json.loads((pipeline.folder / "models" / str(second.model_id) / "pairloom.json").read_bytes())
    assert lineage["parent"] == first.model_id


def test_mined_negatives_are_never_known_positives(released: Path) -> None:
    pipeline = load_pipeline(released)
    store = PairStore(pipeline.folder)
    pairs = store.read(next((pipeline.folder / "pairs").iterdir()).name).to_pylist()
    groups = {
        row["item_id"]: row["group"]
        for row in Corpus(pipeline.folder).table(Corpus(pipeline.folder).current(), ["item_id", "group"]).to_pylist()
    }
    negatives = [pair for pair in pairs if pair["relation"] == "negative"]
    positives = [pair for pair in pairs if pair["relation"] == "positive"]
    assert negatives
    assert all(groups[pair["anchor"]] != groups[pair["other"]] for pair in negatives)
    assert positives
    assert all(pair["kind"] == "group" and groups[pair["anchor"]] == groups[pair["other"]] for pair in positives)


def test_probes_are_measured_written_down_and_can_be_floors(file: Path) -> None:
    probed = ("evaluation.probes=[colour]", "gate.min.probe_colour_svm=0.0")
    first = night(file, *probed)
    assert (first.outcome, 0 < first.metrics["probe_colour_svm"] <= 1) == ("released", True)
    folder = load_pipeline(file).folder / "models" / str(first.model_id)
    low, high = json.loads((folder / "pairloom.json").read_bytes())["intervals"]["probe_colour_svm"]
    assert low <= first.metrics["probe_colour_svm"] <= high
    assert f"| {markdown_text('probe_colour_svm')} |" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_held_challenger_leaves_the_champion_which_embeds_the_new_rows(released: Path) -> None:
    first = current(released)
    add_rows(released, 30)
    held = night(released, "gate.min.text_to_image_recall@1=1.0")
    assert (held.outcome, held.release, held.model_id, held.rows["served"]) == ("held", 2, first.model_id, 90)
    assert "below its floor of 1.0000" in held.reason
    again = night(released, "gate.min.text_to_image_recall@1=1.0")
    assert (again.outcome, again.release) == ("unchanged", 2)


def test_a_challenger_is_compared_with_the_champion_and_the_best_retained_release(file: Path) -> None:
    gate = ("gate.max_regression=1", "gate.first=none", "ingest.val_fraction=0.3")
    first = night(file, *gate)
    second = night(file, *gate, "training.seed=1")
    assert [each.partition(" against ")[2].partition(" (")[0] for each in second.comparisons] == 2 * ["the champion"]
    third = night(file, *gate, "training.seed=2")
    assert [each.partition(" against ")[2].partition(" (")[0] for each in third.comparisons] == [
        "the champion",
        "the champion",
        "release 1",
        "release 1",
    ]
    assert len({first.model_id, second.model_id, third.model_id}) == 3
    shutil.rmtree(load_pipeline(file).folder / "models" / str(first.model_id))
    fourth = night(file, *gate, "training.seed=3")
    assert [each.partition(" against ")[2].partition(" (")[0] for each in fourth.comparisons[2:]] == 2 * ["release 2"]


def test_a_training_that_went_wrong_is_held_and_the_champion_embeds_the_new_rows(released: Path) -> None:
    first = current(released)
    add_rows(released, 30)
    wild = ("training.learning_rate=1e30", "training.warmup_fraction=0")
    held = night(released, *wild)
    assert (held.outcome, held.release, held.model_id, held.rows["served"]) == ("held", 2, first.model_id, 90)
    assert "training steps in a row went wrong" in held.reason
    release = release_log(load_pipeline(released).folder).current()
    assert release is not None
    assert release.metrics == first.metrics
    assert night(released, *wild).outcome == "unchanged"


def test_a_first_training_that_went_wrong_is_held(file: Path) -> None:
    held = night(file, "training.learning_rate=1e30", "training.warmup_fraction=0")
    assert (held.outcome, held.release, held.rows["served"]) == ("held", None, 0)


def test_a_first_model_that_learned_nothing_is_held_where_that_can_be_told(file: Path) -> None:
    nothing = ("ingest.val_fraction=0.4", "training.max_steps=1", "training.learning_rate=1e-9")
    held = night(file, *nothing)
    assert (held.outcome, held.release) == ("held", None)
    assert "no better than the" in held.reason
    assert night(file, *nothing, "gate.first=none").outcome == "released"


def test_a_floor_without_validation_items_holds_and_without_floors_a_first_model_is_released(file: Path) -> None:
    none = "ingest.val_fraction=0"
    held = night(file, none, "gate.min.text_to_image_recall@10=0.0")
    assert (held.outcome, held.release) == ("held", None)
    assert "can't be held against its floor of 0.0000" in held.reason
    assert night(file, none, "gate.when_unsure=hold").reason == "there are no validation items to measure on"
    released = night(file, none)
    assert (released.outcome, released.comparisons) == ("released", ("there are no validation items to measure on",))


def test_a_challenger_whose_embeddings_are_no_numbers_is_held(released: Path) -> None:
    first = current(released)
    add_rows(released, 30)
    pipeline = load_pipeline(released)
    for name in STAGES[:3]:
        getattr(stages, name)(pipeline)
    (challenger,) = set(ModelStore(pipeline.folder).ids()) - {first.model_id}
    weights = pipeline.folder / "models" / challenger / "open_clip_model.safetensors"
    save_file({name: np.full_like(tensor, np.nan) for name, tensor in load_file(weights).items()}, weights)
    renamed = model_digest(weights.parent)
    weights.parent.rename(weights.parents[1] / renamed)
    run = Run(pipeline.folder, decide(pipeline, snapshot_ref(pipeline)).run_id)
    trained = run.read("train", ModelRef)
    assert trained is not None
    run.write("train", trained.model_copy(update={"model_id": renamed}))
    for verdict in run.folder.glob("evaluate-*.json"):
        verdict.unlink()
    held = night(released)
    assert (held.outcome, held.release, held.model_id, held.rows["served"]) == ("held", 2, first.model_id, 90)
    assert "image embeddings are not finite" in held.reason


def test_a_challenger_whose_table_fails_its_check_is_held_and_not_built_again(released: Path) -> None:
    overrides = ("gate.max_regression=1",)
    first = current(released)
    add_rows(released, 30)
    pipeline = load_pipeline(released, overrides=overrides)
    for name in STAGES[:6]:
        getattr(stages, name)(pipeline)
    (challenger,) = set(ModelStore(pipeline.folder).ids()) - {first.model_id}
    store, snapshot = EmbeddingStore(pipeline.folder, challenger), Corpus(pipeline.folder).current()
    for part in snapshot.parts:
        ids = store.read(part)["item_id"].to_pylist()
        image_ND, text_ND = store.matrices(snapshot, ids)
        store.write(part, ids, 2 * image_ND, text_ND)
    held = night(released, *overrides)
    assert (held.outcome, held.release, held.model_id, held.rows["served"]) == ("held", 2, first.model_id, 90)
    assert "failed its check: 90 vectors hold NaN or aren't of length 1" in held.reason
    again = night(released, *overrides)
    assert (again.outcome, again.release) == ("unchanged", 2)


def test_a_held_first_challenger_releases_nothing_and_another_gate_judges_it_anew(file: Path) -> None:
    held = night(file, "gate.min.text_to_image_recall@1=1.0")
    assert (held.outcome, held.release, held.rows["served"]) == ("held", None, 0)
    pipeline = load_pipeline(file)
    (run,) = (pipeline.folder / "runs").iterdir()
    assert {path.suffix for path in run.iterdir()} == {".json", ".npz"}, "pixels and checkpoints are gone"
    with pytest.raises(ValueError, match="no release yet"):
        OpenRelease.open(pipeline.folder)
    notes: list[str] = []

    def night_heard() -> Night:
        listen(lambda stage, _done, _total, note: notes.extend([note] * (stage == "train")))
        return night(file, "gate.min.text_to_image_recall@1=0.0")

    released = copy_context().run(night_heard)
    assert released.outcome == "released"
    assert notes
    assert not [note for note in notes if "samples/s" in note], "what was trained is not trained again"


def test_the_stages_one_by_one_give_the_pairs_weights_vectors_and_release_of_a_night(
    file: Path, first_night: Path
) -> None:
    pipeline, whole = load_pipeline(file), load_pipeline(first_night / "pipelines.yaml")
    for name in STAGES:
        getattr(stages, name)(pipeline)
    found, expected = (release_log(each.folder).current() for each in (pipeline, whole))
    assert found is not None
    assert expected is not None
    assert (found.model_id, found.rows, found.metrics) == (expected.model_id, 60, expected.metrics)
    pairs = [PairStore(each.folder).read(next((each.folder / "pairs").iterdir()).name) for each in (pipeline, whole)]
    assert pairs[0] == pairs[1]
    vectors = []
    for each in (pipeline, whole):
        corpus = Corpus(each.folder)
        ids = corpus.table(corpus.current(), ["item_id"])["item_id"].to_pylist()
        vectors.append((ids, EmbeddingStore(each.folder, found.model_id).matrices(corpus.current(), ids)))
    assert vectors[0][0] == vectors[1][0]
    np.testing.assert_array_equal(vectors[0][1], vectors[1][1])


def test_a_stage_before_its_turn_says_what_to_run_first(file: Path) -> None:
    pipeline = load_pipeline(file)
    stages.ingest(pipeline)
    for stage, first in ((stages.train, "mine"), (stages.evaluate, "train"), (stages.embed, "evaluate")):
        with pytest.raises(ValueError, match=f"run `pairloom {first}`"):
            stage(pipeline)


def test_an_empty_corpus_is_a_failure_with_a_reason(file: Path) -> None:
    (file.parent / "shapes" / "captions.jsonl").write_text(
        '{"id": "1", "image": "x", "text": "", "group": 1}\nno json\n'
    )
    overrides = ("columns.keep={}", "evaluation.slices=[]")
    with pytest.raises(RuntimeError, match=r"of 2 rows none became one: .*text-empty"):
        night(file, *overrides, "ingest.max_rejected=1")
    held = night(file, *overrides)
    assert (held.outcome, held.release) == ("held", None)
    assert "2 of 2 rows" in held.reason


def test_a_rollback_lasts_until_something_new_comes(released: Path) -> None:
    overrides = ("retrain.min_new_fraction=0.9",)
    add_rows(released, 3)
    night(released, *overrides)
    pipeline = load_pipeline(released)
    back = roll_back(pipeline.folder, 1)
    assert (back.number, back.rolled_back_to) == (3, 1)
    assert len(served_ids(pipeline)) == 60
    for _ in range(2):
        quiet = night(released, *overrides)
        assert (quiet.outcome, quiet.release, quiet.rows["served"]) == ("unchanged", 3, 60)
        assert quiet.reason.startswith("release 2 was rolled back to release 1, and nothing is new since")
    add_rows(released, 1, first=3)
    again = night(released, *overrides)
    assert (again.outcome, again.release, again.rows["served"]) == ("released", 4, 64)


def test_a_person_may_bring_back_what_was_rolled_back(released: Path) -> None:
    overrides = ("retrain.min_new_fraction=0.9",)
    add_rows(released, 3)
    night(released, *overrides)
    folder = load_pipeline(released).folder
    roll_back(folder, 1)
    assert roll_back(folder, 2).number == 4
    assert taken_back(release_log(folder).newest_first()) == {3}
    quiet = night(released, *overrides)
    assert (quiet.outcome, quiet.reason, quiet.rows["served"]) == ("unchanged", "nothing new", 63)


def test_a_challenger_that_was_rolled_back_is_not_trained_again_before_something_is_new(released: Path) -> None:
    first = current(released)
    other = ("training.seed=1", "gate.max_regression=1")
    second = night(released, *other)
    assert (second.outcome, second.release) == ("released", 2)
    folder = load_pipeline(released).folder
    roll_back(folder, 1)
    quiet = night(released, *other)
    assert (quiet.outcome, quiet.release, quiet.model_id) == ("unchanged", 3, first.model_id)
    assert "train" not in quiet.seconds
    assert night(released).reason == "nothing new"
    changed = night(released, "training.seed=2", "gate.max_regression=1")
    assert (changed.outcome, changed.release) == ("released", 4)


def test_a_night_over_releases_that_are_not_whole_fails_and_names_the_files(released: Path) -> None:
    first = current(released)
    pipeline = load_pipeline(released)
    model = pipeline.folder / "models" / str(first.model_id)
    (model / "README.md").unlink()
    (model / "pairloom.json").unlink()
    assert night(released).outcome == "unchanged"
    weights = model / "open_clip_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    with pytest.raises(
        DamagedError, match=r"none of the 1 releases .* is whole.*open_clip_model\.safetensors is missing"
    ):
        night(released)
    assert len(list((pipeline.folder / "releases").iterdir())) == 1
    weights.write_bytes(content)
    # The lineage is gone, so nothing tells whether the champion has tonight's architecture.
    again = night(released, "training.seed=1", "gate.max_regression=1")
    assert (again.outcome, again.release) == ("released", 2)


def test_a_champion_whose_weights_are_damaged_embeds_nothing(released: Path) -> None:
    first = current(released)
    add_rows(released, 3)
    folder = load_pipeline(released).folder
    weights = folder / "models" / str(first.model_id) / "open_clip_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedError, match=r"the model of release 1 is not the one released: .*safetensors has other"):
        night(released, "retrain.min_new_fraction=0.9")
    assert release_log(folder).numbers() == [1]
    weights.write_bytes(content)
    assert night(released, "retrain.min_new_fraction=0.9").release == 2


def test_a_column_kept_later_reaches_the_table_and_the_metrics(file: Path) -> None:
    night(file, "columns.keep={colour: string}", "evaluation.slices=[]")
    second = night(file, "evaluation.slices=[size]", "training.seed=1", "gate.max_regression=1")
    assert (second.outcome, second.rows["updated"], second.rows["served"]) == ("released", 60, 60)
    assert {name.partition("/")[2] for name in second.metrics} >= {"size=20", "size=40"}
    assert "size" in OpenRelease.open(load_pipeline(file).folder).columns


def test_a_release_beyond_retention_is_gone_and_the_others_are_whole(released: Path) -> None:
    overrides = ("retrain.min_new_fraction=0.9", "retention.releases=2", "retention.grace_hours=0")
    for first in (0, 3, 6):
        night(released, *overrides)
        add_rows(released, 3, first=first)
    pipeline = load_pipeline(released)
    assert [release.number for release in release_log(pipeline.folder).newest_first()] == [3, 2]
    with pytest.raises(ValueError, match="no release 1: there are 2, 3"):
        roll_back(pipeline.folder, 1)
    assert roll_back(pipeline.folder, 2).number == 4


def tags(pipeline: Pipeline) -> list[int]:
    """Numbers of the releases that a table version is held for."""
    tables = [lance.dataset(str(path)) for path in (pipeline.folder / "vectors").glob("*.lance")]
    return sorted(int(name.split("-")[1]) for table in tables for name in table.tags.list())


def test_no_tag_outlives_retention_whatever_became_of_its_record(released: Path) -> None:
    few = "retrain.min_new_fraction=0.9"
    add_rows(released, 3)
    night(released, few)
    pipeline = load_pipeline(released)
    for back in (1, 2, 1):
        roll_back(pipeline.folder, back)
    (pipeline.folder / "releases" / "000002.json").write_bytes(b"")
    assert tags(pipeline) == [1, 2, 3, 4, 5]
    add_rows(released, 3, first=3)
    two = ("retention.releases=2", "retention.grace_hours=0")
    assert night(released, few, *two).release == 6
    assert tags(pipeline) == [1, 5, 6], "what release 5 went back to can be served as well"
    add_rows(released, 3, first=6)
    one = ("retention.releases=1", "retention.grace_hours=0")
    assert night(released, few, "training.seed=1", "gate.max_regression=1", *one).release == 7
    assert tags(pipeline) == [7]


def test_the_folder_of_a_released_model_never_changes(released: Path) -> None:
    other = ("training.seed=1", "gate.max_regression=1")
    second = night(released, *other)
    pipeline = load_pipeline(released, overrides=other)
    folder = pipeline.folder / "models" / str(second.model_id)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    roll_back(pipeline.folder, 1)

    def tried_again() -> Verdict:
        for name in STAGES[1:4]:
            ref = getattr(stages, name)(pipeline)
        assert isinstance(ref, Verdict)
        return ref

    assert tried_again().model_id == second.model_id
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    # Once nothing of it is left, it is described as a new one.
    collect_garbage(pipeline.folder, RetentionConfig(releases=1, grace_hours=0), ())
    assert not folder.exists()
    assert tried_again().model_id == second.model_id
    assert {path.name for path in folder.iterdir()} == {path.name for path in before}


def test_a_model_is_named_by_what_it_is(released: Path) -> None:
    folder = ModelStore(load_pipeline(released).folder).path(current(released).model_id)
    assert model_digest(folder) == folder.name
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert markdown_text("text_to_image_recall@10") in card


def test_plain_lancedb_with_open_clip_gives_the_same_hits(released: Path) -> None:
    pipeline = load_pipeline(released)
    release = OpenRelease.open(pipeline.folder)
    ours = [hit.item_id for hit in search(release, Query(text="a large red circle"), k=10).hits]
    table = lancedb.connect(pipeline.folder / "vectors").open_table(release.record.model_id)
    table.checkout(release.record.table_version)
    theirs = table.search("a large red circle").distance_type("cosine").limit(10).to_list()
    assert [row["item_id"] for row in theirs] == ours


def run_and_kill(file: Path, kind: str, count: int) -> None:
    """`pairloom run`, killed when it is about to name its `count`th file or folder of a kind, a regular expression."""
    program = """if True:
        import os, re, signal, sys
        from pairloom.flows.cli import main
        kind, left = sys.argv.pop(1), int(sys.argv.pop(1))
        def strike(event, arguments):
            global left
            if event == "os.rename" and re.search(kind, os.fspath(arguments[1])):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(strike)
        main()"""
    with running("-c", program, kind, str(count), "run", "--file", str(file), "--json") as process:
        assert process.wait() == -signal.SIGKILL


def test_nights_killed_in_training_and_embedding_end_as_undisturbed_ones(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines
) -> None:
    training = {"max_minutes": None, "max_steps": 40, "batch_size": 16, "threads": 1, "checkpoint_seconds": 0.05}
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
    calm = night(write_pipelines(tmp_path / "calm", shapes, training=training))
    file = write_pipelines(
        tmp_path / "killed", shapes, training=training, ingest={"max_side": 64, "part_rows": 1, "trim": False}
    )
    folder = load_pipeline(file).folder
    run_and_kill(file, "/checkpoints/step-", 2)
    assert len(list(folder.glob("runs/*/training/checkpoints/step-*[0-9]"))) == 1
    run_and_kill(file, "/embeddings/.*/part-", 5)
    assert len(list(folder.glob("embeddings/*/part-*.parquet"))) == 4
    assert release_log(folder).current() is None
    ended = night(file)
    assert (ended.outcome, ended.rows["new"], ended.rows["served"]) == ("released", 60, 60)
    assert len(set(served_ids(load_pipeline(file)))) == 60
    assert ended.metrics == calm.metrics
    weights = [
        (load_pipeline(each).folder / "models" / str(model) / "open_clip_model.safetensors").read_bytes()
        for each, model in ((tmp_path / "calm" / "pipelines.yaml", calm.model_id), (file, ended.model_id))
    ]
    assert weights[0] == weights[1]
