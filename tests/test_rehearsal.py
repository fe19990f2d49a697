"""A fresh process opens and searches a proposal before it is published: real releases, damaged in between."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
import yaml
from child_processes import wait_until
from conftest import COLOURS, SHAPES, SIZES
from nights import night
from test_interrupts import HEARS, runs, started
from test_nightly import add_rows, served_ids
from typer.testing import CliRunner

from pairloom.flows import rehearsal, stages
from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline
from pairloom.flows.plan import STAGES
from pairloom.flows.rehearsal import in_fresh_process, rehearse
from pairloom.flows.show.report import markdown
from pairloom.models.evaluation.config import GoldenQuery
from pairloom.search import rehearsal as own
from pairloom.search.query import Query, search
from pairloom.search.rehearsal import Script
from pairloom.search.release import OpenRelease
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.escaping import markdown_text
from pairloom.storage.files import DamagedError
from pairloom.storage.modelstore import model_digest, recorded_digest
from pairloom.storage.releases import release_log
from pairloom.storage.runs import Run
from pairloom.tasks.decide import decide, snapshot_ref, verdict_name
from pairloom.tasks.embed import embed
from pairloom.tasks.index import index
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.publish import propose
from pairloom.tasks.refs import CutoffsRef, Proposal, TableRef, Verdict

WritePipelines = Callable[..., Path]
FEW = "retrain.min_new_fraction=0.9"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: WritePipelines) -> Path:
    """A folder with a pipeline whose first challenger passed and has embedded everything. Shared: copy it."""
    folder = tmp_path_factory.mktemp("embedded")
    pipeline = load_pipeline(write_pipelines(folder, shapes))
    for name in STAGES[:6]:
        getattr(stages, name)(pipeline)
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, embedded: Path, shapes: Path) -> Path:
    """The same once it is released, over a collection of its own. Shared: copy it."""
    folder = tmp_path_factory.mktemp("released") / "copy"
    file = copied(embedded, folder)
    assert night(file).outcome == "released"
    shutil.copytree(shapes, folder / "shapes")
    document = yaml.safe_load(file.read_text())
    document["pipelines"]["shapes"]["sources"][0] |= {"path": "shapes/captions.jsonl", "name": "captions.jsonl"}
    file.write_text(yaml.safe_dump(document))
    return folder


def copied(folder: Path, to: Path) -> Path:
    """The file of pipelines in a copy."""
    shutil.copytree(folder, to)
    return to / "pipelines.yaml"


def table_of(pipeline: Pipeline) -> TableRef:
    plan = decide(pipeline, snapshot_ref(pipeline))
    verdict = Run(pipeline.folder, plan.run_id).read(verdict_name(pipeline), Verdict)
    model_id = verdict.model_id if verdict else plan.champion_model
    return index(pipeline, embed(pipeline, plan.snapshot, str(model_id)))


def proposal_of(pipeline: Pipeline, table: TableRef | None = None) -> Proposal:
    plan = decide(pipeline, snapshot_ref(pipeline))
    verdict = Run(pipeline.folder, plan.run_id).read(verdict_name(pipeline), Verdict)
    return propose(pipeline, plan, verdict, table or table_of(pipeline), CutoffsRef(cutoffs={}))


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def named(proposal: Proposal, part: str) -> str:
    return next(name for name in proposal.release.files if part in name)


def script(pipeline: Pipeline, *golden: GoldenQuery) -> Script:
    """A rehearsal of the release that is served, as one of the same model that follows it."""
    record = release_log(pipeline.folder).current()
    assert record is not None
    return Script(folder=pipeline.folder, release=record.model_copy(update={"number": 2}), before=record, golden=golden)


@pytest.mark.parametrize("part", ["open_clip_model.safetensors", "tokenizer.json", ".lance/data/", "_versions/"])
def test_a_file_damaged_before_it_is_published_fails_the_night_and_is_made_anew_by_the_next(
    embedded: Path, tmp_path: Path, part: str
) -> None:
    file = copied(embedded, tmp_path / "copy")
    pipeline = load_pipeline(file)
    proposal = proposal_of(pipeline)
    name = named(proposal, part)
    flip(pipeline.folder / name)
    with pytest.raises(DamagedError) as error:
        rehearse(pipeline, proposal)
    assert f"{name} has other contents than recorded" in str(error.value)
    assert str(error.value).endswith(own.MADE_ANEW)
    assert release_log(pipeline.folder).numbers() == []
    again = night(file)
    assert (again.outcome, again.release, again.model_id) == ("released", 1, proposal.release.model_id)
    assert len(search(OpenRelease.open(pipeline.folder), Query(text="a red circle")).hits) == 10


def test_new_rows_damaged_before_they_are_published_are_written_again_by_the_next_night(
    released: Path, tmp_path: Path
) -> None:
    file = copied(released, tmp_path / "copy")
    add_rows(file, 3)
    pipeline = load_pipeline(file, overrides=[FEW])
    stages.ingest(pipeline)
    proposal = proposal_of(pipeline)
    assert proposal.before is not None
    name = next(each for each in proposal.release.files if "/data/" in each and each not in proposal.before.files)
    flip(pipeline.folder / name)
    with pytest.raises(DamagedError, match=rf"{name} has other contents than recorded\. {own.MADE_ANEW}"):
        rehearse(pipeline, proposal)
    assert night(file, FEW).release == 2
    assert "noise-2" in served_ids(pipeline)


def test_weights_damaged_before_they_are_recorded_are_found_by_their_name(embedded: Path, tmp_path: Path) -> None:
    file = copied(embedded, tmp_path / "copy")
    pipeline = load_pipeline(file)
    table = table_of(pipeline)
    flip(pipeline.folder / "models" / table.model_id / "open_clip_model.safetensors")
    with pytest.raises(DamagedError, match=f"digest of the files in models/{table.model_id} isn't its name"):
        rehearse(pipeline, proposal_of(pipeline, table))
    assert night(file).outcome == "released"


def test_a_damaged_card_is_told_and_stops_nothing(
    embedded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = load_pipeline(copied(embedded, tmp_path / "copy"))
    proposal = proposal_of(pipeline)
    name = named(proposal, "README.md")
    flip(pipeline.folder / name)
    assert rehearse(pipeline, proposal).faults == ()
    assert f"{name} has other contents than recorded" in caplog.text


def permuted(pipeline: Pipeline, table: TableRef) -> TableRef:
    """A version of the table in which every item has another one's vectors."""
    dataset = lance.dataset(str(pipeline.folder / table.path))
    rows = dataset.to_table()
    order = np.roll(np.arange(len(rows)), 1)
    for column in ("image_vector", "text_vector"):
        rows = rows.set_column(rows.schema.get_field_index(column), rows.schema.field(column), rows[column].take(order))
    written = lance.write_dataset(rows, str(pipeline.folder / table.path), mode="overwrite")
    return table.model_copy(update={"version": written.version})


