"""A root on object storage: what it holds and says beside a root of this machine, on a server whose answers fail."""

import json
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from itertools import product
from pathlib import Path

import obstore.store
import pyarrow as pa
import pytest
from conftest import free_port
from typer.testing import CliRunner

from benchmarks.object_server import BUCKET, Fault, ObjectServer, object_server
from benchmarks.tiny_nights import Content, Nights, content
from pairloom.flows.cli import app
from pairloom.storage import object_client, objects
from pairloom.storage.asked_once import asked_once
from pairloom.storage.checked import CheckedFiles, whole_copy
from pairloom.storage.corpus import Corpus
from pairloom.storage.digest import digest
from pairloom.storage.files import (
    DamagedError,
    FileDigest,
    damage,
    delete_folder,
    digest_files,
    make_writable,
    put_if_absent,
    set_aside,
    written_aside,
)
from pairloom.storage.image_places import StoredImages, write_places
from pairloom.storage.local_copies import local_copy
from pairloom.storage.modelstore import ModelStore, model_digest
from pairloom.storage.objects import listed_whole, path_at
from pairloom.storage.parquet import ROW_GROUP, read_parquet, require_whole, write_parquet
from pairloom.storage.records import Record, RecordLog, StaleWriterError
from pairloom.storage.releases import release_log

SECRET = "a-secret-of-tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A server that the environment names, with a cache of its own."""
    folder = tmp_path_factory.mktemp("objects")
    with object_server(free_port(), folder / "log") as started, pytest.MonkeyPatch.context() as patch:
        for name, value in {**started.environment, "PAIRLOOM_CACHE": str(folder / "cache")}.items():
            patch.setenv(name, value)
        object_client.store.cache_clear()
        yield started
        object_client.store.cache_clear()


