"""`pairloom verify`: what it finds, what it mends, and what nights and readers make of a flipped bit."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tiny import timm_architecture
from typer.testing import CliRunner

from benchmarks.bit_flips import FROZEN, KINDS, Flip, apply, found_by
from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.search.query import Query
from pairloom.search.release import OpenRelease
from pairloom.search.sql import json_rows, run_sql
from pairloom.storage.corpus import Corpus
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import release_log, roll_back
from pairloom.storage.verify import verify
from pairloom.tasks.pipeline import Pipeline

ALONE = {"table transactions", "table version hint"}
"""Files that no release needs."""


@dataclass(frozen=True)
class Stored:
    """A pipeline with three releases by two models, and more rows for a fourth night."""

    file: Path
    pipeline: Pipeline
    answers: dict[int, Any]
    """By release."""

    @property
    def folder(self) -> Path:
        return self.pipeline.folder

    def files(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(KINDS[kind]))

    def copy(self, root: Path) -> "Stored":
        shutil.copytree(self.pipeline.root, root)
        return replace(self, pipeline=self.pipeline.model_copy(update={"root": root}))

    def flip(self, path: Path, *, place: int | None = None) -> Flip:
        """Flip one bit, in the middle by default."""
        middle = path.stat().st_size // 2 if place is None else place
        flip = Flip("", path.relative_to(self.folder).as_posix(), middle, 0)
        apply(self.folder, flip)
        return flip

    def command(self, *options: str) -> tuple[int, dict[str, Any]]:
        """Exit status of `pairloom verify`, and what it says."""
        arguments = ["verify", "--json", "--file", str(self.file), "--root", str(self.pipeline.root), *options]
        done = CliRunner().invoke(app, arguments)
        (state,) = json.loads(done.stdout)
        return done.exit_code, state


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: Callable[..., Path]) -> Stored:
    """Shared: copy it to change it."""
    folder = tmp_path_factory.mktemp("verified")
    rows = (shapes / "captions.jsonl").read_text().splitlines(keepends=True)
    captions = folder / "captions.jsonl"
    file = write_pipelines(
        folder,
        folder,
        sources=[{"kind": "jsonl", "path": str(captions), "base": str(shapes)}],
        model={"architecture": timm_architecture(folder), **FROZEN},
        gate={"first": "none", "max_regression": 1.0},
        retrain={"min_new_fraction": 1.0, "every_nights": 1_000},
        ingest={"max_side": 32, "min_side": 8, "workers": 1, "max_removed": 1.0},
    )
    unreadable = json.dumps({"id": "none", "image": "none.png", "text": "none", "group": "none"}) + "\n"
    for first, last, steps in ((0, 50, 2), (0, 54, 3), (4, 57, 3)):
        captions.write_text("".join([*rows[first:last], unreadable]))
        pipeline = load_pipeline(file, overrides=[f"training.max_steps={steps}"])
        assert nightly(pipeline).outcome == "released"
    captions.write_text("".join([*rows[4:], unreadable]))
    said = {number: answers(OpenRelease.open(pipeline.folder, number)) for number in (1, 2, 3)}
    return Stored(file, pipeline, said)


def answers(release: OpenRelease) -> Any:
    hits = [release.search(query, k=9).hits for query in (Query("a red circle"), Query(like="large-blue-square"))]
    found = [[(hit.item_id, round(hit.score, 4)) for hit in own] for own in hits]
    return [found, json_rows(run_sql(release, "SELECT count(*) AS n FROM items"))]


def test_what_nights_left_is_whole(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    status, state = copy.command()
    assert (status, state["whole"], state["findings"], state["serves"]) == (0, True, [], 3)
    read = sum(len(copy.files(kind)) for kind in KINDS if kind not in {*ALONE, "table manifest", "tag"}) + 3
    assert state["files"] == read
    assert verify(copy.folder, releases=1).files < read


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "vector index"])  # so few rows have none
def test_a_flipped_bit_is_found_or_needed_by_nothing_and_never_answered_wrong(
    stored: Stored, tmp_path: Path, kind: str
) -> None:
    copy = stored.copy(tmp_path / "root")
    rng = random.Random(kind)
    path = rng.choice(copy.files(kind))
    flip = copy.flip(path, place=rng.randrange(path.stat().st_size))
    found = verify(copy.folder, releases=7)
    needed = kind not in ALONE and (kind != "table manifest" or flip.name in str(stored_names(copy.folder)))
    assert found_by(found, flip) == needed
    assert len(found.findings) == needed
    release = OpenRelease.open(copy.folder)
    assert answers(release) == stored.answers[release.record.number]
    assert found.serves == release.record.number


def stored_names(folder: Path) -> list[str]:
    return [name for release in release_log(folder).written() for name in release.files]


def test_caches_tags_and_copies_are_mended(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    third = release_log(copy.folder).read(3)
    flipped = [copy.flip(copy.files(kind)[-1]) for kind in ("embeddings part", "neighbours", "known rows", "tag")]
    flipped.append(copy.flip(copy.folder / "models" / third.model_id / "tokenizer.json"))
    pairs = next(path for path in copy.files("pairs") if path.suffix == ".parquet")
    pairs.unlink()
    status, state = copy.command()
    before = {each["path"] for each in state["findings"]}
    assert before == {*(flip.name for flip in flipped), pairs.parent.relative_to(copy.folder).as_posix()}
    assert (status, state["serves"]) == (1, 1)
    status, state = copy.command("--repair")
    assert (status, state["whole"], set(state["repaired"])) == (0, True, before)
    assert answers(OpenRelease.open(copy.folder)) == stored.answers[3]
    night = nightly(copy.pipeline)
    assert (night.outcome, night.rows["served"]) == ("released", 56)
    assert copy.command()[0] == 0


def test_a_damaged_record_is_set_aside_and_its_number_is_never_given_again(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    for path in (copy.folder / "releases" / "000003.json", copy.folder / "snapshots" / "000003.json"):
        copy.flip(path)
    status, state = copy.command("--repair")
    assert (status, state["serves"]) == (0, 2)
    assert sorted(path.name for path in (copy.folder / "damaged").rglob("*.json")) == ["000003.json"] * 2
    night = nightly(copy.pipeline)
    assert (night.outcome, night.release) == ("released", 4)
    assert Corpus(copy.folder).current().number == 4
    assert copy.command()[0] == 0


def test_where_no_release_is_whole_no_record_is_set_aside(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    for path in copy.files("release record"):
        copy.flip(path)
    status, state = copy.command("--repair")
    assert (status, state["serves"], state["repaired"]) == (1, None, [])
    assert len(copy.files("release record")) == len(state["findings"]) == 3
    with pytest.raises(DamagedError, match="none of the 3 releases"):
        nightly(copy.pipeline)


def test_a_missing_record_is_named(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    (copy.folder / "releases" / "000002.json").unlink()
    status, state = copy.command()
    assert (status, [each["path"] for each in state["findings"]]) == (1, ["releases/000002.json"])
    assert state["findings"][0]["wrong"] == "is missing"


def test_a_table_that_no_release_is_without_damage_of_is_built_anew_and_released(
    stored: Stored, tmp_path: Path
) -> None:
    copy = stored.copy(tmp_path / "root")
    third = release_log(copy.folder).read(3)
    for path in copy.files("table data"):
        copy.flip(path)
    with pytest.raises(DamagedError, match="no release of"):
        OpenRelease.open(copy.folder)
    status, state = copy.command("--repair")
    assert (state["serves"], state["newest"]) == (4, 4)
    assert answers(OpenRelease.open(copy.folder)) == stored.answers[3]
    fourth = release_log(copy.folder).read(4)
    assert (fourth.model_id, fourth.snapshot_digest) == (third.model_id, third.snapshot_digest)
    # Those before can't be made again: nobody can go back to them.
    assert status == 1
    assert {each["repair"] for each in state["findings"]} == {"none"}
    with pytest.raises(DamagedError, match="release 2 is not whole"):
        roll_back(copy.folder, 2)
    assert nightly(copy.pipeline).outcome == "released"


def test_what_cannot_be_made_again_stays_and_the_way_back_is_named(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    third = release_log(copy.folder).read(3)
    weights = copy.flip(copy.folder / "models" / third.model_id / "open_clip_model.safetensors")
    part = copy.flip(copy.files("corpus part")[0])
    content = {name: (copy.folder / name).read_bytes() for name in (weights.name, part.name)}
    status, state = copy.command("--repair")
    assert (status, state["repaired"]) == (1, [])
    remedies = {each["path"]: each["remedy"] for each in state["findings"]}
    assert "`pairloom rollback 1`" in remedies[weights.name]
    assert "items as they were ingested" in remedies[part.name]
    assert {name: (copy.folder / name).read_bytes() for name in content} == content
    with pytest.raises(DamagedError, match=r"the model of release 3 is not the one released|corpus/part-"):
        nightly(copy.pipeline)


def test_damage_to_what_nobody_needs_ends_no_night(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    third = release_log(copy.folder).read(3)
    for kind in ("embeddings part", "pairs", "neighbours", "known rows", "tag", "quarantine part", "model card"):
        for path in copy.files(kind):
            copy.flip(path)
    training = copy.pipeline.training.model_copy(update={"seed": 7})
    night = nightly(copy.pipeline.model_copy(update={"training": training}))
    assert (night.outcome, night.rows["served"]) == ("released", 56), night.reason
    release = OpenRelease.open(copy.folder)
    assert (release.record.number, release.record.rows) == (4, 56)
    assert release.record.model_id != third.model_id
    assert len(release.search(Query(like="large-blue-square"), k=60).hits) == 55


def test_a_night_builds_on_no_damaged_table(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    for path in copy.files("table data"):
        copy.flip(path)
    night = nightly(copy.pipeline)
    assert (night.outcome, night.release) == ("released", 4)
    release = OpenRelease.open(copy.folder)
    assert release.record.number == 4
    assert len(release.search(Query(like="large-blue-square"), k=60).hits) == 55


def test_a_night_begins_with_a_release_whose_table_can_be_opened(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    third = release_log(copy.folder).read(3)
    (name,) = (name for name in third.files if "/_versions/" in name)
    # Lance takes it for a table of version 0, and writes nothing after it.
    (copy.folder / name).write_bytes(bytes((copy.folder / name).stat().st_size))
    night = nightly(copy.pipeline)
    assert (night.outcome, night.release, night.rows["served"]) == ("released", 4, 56)
    assert (copy.folder / "damaged" / name).is_file()
    release = OpenRelease.open(copy.folder)
    assert (release.record.number, release.record.model_id) == (4, third.model_id)
    assert len(release.search(Query(like="large-blue-square"), k=60).hits) == 55


def test_a_night_verifies_when_it_is_due_and_names_what_is_damaged(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    due = copy.folder / "verified.json"
    first = json.loads(due.read_bytes())
    copy.flip(copy.files("model card")[0])
    night = nightly(copy.pipeline)
    assert (night.outcome, "README.md" in night.reason) == ("released", False)
    due.write_text(json.dumps({"on": "2020-01-01"}))
    night = nightly(copy.pipeline)
    assert night.outcome == "unchanged"
    assert "README.md has other contents than recorded" in night.reason
    assert json.loads(due.read_bytes()) != first, "it is due until all is whole"
    copy.flip(copy.files("model card")[0])
    assert "README.md" not in nightly(copy.pipeline).reason
    assert json.loads(due.read_bytes())["on"] >= first["on"]
    due.write_text(json.dumps({"on": "2020-01-01"}))
    fourth = release_log(copy.folder).read(4)
    copy.flip(copy.folder / next(name for name in fourth.files if "/data/" in name))
    with pytest.raises(DamagedError, match=r"release 4 is damaged: .*/data/.*`pairloom verify --repair`"):
        nightly(copy.pipeline)


def test_a_night_that_cannot_remember_what_it_read_through_has_ended_all_the_same(
    stored: Stored, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = stored.copy(tmp_path / "root")
    due = copy.folder / "verified.json"
    due.unlink()
    due.mkdir()
    assert nightly(copy.pipeline).outcome == "released"
    assert "is not remembered" in caplog.text


def test_what_cannot_be_read_just_now_is_not_damaged(stored: Stored, tmp_path: Path) -> None:
    copy = stored.copy(tmp_path / "root")
    manifest = copy.folder / next(name for name in Corpus(copy.folder).current().files if name.startswith("manifests/"))
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(IsADirectoryError):
        Corpus(copy.folder).current()
    with pytest.raises(IsADirectoryError):
        verify(copy.folder, releases=7)