def test_a_table_whose_vectors_are_other_items_is_not_published(embedded: Path, tmp_path: Path) -> None:
    file = copied(embedded, tmp_path / "copy")
    pipeline = load_pipeline(file)
    table = permuted(pipeline, table_of(pipeline))
    with pytest.raises(DamagedError, match=r"holds other vectors than were embedded for 24 of 24 items: '"):
        rehearse(pipeline, proposal_of(pipeline, table))
    assert night(file).outcome == "released"


def test_embeddings_that_the_model_does_not_give_are_not_published_and_made_again(
    embedded: Path, tmp_path: Path
) -> None:
    file = copied(embedded, tmp_path / "copy")
    pipeline = load_pipeline(file)
    snapshot = Corpus(pipeline.folder).current()
    store = EmbeddingStore(pipeline.folder, stages.embed(pipeline).model_id)
    for part in snapshot.parts:
        ids = store.read(part)["item_id"].to_pylist()
        image_ND, text_ND = store.matrices(snapshot, ids)
        store.write(part, ids, -image_ND, -text_ND)
    with pytest.raises(
        DamagedError, match=r"embeds the texts of 8 of 8 items otherwise than is stored.*the images of 8"
    ):
        rehearse(pipeline, proposal_of(pipeline))
    assert store.missing(snapshot) == list(snapshot.parts)
    assert night(file).outcome == "released"