@pytest.fixture
def there(server: ObjectServer, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder on that server, without faults but those of the test."""
    server.spoil()
    yield path_at(f"s3://{BUCKET}/{digest(request.node.name)}")
    server.spoil()


@pytest.fixture(params=["here", "there"])
def root(request: pytest.FixtureRequest) -> Path:
    """An empty folder of this machine, and one on that server."""
    place: Path = request.getfixturevalue({"here": "tmp_path", "there": "there"}[request.param])
    return place / "root"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, server: ObjectServer) -> Iterator[None]:  # noqa: ARG001  # of its environment
    """Requests time out after a second."""
    monkeypatch.setattr(object_client, "TIMEOUT", timedelta(seconds=2))
    object_client.store.cache_clear()
    yield
    object_client.store.cache_clear()


class Note(Record, frozen=True):
    text: str


def notes(folder: Path) -> RecordLog[Note]:
    return RecordLog(folder, "note", Note)


def note(number: int, text: str = "") -> Note:
    return Note(number=number, files={}, text=text)


def write(path: Path, content: bytes) -> Path:
    with written_aside(path) as aside:
        aside.write_bytes(content)
    return path


def test_the_verbs_of_a_path_answer_alike_on_both_roots(tmp_path: Path, there: Path) -> None:
    answers = []
    for root, at_once in ((tmp_path / "root", True), (there / "root", False), (there / "root", True)):
        for name in ("a/1.json", "a/2.json", "a/deep/er/3.parquet", "b/.hidden", "c.txt"):
            write(root / name, name.encode())
        with listed_whole(root) if at_once else nullcontext():

            def below(paths: Iterator[Path], root: Path = root) -> list[str]:
                return sorted(path.relative_to(root).as_posix() for path in paths)

            file, folder, none = root / "a" / "1.json", root / "a", root / "z" / "none"
            answers.append(
                [
                    [
                        below(root.glob(pattern))
                        for pattern in ("*", "*.txt", "[!.]*", "*/*.json", "a/*", "*/deep", ".*/x")
                    ],
                    [below(root.glob(pattern)) for pattern in ("*/deep/er/*", "a/deep", "b/.*", "z/*", "a/?.json")],
                    below(path for path in root.rglob("*") if path.is_file()),
                    below(root.rglob("*.json")),
                    below(folder.iterdir()),
                    [
                        (path.exists(), path.is_file(), path.is_dir(), path.is_symlink())
                        for path in (file, folder, none)
                    ],
                    (file.read_bytes(), file.read_text(), file.stat().st_size, file.open("rb").read(3)),
                    (file.name, file.stem, file.suffix, file.parts[-2:], file.is_absolute(), folder in file.parents),
                    (
                        file.with_name("x").name,
                        (file.parent / "x").relative_to(root).as_posix(),
                        file.resolve() == file,
                    ),
                    sorted([root / "b", root / "a"]) == [root / "a", root / "b"],
                    pickle.loads(pickle.dumps(file)) == file,
                ]
            )
            with pytest.raises(FileNotFoundError, match="none"):
                none.read_bytes()
            with pytest.raises(FileNotFoundError, match="none"):
                none.stat()
    assert answers[0] == answers[1] == answers[2]


def test_an_object_is_never_taken_for_a_file_of_this_machine(there: Path) -> None:
    with pytest.raises(TypeError, match="is no file of this machine"):
        open(there / "x")  # noqa: PTH123, SIM115  # as a library would
    assert str(there / "x") == f"s3://{BUCKET}/{there.name}/x"


def test_a_file_written_aside_is_whole_or_absent(root: Path) -> None:
    def fail() -> None:
        with written_aside(root / "file") as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(root.glob("*")) == []
    write(root / "file", b"first")
    write(root / "file", b"second")
    assert [path.read_bytes() for path in root.glob("*")] == [b"second"]


def test_what_is_gone_already_is_deleted_where_the_storage_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Amazon's doesn't tell; Azure's and Google's do, as obstore's of a folder does, which then deletes no more.
    kept = obstore.store.LocalStore(tmp_path)
    monkeypatch.setattr(objects, "store", lambda _bucket: kept)
    folder = objects.ObjectPath("az://pairs/x")
    for name in ("a", "b"):
        write(folder / name, b"content")
    folder._delete([(folder / name).key for name in ("none", "a", "b")])
    assert not any(folder.iterdir())
    (folder / "none").unlink()


def test_put_if_absent_never_overwrites(root: Path) -> None:
    assert put_if_absent(root / "x", b"one")
    assert not put_if_absent(root / "x", b"two")
    assert (root / "x").read_bytes() == b"one"


def test_damage_is_found_and_set_aside(root: Path) -> None:
    paths = [write(root / f"kept/{name}", name.encode()) for name in ("a", "b", "c", "d")]
    files = digest_files(root, iter(paths), {})
    assert damage(root, files, contents=True) == []
    (root / "kept/a").unlink()
    write(root / "kept/b", b"longer")
    write(root / "kept/c", b"C")
    assert damage(root, files) == ["kept/a is missing", "kept/b has 6 bytes, recorded were 1"]
    assert damage(root, files, contents=True)[2] == "kept/c has other contents than recorded"
    assert [set_aside(root, "kept/c").name, write(root / "kept/c", b"?").name] == ["c", "c"]
    assert set_aside(root, "kept/c").name == "c.1"
    assert sorted(path.name for path in (root / "damaged/kept").iterdir()) == ["c", "c.1"]
    delete_folder(root / "kept")
    assert not (root / "kept").exists()


def test_what_was_read_through_is_read_again_once_it_is_another(root: Path) -> None:
    name = "corpus/a"
    expected = FileDigest.of(write(root / name, b"what was written"))
    assert CheckedFiles(root).wrong({name: expected}) == []
    assert CheckedFiles(root).wrong({name: expected}) == []
    write(root / name, b"what was changed")
    assert CheckedFiles(root).wrong({name: expected}) == [f"{name} has other contents than recorded"]


@pytest.mark.parametrize("rows", [10, 3 * ROW_GROUP])
def test_parquet_is_read_alike_and_its_damage_found(root: Path, rows: int) -> None:
    # Each row another kilobyte: what is read of a larger file is a part of it.
    blobs = [os.urandom(1000) for _ in range(rows)]
    table = pa.table({"item_id": [f"{number:05}" for number in range(rows)], "blob": blobs})
    path = root / "part.parquet"
    write_parquet(table, path)
    assert pa.Table.from_batches(read_parquet(path)).equals(table)
    assert pa.Table.from_batches(read_parquet(path, ["item_id"])).equals(table.select(["item_id"]))
    one = ("item_id", pa.array(["00007"]))
    assert pa.Table.from_batches(read_parquet(path, among=one)).equals(table.slice(7, 1))
    assert require_whole(path) == rows
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 1
    write(path, bytes(broken))
    with pytest.raises(DamagedError, match="other contents than were written"):
        require_whole(path)
    write(path, b"")
    with pytest.raises(DamagedError, match=r"part\.parquet"):
        list(read_parquet(path))
    path.unlink()
    with pytest.raises(DamagedError, match=r"part\.parquet"):
        list(read_parquet(path))


def test_a_column_of_a_large_object_is_not_all_of_it(server: ObjectServer, there: Path) -> None:
    rows = 8 * ROW_GROUP
    table = pa.table(
        {"item_id": [str(number) for number in range(rows)], "blob": [os.urandom(1000) for _ in range(rows)]}
    )
    write_parquet(table, there / "part.parquet")
    size = (there / "part.parquet").stat().st_size
    server.spoil()
    with (there / "part.parquet").open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        stream.read()
        stream.seek(size // 2)
        stream.read(100)
        stream.read(100)
    assert len(server.requests()) == 2
    with (there / "part.parquet").open("rb") as stream:
        assert len(stream.read()) == size
    assert len(server.requests()) == 3


def model(folder: Path) -> Path:
    """What is kept of one, as far as the store looks at it."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 16}}')
    (folder / "open_clip_model.safetensors").write_bytes(os.urandom(100))
    (folder / "text_tower").mkdir()
    (folder / "text_tower" / "weights").write_bytes(b"weights")
    return folder


def test_a_model_is_the_same_on_both_roots(tmp_path: Path, root: Path) -> None:
    store, built = ModelStore(root), model(tmp_path / "built" / "model")
    model_id = model_digest(built)
    assert store.adopt(built, [{"step": 1}]) == model_id
    assert not built.exists()
    store.describe(model_id, {"trunk": "t"}, "a card")
    assert (store.ids(), store.dimension(model_id), store.trunks([model_id])) == ([model_id], 16, {"t"})
    assert store.curve(model_id) == [{"step": 1}]
    names = [path.relative_to(root / "models" / model_id).as_posix() for path in store.files(model_id)]
    assert names == [
        "README.md",
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "pairloom.json",
        "text_tower/weights",
        "training.jsonl",
    ]
    assert model_digest(store.whole(model_id)) == model_id
    assert (store.path(model_id) / "README.md").read_text() == "a card"
    with pytest.raises(ValueError, match="no model 0 below"):
        store.path("0")
    write(root / "models" / model_id / "open_clip_config.json", b'{"model_cfg": {"embed_dim": 17}}')
    with pytest.raises(DamagedError, match="is not the one that was made"):
        store.whole(model_id)


def test_a_damaged_copy_of_a_model_is_fetched_again(tmp_path: Path, there: Path) -> None:
    store = ModelStore(there)
    model_id = store.adopt(model(tmp_path / "model"))
    files = digest_files(there, store.files(model_id), {})
    weights = store.path(model_id) / "open_clip_model.safetensors"
    before = weights.read_bytes()
    for again in (True, False):
        status = weights.stat()
        weights.write_bytes(before[:50] + b"?" + before[51:])
        os.utime(weights, ns=(status.st_mtime_ns, status.st_mtime_ns))
        _ = store.whole(model_id) if again else whole_copy(there, f"models/{model_id}", files)
        assert weights.read_bytes() == before
    (weights.parent / "left over").write_bytes(b"of another time")
    assert not (local_copy(there / "models" / model_id) / "left over").exists()


def test_a_night_asks_once_and_finds_what_others_do_meanwhile(
    server: ObjectServer, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(there, objects.ObjectPath)
    others, own = notes(there / "others"), notes(there / "own")
    for folder in (others.folder, own.folder):
        for name in ("data/1", "data/2"):
            write(folder / name, b"!")
    files = digest_files(own.folder, own.folder.glob("data/*"), {})
    first, second = (note(number, "!").model_copy(update={"files": files}) for number in (1, 2))
    own.publish(first)
    others.publish(second)
    storage = object_client.store(there.bucket)
    inside = there.key
    with asked_once():
        assert own.current() == first
        server.spoil()
        assert [own.current(), own.read(1)] == [first, first]
        assert [each for each in server.requests() if "list-type" not in each] == []
        assert len(server.requests()) == 1
        # Another process publishes: nothing here is told of it.
        storage.copy(*(f"{inside}/{each}/notes/000002.json" for each in ("others", "own")))
        assert own.current() == second
        # What is deleted here is gone at once; what others delete, once what the storage said is old.
        (own.folder / "data/1").unlink()
        assert own.current() is None
        write(own.folder / "data/1", b"!")
        assert own.current() == second
        storage.delete([f"{inside}/own/data/2"])
        monkeypatch.setattr("pairloom.storage.asked_once.SECONDS", 0)
        assert own.current() is None
    write(own.folder / "data/2", b"!")
    monkeypatch.undo()
    assert own.current() == second
    storage.delete([f"{inside}/own/data/2"])
    assert own.current() is None  # outside a night nothing is remembered


def test_a_part_is_read_once_a_night_until_it_is_another(server: ObjectServer, there: Path) -> None:
    path = there / "corpus" / "part.parquet"
    one, other = (pa.table({"item_id": [text]}) for text in ("a", "b"))
    write_parquet(one, path)
    with asked_once():
        server.spoil()
        for _ in range(3):
            assert pa.Table.from_batches(read_parquet(path)).equals(one)
        assert [each.split()[0] for each in server.requests()] == ["GET"]
        write_parquet(other, path)
        assert pa.Table.from_batches(read_parquet(path)).equals(other)


def test_the_loser_of_a_race_says_so(root: Path) -> None:
    log, won, lost = notes(root), [], []
    barrier = threading.Barrier(4)

    def publish(text: str) -> None:
        barrier.wait()
        try:
            log.publish(note(1, text))
            won.append(text)
        except StaleWriterError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=publish, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [log.read(1).text] == won
    assert lost == ["note 1 was published by another run in the meantime; run again to build on top of it"] * 3
    assert log.numbers() == [1]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["refused", "lost", "slow"])
def test_a_record_whose_answer_was_lost_is_published_once(
    server: ObjectServer,
    there: Path,
    kind: str,
) -> None:
    server.spoil(Fault(kind, first=1, method="PUT", having="notes/", seconds=2))  # type: ignore[arg-type]  # a kind
    notes(there).publish(note(1, "mine"))
    assert notes(there).read(1).text == "mine"
    # And who comes after it is told, whatever becomes of the answer.
    server.spoil(Fault(kind, first=1, method="PUT", having="notes/", seconds=2))  # type: ignore[arg-type]  # a kind
    with pytest.raises(StaleWriterError, match="was published by another run in the meantime"):
        notes(there).publish(note(1, "another's"))
    assert notes(there).read(1).text == "mine"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("kind", "method"), [*product(["refused", "lost"], ["GET", "PUT", "POST"]), ("slow", "POST")])
