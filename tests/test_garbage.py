"""What is collected and what stays: thirty nights with faults, and each kind of state on its own."""

import contextlib
import os
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stored_nights import KilledError, StoredNights, run_name

from pairloom.search.release import OpenRelease
from pairloom.storage.approvals import Approval, approval_log
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import DamagedError, damage
from pairloom.storage.garbage import RELEASES, SNAPSHOTS, Found, collect_garbage, find_garbage
from pairloom.storage.grace import weigh
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.records import RecordLog
from pairloom.storage.releases import (
    Release,
    Training,
    kept_releases,
    release_log,
    roll_back,
    stays_back,
)
from pairloom.storage.retention import RetentionConfig
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable
from pairloom.storage.table.versions import held_versions, release_of

NOW = RetentionConfig(releases=2, grace_hours=0)


@pytest.fixture
def nights(tmp_path: Path) -> StoredNights:
    return StoredNights(tmp_path / "p", random.Random(0))


def current_runs(folder: Path) -> set[str]:
    return {run_name(Corpus(folder).current(), release_log(folder).current())}


def collect(nights: StoredNights, retention: RetentionConfig = NOW) -> Found:
    """Collect, once what would go has been told."""
    would = find_garbage(nights.folder, retention, current_runs(nights.folder))
    gone = collect_garbage(nights.folder, retention, current_runs(nights.folder))
    assert gone == would
    assert find_garbage(nights.folder, retention, current_runs(nights.folder)).garbage == ()
    return gone