def test_a_damaged_embeddings_file_is_told_and_made_again_and_the_release_stands(
    released: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = copied(released, tmp_path / "copy")
    pipeline = load_pipeline(file)
    proposal = proposal_of(pipeline)
    (part,) = (pipeline.folder / "embeddings" / proposal.release.model_id).iterdir()
    part.write_bytes(b"none")
    assert rehearse(pipeline, proposal).faults == ()
    assert "can't be read" in caplog.text
    assert not part.exists()
    assert (pipeline.folder / proposal.release.table).is_dir()


def test_a_table_of_other_rows_than_the_snapshot_is_not_published(embedded: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(copied(embedded, tmp_path / "copy"))
    table = table_of(pipeline)
    dataset = lance.dataset(str(pipeline.folder / table.path))
    dataset.delete("item_id LIKE '%circle'")
    changed = table.model_copy(update={"version": dataset.version})
    with pytest.raises(
        DamagedError, match=r"holds 48 rows, the release says 60, and snapshot 1 has 60.*lacks \d+ of 24"
    ):
        rehearse(pipeline, proposal_of(pipeline, changed))


def test_damaged_files_of_earlier_releases_are_named_and_left_where_they_are(released: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(copied(released, tmp_path / "copy"))
    asked = script(pipeline)
    name = next(each for each in asked.release.files if "/data/" in each)
    flip(pipeline.folder / name)
    with pytest.raises(DamagedError) as error:
        rehearse(pipeline, Proposal(release=asked.release, before=asked.before))
    assert f"{name} has other contents than recorded. {own.PUT_BACK}" in str(error.value)
    assert (pipeline.folder / asked.release.table).is_dir()
    (pipeline.folder / name).write_bytes(b"")
    assert "has 0 bytes" in own.wrong_files(pipeline.folder, asked.release, asked.release.files)[1][0]


def test_the_digest_of_a_model_follows_from_its_files_digests(released: Path) -> None:
    record = script(load_pipeline(released / "pipelines.yaml")).release
    folder = load_pipeline(released / "pipelines.yaml").folder / "models" / record.model_id
    assert recorded_digest(record.files, record.model_id) == model_digest(folder) == record.model_id


def golden(*queries: dict[str, Any]) -> str:
    return f"evaluation.golden={yaml.safe_dump(list(queries), default_flow_style=True, width=10_000).strip()}"


def nearest_to(file: Path, text: str, k: int = 60) -> list[str]:
    return [hit.item_id for hit in search(OpenRelease.open(load_pipeline(file).folder), Query(text=text), k=k).hits]


def test_golden_queries_that_find_what_they_must_stand_in_the_report(released: Path, tmp_path: Path) -> None:
    file = copied(released, tmp_path / "copy")
    add_rows(file, 3)
    first = nearest_to(file, "a small red circle")[0]
    picture = str(file.parent / "shapes" / "large-red-circle.png")
    queries = (
        {"text": "a small red circle", "find": [first, "large-red-circle"], "k": 5},
        {"image": picture, "find": ["large-red-circle"], "k": 3},
        {"like": "large-red-circle", "find": ["noise-0", "small-red-circle"], "k": 62, "at_least": 2},
    )
    ended = night(file, FEW, golden(*queries))
    assert (ended.outcome, ended.release) == ("released", 2)
    assert [answer.missed for answer in ended.golden] == [False, False, False]
    report = markdown(ended, ())
    assert f"| {markdown_text('image large-red-circle.png')} | 1 of 1 |" in report
    assert markdown_text("'small-red-circle'") in report


def test_new_rows_are_held_while_the_champion_misses_a_golden_query(released: Path, tmp_path: Path) -> None:
    file = copied(released, tmp_path / "copy")
    add_rows(file, 3)
    *others, last = nearest_to(file, "a small red circle")
    missed = golden({"text": "a small red circle", "find": [last], "k": 2})
    for _ in range(2):
        held = night(file, FEW, missed)
        assert (held.outcome, held.release, held.rows["served"]) == ("held", 1, 60)
        assert f"golden query 'a small red circle' finds 0 of '{last}' among the 2 nearest" in held.reason
        assert f"it found '{others[0]}'" in held.reason
        assert markdown_text("missed: 0 of 1") in markdown(held, ())
    result = CliRunner().invoke(app, ["publish", "--file", str(file), "--set", FEW, "--set", missed])
    assert (result.exit_code, "golden query" in result.stderr) == (3, True)
    assert night(file, FEW).release == 2
    assert "noise-2" in served_ids(load_pipeline(file))


def test_a_first_model_that_misses_a_golden_query_is_held_and_remembered_so(embedded: Path, tmp_path: Path) -> None:
    file = copied(embedded, tmp_path / "copy")
    everything = {"text": "a red circle", "find": ["large-red-circle", "small-red-circle"], "k": 2, "at_least": 2}
    opposite = everything | {"find": ["large-black-square", "small-orange-pentagon"]}
    held = night(file, golden(everything, opposite))
    assert (held.outcome, held.release) == ("held", None)
    assert "'large-black-square', 'small-orange-pentagon'" in held.reason
    assert night(file, golden(opposite | {"k": 60})).outcome == "released"


def test_a_challenger_that_misses_a_golden_query_is_held_and_the_champion_embeds_the_rows(
    released: Path, tmp_path: Path
) -> None:
    files = [copied(released, tmp_path / name) for name in ("free", "bound")]
    for file in files:
        add_rows(file, 30)
    texts = [f"a {size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES]
    before = {text: nearest_to(files[0], text, 1) for text in texts}
    champion = OpenRelease.open(load_pipeline(files[0]).folder).record.model_id
    free = night(files[0], "gate.max_regression=1")
    assert (free.outcome, free.model_id == champion) == ("released", False)
    text = next(text for text in texts if before[text][0] not in nearest_to(files[0], text, 5))
    bound = night(files[1], "gate.max_regression=1", golden({"text": text, "find": before[text], "k": 5}))
    assert (bound.outcome, bound.model_id, bound.rows["served"]) == ("held", champion, 90)
    assert f"golden query {text!r}" in bound.reason


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"text": "red", "find": ["nowhere"]}, "'red': the corpus has no item 'nowhere'; name items that it has"),
        ({"like": "nowhere", "find": ["large-red-circle"]}, "like 'nowhere': the corpus has no item 'nowhere'"),
        ({"image": "no.png", "find": ["large-red-circle"]}, "image no.png: there is no file /"),
    ],
    ids=["find", "like", "image"],
)
def test_a_golden_query_of_what_is_not_there_is_refused_before_the_training(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines, query: dict[str, Any], said: str
) -> None:
    file = write_pipelines(tmp_path, shapes, evaluation={"golden": [query]})
    with pytest.raises(ValueError, match=f"evaluation.golden: {said}"):
        night(file)
    assert not (load_pipeline(file).folder / "pairs").exists()