def test_requests_that_fail_are_asked_again(
    server: ObjectServer,
    there: Path,
    kind: str,
    method: str,
) -> None:
    server.spoil(Fault(kind, first=1, method=method, seconds=2))  # type: ignore[arg-type]  # a kind
    path = write(there / "a" / "x", b"content")
    assert [each.read_bytes() for each in (there / "a").iterdir()] == [b"content"]
    assert path.is_file()
    path.unlink()
    assert not path.is_file()
    assert len([each for each in server.requests() if each.startswith(method)]) >= 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("refused", status="403 Forbidden", code="AccessDenied"), "s3://pairs denies access: the credentials"),
        (Fault("refused", status="403 Forbidden", code="InvalidAccessKeyId"), "are none for s3://pairs, or are out of"),
        (Fault("refused", status="400 Bad Request", code="ExpiredToken"), "are none for s3://pairs, or are out of"),
        (Fault("refused", status="301 Moved Permanently", code="PermanentRedirect"), "s3://pairs is in another region"),
        (Fault("refused", status="404 Not Found", code="NoSuchBucket"), "there is no bucket s3://pairs"),
    ],
    ids=lambda each: each.code if isinstance(each, Fault) else "",
)
def test_what_refuses_is_named_in_one_line_with_the_remedy(
    server: ObjectServer, there: Path, fault: Fault, said: str
) -> None:
    server.spoil(fault)
    for act in (lambda: make_writable(there), lambda: notes(there).current(), lambda: put_if_absent(there / "x", b"1")):
        with pytest.raises((ValueError, OSError), match=said) as caught:
            act()
        # HEAD has no body, but these ask for none alone.
        assert "\n" not in str(caught.value)
        chain = [caught.value, caught.value.__cause__, caught.value.__context__]
        assert not any(SECRET in str(each) or "someone" in str(each) for each in chain if each and each.__cause__)
        assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("server")