def stored(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def assert_served(nights: StoredNights, release: Release) -> None:
    """A reader opens it, and finds what it is to serve."""
    opened, content = OpenRelease(nights.folder, release), nights.served[release.number]
    rows = opened.dataset.to_table(columns=["item_id", "texts", "image_vector"]).to_pylist()
    assert {row["item_id"]: row["texts"][0] for row in rows} == content
    query = {"column": "image_vector", "q": rows[0]["image_vector"], "k": 1}
    assert opened.dataset.to_table(columns=["item_id"], nearest=query)["item_id"].to_pylist() == [rows[0]["item_id"]]
    assert damage(nights.folder, release.files, contents=True) == []


def assert_gone_on_from(nights: StoredNights, release: Release) -> None:
    """A night after a rollback to it finds its items, their embeddings, and what its model was trained on."""
    corpus = Corpus(nights.folder)
    snapshot = corpus.log.read(release.snapshot)
    rows = corpus.table(snapshot, ["item_id", "texts"]).to_pylist()
    assert {row["item_id"]: row["texts"][0] for row in rows} == nights.served[release.number]
    assert EmbeddingStore(nights.folder, release.model_id).missing(snapshot) == []
    assert release.training.snapshot is not None
    corpus.log.read(release.training.snapshot)


def damage_record(log: RecordLog[Release], number: int) -> bytes:
    """Change a byte of a record; returns what it held."""
    path = log.path(number)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"snapshot"', b'"snapshoT"', 1))
    return content


@pytest.mark.parametrize("seed", [1])
def test_thirty_nights_with_faults_lose_nothing_that_is_kept_and_fill_no_disk(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    nights = StoredNights(tmp_path / "p", chance)
    nights.edit()
    nights.night()
    folder, log, size = nights.folder, release_log(nights.folder), {}
    lost: dict[int, tuple[bytes, Release]] = {}
    once_beyond: set[int] = set()
    remove = shutil.rmtree

    def killed_amid(path: Path) -> None:
        if chance.random() < 0.1:
            next(each for each in path.rglob("*") if each.is_file()).unlink()
            raise KilledError
        remove(path)

    for night in range(2, 31):
        nights.edit()
        nights.deadly = chance.choice([0, 0, 0.15])
        with contextlib.suppress(KilledError):
            nights.night(retrain=chance.random() < 0.25, held=chance.random() < 0.4)
        nights.deadly = 0
        if chance.random() < 0.7:
            nights.night()
        whole = [*log.newest_first()]
        if chance.random() < 0.15:
            nights.roll_back(chance.choice(whole).number)
        elif chance.random() < 0.1 and len(whole) > 1:
            hurt = chance.choice(whole)
            lost[hurt.number] = (damage_record(log, hurt.number), hurt)
        elif lost and chance.random() < 0.3:
            number = chance.choice([*lost])
            log.path(number).write_bytes(lost.pop(number)[0])
            log.read(number)
        retention = RetentionConfig(releases=chance.choice([3, 3, 2]), grace_hours=0)
        kept = kept_releases(log, retention.releases)
        oldest = kept[retention.releases - 1].number if len(kept) >= retention.releases else 0
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", killed_amid)
            with contextlib.suppress(KilledError):
                collect_garbage(folder, retention, current_runs(folder))
        said = collect(nights, retention).kept
        assert kept_releases(log, retention.releases) == kept
        if not said:
            to_come = {tag for tag in tags(nights) if (release_of(tag) or 0) >= log.next_number()}
            assert set(tags(nights)) - to_come <= {f"release-{each.number:06d}-v{each.table_version}" for each in kept}
        once_beyond |= {number for number in log.numbers() if number < oldest} - {release.number for release in kept}
        for release in kept:
            assert_served(nights, release)
            # Where newer records are damaged, an older one may come back without its corpus.
            if once_beyond.isdisjoint({release.number, release.rolled_back_to}):
                assert_gone_on_from(nights, release)
        lost = {number: each for number, each in lost.items() if number >= oldest}
        for _, release in lost.values():
            assert damage(folder, release.files) == [], "what a damaged record named is kept"
        size[night] = weigh(folder).bytes
    assert max(size[night] for night in range(26, 31)) < 2.5 * max(size[night] for night in range(3, 8)), size


def age(folder: Path, hours: float = 48) -> None:
    """Make all that is below `folder` older."""
    for path in [folder, *folder.rglob("*")]:
        then = path.stat().st_mtime - 3600 * hours
        os.utime(path, (then, then))


def kinds(found: Found) -> set[str]:
    return {each.kind for each in found.garbage}


def test_the_challenger_of_a_held_night_stays_as_long_as_it_may_be_judged_anew(nights: StoredNights) -> None:
    nights.edit()
    nights.night()
    collect(nights)
    [pairs] = (path.name for path in (nights.folder / "pairs").iterdir())
    nights.night(retrain=True, held=True)
    [run] = current_runs(nights.folder)
    before = stored(nights.folder)
    assert {each.path for each in collect(nights).garbage} == {
        f"runs/{run}/pixels.npy",
        f"runs/{run}/training",
        f"pairs/{pairs}",
    }
    assert before - stored(nights.folder) == {
        f"runs/{run}/pixels.npy",
        f"runs/{run}/training/step",
        f"pairs/{pairs}/audit.json",
        f"pairs/{pairs}/part-00000.parquet",
    }
    assert len(ModelStore(nights.folder).ids()) == 2
    nights.edit()
    nights.night()
    collect(nights)
    assert ModelStore(nights.folder).ids() == [release_log(nights.folder).read(2).model_id]
    assert not any((nights.folder / "runs").iterdir())


def test_a_training_that_has_not_ended_keeps_what_it_goes_on_from(nights: StoredNights) -> None:
    nights.edit()
    nights.ingest()
    nights.deadly = 1
    with pytest.raises(KilledError):
        nights.night()
    [run] = current_runs(nights.folder)
    collect(nights)
    assert (nights.folder / "runs" / run / "pixels.npy").is_file()
    assert (nights.folder / "runs" / run / "training" / "step").is_file()


def test_nothing_young_is_collected_and_no_release_that_was_the_current_one_until_lately(nights: StoredNights) -> None:
    one = RetentionConfig(releases=1)
    for _ in range(3):
        nights.edit()
        nights.night(retrain=True)
    (aside := nights.folder / "corpus" / ".part-0.parquet.abcdefgh").write_bytes(b"")
    assert find_garbage(nights.folder, one, ()).garbage == ()
    age(nights.folder)
    os.utime(release_log(nights.folder).path(3))
    kept = [release_log(nights.folder).read(number) for number in (3, 2)]
    assert kinds(collect(nights, one)) >= {RELEASES, "models", "vectors", "temporary files"}
    assert not aside.exists()
    for release in kept:
        assert_served(nights, release)
        assert_gone_on_from(nights, release)
    assert release_log(nights.folder).numbers() == [2, 3]
    # The clock was set back: all that there is seems to be still to come.
    age(nights.folder, hours=-480)
    assert find_garbage(nights.folder, one, ()).garbage == ()


def test_what_a_rollback_took_back_is_remembered_for_as_long_as_it_stays_back(nights: StoredNights) -> None:
    for _ in range(4):
        nights.edit()
        nights.night()
    log = release_log(nights.folder)
    taken = log.read(4)
    two = RetentionConfig(releases=2, grace_hours=0)
    collect(nights, two)
    nights.roll_back(3)
    for _ in range(2):
        nights.roll_back(nights.roll_back(3).number)
        collect(nights, two)
    current = log.current()
    assert current is not None
    assert current.rolled_back_to == 8
    nights.roll_back(3)
    collect(nights, RetentionConfig(releases=1, grace_hours=0))
    current = log.current()
    assert current is not None
    assert stays_back(log, current, lambda each: each.snapshot_digest == taken.snapshot_digest, "c") == 4


def tags(nights: StoredNights) -> list[str]:
    return sorted(tag for table in (nights.folder / "vectors").glob("*.lance") for tag in held_versions(table))


def test_no_tag_outlives_its_release_and_that_of_a_release_to_come_stays(nights: StoredNights) -> None:
    for _ in range(3):
        nights.edit()
        nights.night()
    log = release_log(nights.folder)
    third, first = log.read(3), log.read(1)
    table = VectorTable(nights.folder / third.table)
    assert third.table_version != first.table_version
    TableUpkeep(table.path).tag(3, first.table_version)  # the loser of a race for release 3
    TableUpkeep(table.path).tag(4, first.table_version)  # whoever is about to publish release 4
    damage_record(log, 1)
    collect(nights, RetentionConfig(releases=2, grace_hours=0))
    second = log.read(2)
    wanted = [f"release-{n:06d}-v{v}" for n, v in ((2, second.table_version), (3, third.table_version))]
    assert tags(nights) == [*wanted, f"release-000004-v{first.table_version}"]
    assert TableUpkeep(table.path).files_of_none_but([first.table_version]) != []
    nights.edit()
    nights.night()
    collect(nights, RetentionConfig(releases=1, grace_hours=0))
    assert tags(nights) == [f"release-000004-v{log.read(4).table_version}"]


def test_a_release_to_come_keeps_its_model_and_a_rollback_to_what_is_being_collected_fails(
    nights: StoredNights, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        nights.edit()
        nights.night(retrain=True)
    log = release_log(nights.folder)
    first, before = log.read(1), TableUpkeep.tag

    def collected_first(table: TableUpkeep, release: int, version: int) -> None:
        log.path(1).unlink()  # the first thing that a collection does
        before(table, release, version)

    monkeypatch.setattr(TableUpkeep, "tag", collected_first)
    with pytest.raises(ValueError, match="no release 1: there are 2, 3"):
        roll_back(nights.folder, 1)
    assert log.numbers() == [2, 3]
    collect(nights)
    # By its tag it might have been a rollback that still publishes.
    assert (
        damage(nights.folder, {name: each for name, each in first.files.items() if "_transactions" not in name}) == []
    )


def test_a_challenger_that_waits_for_a_person_stays(nights: StoredNights) -> None:
    nights.edit()
    nights.night()
    nights.night(retrain=True, held=True)
    asked = (set(ModelStore(nights.folder).ids()) - {release_log(nights.folder).read(1).model_id}).pop()
    now = datetime.now(UTC)
    approval = Approval(
        number=1,
        files={},
        model_id=asked,
        run_id="run",
        since=now,
        until=now + timedelta(days=1),
        champion=1,
        champion_model=None,
        snapshot_digest="",
        training=Training(config_digest="", items=1, trained_at=now, verdict="released"),
        trained_because="",
        metrics={},
        intervals={},
        comparisons=(),
        figures="",
    )
    approval_log(nights.folder).publish(approval)
    nights.edit()
    nights.night()
    collect(nights)
    assert asked in ModelStore(nights.folder).ids()
    (nights.folder / "approvals" / "000001.json").write_text("{")
    found = collect(nights)
    assert ["approvals/000001.json can't be read" in each for each in found.kept] == [True]
    assert asked in ModelStore(nights.folder).ids()


def test_where_no_release_is_whole_nothing_goes(nights: StoredNights) -> None:
    nights.edit()
    nights.night()
    damage_record(release_log(nights.folder), 1)
    before = stored(nights.folder)
    with pytest.raises(DamagedError, match="none of the 1 releases"):
        collect_garbage(nights.folder, NOW, ())
    assert stored(nights.folder) == before


@pytest.mark.parametrize("lost", ["snapshots/000001.json", "manifest"])
def test_what_a_damaged_snapshot_of_a_kept_release_named_is_kept_and_that_is_said(
    nights: StoredNights, lost: str
) -> None:
    for _ in range(2):
        nights.edit()
        nights.night()
    snapshot = Corpus(nights.folder).log.read(1)
    [manifest] = (name for name in snapshot.files if name.startswith("manifests/"))
    path = nights.folder / (manifest if lost == "manifest" else lost)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    found = collect(nights)
    assert ["snapshot" in each for each in found.kept] == [True]
    assert {"corpus", "manifests", "embeddings", SNAPSHOTS}.isdisjoint(kinds(found))
    path.write_bytes(content)
    assert_gone_on_from(nights, release_log(nights.folder).read(1))


def test_what_killed_runs_leave_aside_goes_and_what_others_keep_there_stays(nights: StoredNights) -> None:
    nights.edit()
    nights.night()
    collect(nights)
    folder, model = nights.folder, release_log(nights.folder).read(1).model_id
    left = ["corpus/.part-1.parquet.a1b2c3d4", ".probe.abcd_123", f"models/{model}/.README.md.00000000"]
    left += ["classes/examples/.000001.json.zzzzzzzz", "known/.fetched.12345678/picture"]
    theirs = [".DS_Store", "corpus/.gitkeep", "corpus/theirs.parquet", "notes.txt", "own/file"]
    theirs += ["vectors/theirs.lance/data/x.lance", "models/theirs/open_clip_config.json", "pairs/theirs/part.parquet"]
    for name in [*left, *theirs]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "vectors" / ".old.lance.gone" / "data").mkdir(parents=True)
    (folder / "vectors" / ".old.lance.gone" / "data" / "file").write_bytes(b"xx")
    before = stored(folder)
    assert {each.path for each in find_garbage(folder, RetentionConfig(), ()).garbage} == {"vectors/.old.lance.gone"}
    assert kinds(collect(nights)) == {"temporary files"}
    assert before - stored(folder) == {*left, "vectors/.old.lance.gone/data/file"}


def test_a_model_that_a_training_gives_again_is_young(nights: StoredNights, tmp_path: Path) -> None:
    models = ModelStore(nights.folder)
    for _ in range(2):
        (tmp_path / "built").mkdir()
        (tmp_path / "built" / "weights").write_bytes(b"w")
        model_id = models.adopt(tmp_path / "built")
        assert find_garbage(nights.folder, RetentionConfig(), ()).garbage == ()
        age(nights.folder)
    assert {each.path for each in find_garbage(nights.folder, RetentionConfig(), ()).garbage} == {f"models/{model_id}"}


def test_a_model_whose_removal_was_killed_is_gone_and_can_be_trained_again(
    nights: StoredNights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ModelStore(nights.folder)

    def adopted() -> str:
        (tmp_path / "built").mkdir()
        for name in ("config", "weights"):
            (tmp_path / "built" / name).write_text(name)
        return models.adopt(tmp_path / "built")

    def killed_amid(path: Path) -> None:
        (path / "weights").unlink()
        raise KilledError

    model_id = adopted()
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed_amid)
        with pytest.raises(KilledError):
            collect_garbage(nights.folder, NOW, ())
    assert models.ids() == []
    assert adopted() == model_id
    models.whole(model_id)
    assert {each.kind for each in collect(nights).garbage} == {"temporary files", "models"}
    assert models.curve(model_id) == [], "the night's report has none then"
    assert stored(nights.folder) == set()