def test_a_golden_query_some_of_whose_items_left_is_asked_all_the_same(
    released: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = copied(released, tmp_path / "copy")
    add_rows(file, 1)
    first = nearest_to(file, "a small red circle")[0]
    ended = night(file, FEW, golden({"text": "a small red circle", "find": [first, "gone"]}))
    assert (ended.outcome, ended.golden[0].hits) == ("released", 1)
    assert "the corpus has no item 'gone'" in caplog.text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"find": ["a"]}, "one of `text`, `image` and `like`"),
        ({"text": "a", "like": "b", "find": ["a"]}, "one of `text`, `image` and `like`"),
        ({"text": "a", "find": ["a", "a"], "at_least": 2}, "'a' can find 1 at most, so `at_least` can't be 2"),
        ({"text": "a", "find": ["a", "b"], "k": 1, "at_least": 2}, "can find 1 at most"),
        ({"text": " ", "find": ["a"]}, r"evaluation\.golden\.0\.text"),
        ({"text": "a", "find": []}, r"evaluation\.golden\.0\.find"),
    ],
)
def test_a_golden_query_that_means_nothing_is_refused_when_it_is_read(
    tmp_path: Path, write_pipelines: WritePipelines, query: dict[str, Any], said: str
) -> None:
    file = write_pipelines(tmp_path, tmp_path, evaluation={"golden": [query]})
    with pytest.raises(ValueError, match=said):
        load_pipeline(file)