def test_a_bucket_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="there is no bucket s3://nowhere: create it, or name another root"):
        make_writable(path_at("s3://nowhere/x"))


@pytest.mark.usefixtures("server")
def test_without_credentials_one_line_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    object_client.store.cache_clear()
    with pytest.raises(ValueError, match="no credentials for s3://pairs in the environment: set AWS_ACCESS_KEY_ID"):
        make_writable(path_at(f"s3://{BUCKET}/x"))


def test_without_the_package_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ValueError, match=r"s3://bucket/x: object storage needs .* pip install 'pairloom\[cloud\]'"):
        path_at("s3://bucket/x")


@pytest.fixture(scope="module")
def after_nights(
    tmp_path_factory: pytest.TempPathFactory, server: ObjectServer
) -> tuple[Nights, list[Content], list[Content]]:
    """Two nights on a root of this machine, and on object storage of which one request in twenty fails: the latter, and
    what each left on both. Here training reads its pictures from a file, there from the parts."""
    folder = tmp_path_factory.mktemp("nights")
    here, left = Nights(folder), dict[str, list[Content]]()
    away = Nights(folder, path_at(f"s3://{BUCKET}/nights"))
    for name, nights in (("here", here), ("away", away)):
        left[name] = []
        for number in (1, 2):
            server.spoil(Fault("refused", every=20), Fault("lost", every=20, method="PUT"))
            nights.prepare(number)
            pixels = {"pixels": "stream" if nights is away else "file"}
            nights.changes |= {"training": nights.blocks["training"] | pixels}
            assert nights.run().outcome == "released"
            left[name].append(content(nights.stored))
    server.spoil()
    return away, left["here"], left["away"]


def test_nights_on_object_storage_that_fails_leave_what_local_ones_do(
    after_nights: tuple[Nights, list[Content], list[Content]],
) -> None:
    _, here, away = after_nights
    assert [one.differences(other) for one, other in zip(here, away, strict=True)] == [[], []]


def test_files_on_object_storage_are_those_of_a_local_root(
    after_nights: tuple[Nights, list[Content], list[Content]],
) -> None:
    nights, _, _ = after_nights
    found = []
    for stored in (Nights(nights.folder).stored, nights.stored):
        release, snapshot = release_log(stored).current(), Corpus(stored).current()
        assert release is not None
        parts = [stored / f"embeddings/{release.model_id}/part-{part.digest}.parquet" for part in snapshot.parts]
        vectors = digest_files(stored, iter(parts), {})
        weights = {name: each for name, each in release.model_files.items() if name.endswith(".safetensors")}
        found.append((snapshot.digest, snapshot.rows, vectors, weights))
    assert found[0] == found[1]


def test_each_image_on_object_storage_is_read_by_itself(
    server: ObjectServer, after_nights: tuple[Nights, list[Content], list[Content]], tmp_path: Path
) -> None:
    corpus = Corpus(after_nights[0].stored)
    snapshot, places = corpus.current(), tmp_path / "places.npy"
    assert len(snapshot.parts) > 1
    write_places(corpus, snapshot, "train", places, lambda _: None)
    stored = StoredImages(places, [corpus.part_path(part) for part in snapshot.parts])
    assert stored.at_once
    server.spoil(Fault("refused", every=3))
    found = [stored.read(row) for row in range(len(stored))]
    server.spoil()
    among = ("split", pa.array(["train"]))
    batches = [batch for part in snapshot.parts for batch in corpus.read(snapshot, part, ["image"], among=among)]
    assert found == [image["bytes"] for batch in batches for image in batch["image"].to_pylist()]


def test_commands_answer_on_object_storage(
    after_nights: tuple[Nights, list[Content], list[Content]], tmp_path: Path
) -> None:
    nights, _, _ = after_nights
    file, local = str(nights.file), str(Nights(nights.folder).root)

    def said(*arguments: str, status: int = 0) -> str:
        done = CliRunner().invoke(app, [*arguments, "--file", file])
        assert done.exit_code == status, done.output
        assert SECRET not in done.output
        return done.stdout

    def alike(*arguments: str) -> str:
        found = said(*arguments)
        assert found == said(*arguments, "--root", local)
        return found

    assert [each["release"] for each in json.loads(said("releases", "--json"))] == [2, 1]
    assert json.loads(said("status", "--json"))[0]["release"] == 2
    assert "release 2" in said("show", "2")
    assert "release 1" in said("diff", "1", "2")
    assert len(json.loads(alike("search", "red bar", "-k", "2", "--json"))["hits"]) == 2
    alike("search", "red bar", "-k", "2", "--hybrid")
    assert json.loads(alike("sql", "SELECT count(*) AS n FROM items", "--json")) == [{"n": 18}]
    alike("sql", "SELECT item_id FROM search('red bar', k := 2)", "--json")
    assert "image-unreadable" in said("quarantine")
    said("verify")
    said("collect-garbage")
    said("export", "--out", str(tmp_path / "page"))
    said("rollback", "1")
    assert json.loads(said("status", "--json"))[0]["release"] == 3
    assert (
        "there is no bucket s3://nowhere"
        in CliRunner().invoke(app, ["status", "--file", file, "--root", "s3://nowhere/x"]).output
    )