def test_golden_ids_may_be_written_as_numbers_and_pictures_beside_the_file(
    tmp_path: Path, write_pipelines: WritePipelines
) -> None:
    file = write_pipelines(tmp_path, tmp_path, evaluation={"golden": [{"image": "a.png", "find": [17]}]})
    (query,) = load_pipeline(file).evaluation.golden
    assert (query.image, query.find) == (tmp_path / "a.png", ("17",))


def test_a_fresh_python_rehearses_without_torch_what_the_champion_serves(
    released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = "import sys; sys.modules['torch'] = None; from pathlib import Path; "
    program = f"{without}from pairloom.search.rehearsal import main; main(*map(Path, sys.argv[1:]))"
    monkeypatch.setattr(rehearsal, "COMMAND", (sys.executable, "-P", "-c", program))
    found = in_fresh_process(script(load_pipeline(released / "pipelines.yaml")))
    assert (found.faults, found.warnings) == ((), ())
    assert found.looked_at["items' images"] == found.looked_at["items' texts"] == 8


@pytest.mark.parametrize(
    ("program", "minutes", "said"),
    [
        ("import sys; sys.exit('Lance has no memory')", 30, "status 1 and without an answer: … Lance has no memory"),
        ("import time; time.sleep(3600)", 0, "not done within 0 minutes"),
        ("import sys; open(sys.argv[2], 'w').write('{')", 30, "status 0 and without an answer"),
    ],
)
def test_a_rehearsal_that_fails_says_what_the_process_said_last(
    released: Path, monkeypatch: pytest.MonkeyPatch, program: str, minutes: int, said: str
) -> None:
    monkeypatch.setattr(rehearsal, "COMMAND", (sys.executable, "-c", program))
    monkeypatch.setattr(rehearsal, "MINUTES", minutes)
    with pytest.raises(RuntimeError, match=f"the rehearsal of release 2 .*{said}"):
        in_fresh_process(script(load_pipeline(released / "pipelines.yaml")))


HANGING = (
    HEARS + "import sys, pathlib\n"
    "from pairloom.flows.interrupt import watch\n"
    "watch.begin()\n"
    "from pairloom.flows import rehearsal\n"
    "from pairloom.search.rehearsal import Script\n"
    "from pairloom.tasks.stage import timed, standing\n"
    "program = 'import sys, threading, pathlib, time; from pairloom.search.rehearsal import _end_with_parent; '\n"
    "program += 'threading.Thread(target=_end_with_parent, daemon=True).start(); '\n"
    "program += f'pathlib.Path({sys.argv[2]!r}).touch(); time.sleep(3600)'\n"
    "rehearsal.COMMAND = (sys.executable, '-c', program)\n"
    "watch.stage = lambda: 'rehearse'\n"
    "rehearsal.in_fresh_process(Script.model_validate_json(pathlib.Path(sys.argv[1]).read_bytes()))\n"
)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_rehearsal_ends_with_the_night_that_is_interrupted_or_killed(
    released: Path, tmp_path: Path, how: signal.Signals
) -> None:
    asked, ready = tmp_path / "script.json", tmp_path / "ready"
    asked.write_text(script(load_pipeline(released / "pipelines.yaml")).model_dump_json())
    with started(HANGING, str(asked), str(ready), log=tmp_path / "log") as program:
        program.wait_until(ready.exists)
        family = program.descendants()
        assert list(filter(runs, family))
        if how == signal.SIGINT:
            assert program.end(lambda: os.killpg(program.process.pid, how)).startswith("stopped in rehearse; ")
        else:
            program.process.kill()
        wait_until(lambda: not any(map(runs, family)))
