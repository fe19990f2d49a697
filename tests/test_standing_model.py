"""Nights of a model that stands: the table after any history is the one that would be built anew."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from PIL import Image

import pairloom.storage.table.vectors
from pairloom.flows import stages
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.flows.outcome import Night
from pairloom.models.encoder import Encoder
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import Release, release_log, roll_back
from pairloom.storage.table.manifests import manifest_path
from pairloom.storage.table.vectors import VectorTable
from pairloom.tasks.embed import embed
from pairloom.tasks.embedding.lender import lender_of
from pairloom.tasks.evaluation.pictures import Pictures
from pairloom.tasks.indexing.begun import anew
from pairloom.tasks.pipeline import Pipeline

WritePipelines = Callable[..., Path]
EMBEDS = "retrain.min_new_fraction=0.9"


@pytest.fixture(scope="module")
def first_night(tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: WritePipelines) -> Path:
    """A folder with a collection and its first release. Shared: copy it to change it."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copytree(shapes, folder / "shapes")
    nightly(load_pipeline(write_pipelines(folder, Path("shapes"), index={"min_rows": 1000})))
    return folder


@pytest.fixture
def file(tmp_path: Path, first_night: Path) -> Path:
    """pipelines.yaml with one release, which a test may change."""
    shutil.copytree(first_night, tmp_path, dirs_exist_ok=True)
    return tmp_path / "pipelines.yaml"


def night(file: Path) -> Night:
    return nightly(load_pipeline(file, overrides=[EMBEDS]))


def edit(file: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change rows of the source, or remove them."""
    captions = file.parent / "shapes" / "captions.jsonl"
    rows = [change(json.loads(line)) for line in captions.read_text("utf-8").splitlines()]
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows if row), encoding="utf-8")


def add(file: Path, *names: str) -> None:
    """Append rows with pictures of their own."""
    folder = file.parent / "shapes"
    with (folder / "captions.jsonl").open("a", encoding="utf-8") as captions:
        for name in names:
            pixels = np.random.default_rng(list(name.encode())).integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
            row = {"id": name, "image": f"{name}.png", "text": f"noise {name}", "group": None}
            captions.write(json.dumps({**row, "colour": "grey", "size": 64}) + "\n")


def release_of(file: Path) -> Release:
    release = release_log(load_pipeline(file).folder).current()
    assert release is not None
    return release


def rows_at(folder: Path, release: Release) -> list[dict[str, Any]]:
    return sorted_rows(lance.dataset(str(folder / release.table), version=release.table_version))


def sorted_rows(dataset: lance.LanceDataset) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = dataset.to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["item_id"]))


def require_as_anew(file: Path, tmp_path: Path) -> None:
    """What is released is, row for row, what a table of tonight's items built from nothing holds."""
    release = release_of(file)
    copy = tmp_path / f"anew-{release.number}"
    shutil.copytree(file.parent, copy, ignore=shutil.ignore_patterns("anew-*", "vectors"))
    pipeline = load_pipeline(copy / "pipelines.yaml")
    vectors = embed(pipeline, release.snapshot, release.model_id)
    assert vectors.embedded == 0
    table = anew(pipeline, vectors)
    assert rows_at(load_pipeline(file).folder, release) == sorted_rows(lance.dataset(str(table.path)))


def test_five_nights_of_edits_and_a_rollback_leave_the_table_of_a_first_night(file: Path, tmp_path: Path) -> None:
    add(file, "new", "newer")
    second = night(file)
    assert (second.outcome, second.release, second.rows["served"]) == ("released", 2, 62)
    require_as_anew(file, tmp_path)

    edit(file, lambda row: {**row, "text": "a corrected text"} if row["id"] == "new" else row)
    edit(file, lambda row: None if row["id"] == "large-red-circle" else row)
    edit(file, lambda row: {**row, "size": 7} if row["colour"] == "blue" else row)
    assert night(file).rows["removed"] == 1
    require_as_anew(file, tmp_path)

    roll_back(load_pipeline(file).folder, 2)
    add(file, "after")
    (file.parent / "shapes" / "moved").mkdir()
    (file.parent / "shapes" / "newer.png").rename(file.parent / "shapes" / "moved" / "newer.png")
    edit(file, lambda row: {**row, "image": "moved/newer.png"} if row["id"] == "newer" else row)
    fourth = night(file)
    assert (fourth.release, fourth.rows["served"]) == (5, 62)
    require_as_anew(file, tmp_path)

    edit(file, lambda row: {**row, "text": "and another one"} if row["id"] == "new" else row)
    add(file, "large-red-circle")
    night(file)
    require_as_anew(file, tmp_path)
    files = [set(release_log(load_pipeline(file).folder).read(number).files) for number in (5, 6)]
    written = [name for name in files[1] - files[0] if "/data/" in name]
    assert len(written) == 1
    table = lance.dataset(str(load_pipeline(file).folder / release_of(file).table))
    assert table.get_fragments()[-1].count_rows() == 2


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has the next table that is written to be left after its first commit."""
    read_back = VectorTable._read_back

    def interrupt(*_: object) -> None:
        monkeypatch.setattr(VectorTable, "_read_back", read_back)
        raise KeyboardInterrupt

    monkeypatch.setattr(pairloom.storage.table.vectors, "ROWS_PER_COMMIT", 2)
    return lambda: monkeypatch.setattr(VectorTable, "_read_back", interrupt)


def test_a_night_killed_amid_its_rows_ends_as_if_it_had_not_been(
    file: Path, tmp_path: Path, interrupted: Callable[[], None]
) -> None:
    add(file, "one", "two", "three")
    edit(file, lambda row: None if row["id"] == "large-red-circle" else row)
    interrupted()
    with pytest.raises(KeyboardInterrupt):
        night(file)
    # What the killed night brought leaves again, before it was ever released.
    edit(file, lambda row: None if row["id"] in ("one", "two") else row)
    again = night(file)
    assert (again.outcome, again.release, again.rows["served"]) == ("released", 2, 60)
    require_as_anew(file, tmp_path)


def test_the_table_that_a_killed_first_night_left_is_begun_anew(
    file: Path, tmp_path: Path, interrupted: Callable[[], None]
) -> None:
    shutil.rmtree(load_pipeline(file).folder)
    interrupted()
    with pytest.raises(KeyboardInterrupt):
        night(file)
    (left,) = (load_pipeline(file).folder / "vectors").glob("*.lance")
    table = lance.dataset(str(left))
    assert 0 < table.count_rows() < 60
    table.update({"path": "'of a stranger'"})
    manifest_path(left, table.version + 1).write_bytes(b"")
    again = night(file)
    assert (again.outcome, again.release, again.rows["served"]) == ("released", 1, 60)
    require_as_anew(file, tmp_path)


def test_what_others_wrote_to_the_table_is_in_no_release(file: Path, tmp_path: Path) -> None:
    path = str(load_pipeline(file).folder / release_of(file).table)
    rows = lance.dataset(path).to_table()
    order = list(reversed(range(rows.num_rows)))
    permuted = rows.set_column(1, rows.schema.field(1), rows["image_vector"].take(order))
    lance.dataset(path).merge_insert("item_id").when_matched_update_all().execute(permuted)
    lance.dataset(path).delete("item_id < 'm'")
    lance.dataset(path).add_columns({"evil": "1"})
    manifest_path(Path(path), lance.dataset(path).version + 1).write_bytes(b"")
    assert roll_back(load_pipeline(file).folder, 1).number == 2
    add(file, "new")
    assert night(file).rows["served"] == 61
    require_as_anew(file, tmp_path)


def test_a_damaged_old_file_is_not_copied_and_the_table_is_made_anew(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, release = load_pipeline(file).folder, release_of(file)
    (data,) = [folder / name for name in release.files if "/data/" in name]
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    monkeypatch.setattr(pairloom.storage.table.vectors, "MAX_FRAGMENTS", 1)
    add(file, "new")
    with caplog.at_level(logging.WARNING):
        assert night(file).rows["served"] == 61
    assert "has other contents than recorded" in caplog.text
    assert not set(release_of(file).files) & {name for name in release.files if "/data/" in name}
    require_as_anew(file, tmp_path)


def test_metadata_columns_that_come_and_go_are_those_of_the_configuration(file: Path, tmp_path: Path) -> None:
    edit(file, lambda row: {**row, "weight": len(row["id"])})
    changed = file.read_text("utf-8").replace("colour: string", "weight: float64").replace("- colour", "- weight")
    file.write_text(changed, encoding="utf-8")
    night(file)
    rows = rows_at(load_pipeline(file).folder, release_of(file))
    assert "colour" not in rows[0]
    assert all(row["weight"] == len(row["item_id"]) for row in rows)
    require_as_anew(file, tmp_path)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the model was asked")


def test_a_model_is_loaded_only_where_something_is_to_be_embedded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, load = list[Path](), Encoder.load

    def count(directory: Path) -> Encoder:
        loaded.append(directory)
        return load(directory)

    monkeypatch.setattr(Encoder, "load", count)
    add(file, "new")
    night(file)
    assert len(loaded) == 1
    assert stages.embed(load_pipeline(file)).dimension == release_of(file).dimension
    assert len(loaded) == 1


def fake_vectors(pipeline: Pipeline, release: Release, *, seed: int) -> EmbeddingStore:
    """Vectors that no model has made, for the corpus' only part, in the place of those of the release's model."""
    corpus, store = Corpus(pipeline.folder), EmbeddingStore(pipeline.folder, release.model_id)
    (part,) = corpus.current().parts
    ids = corpus.part_ids(corpus.current(), part).to_pylist()
    vectors_ND = np.random.default_rng(seed).normal(size=(2, len(ids), release.dimension))
    store.write(part, ids, *(vectors_ND / np.linalg.norm(vectors_ND, axis=2, keepdims=True)).astype(np.float32))
    return store


def test_evaluation_decodes_only_what_the_model_has_not_embedded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, release = load_pipeline(file), release_of(file)
    store = fake_vectors(pipeline, release, seed=3)
    corpus = Corpus(pipeline.folder)
    ids = corpus.table(corpus.current(), ["item_id"])["item_id"].to_pylist()[5:50]
    encoder = Encoder.load(ModelStore(pipeline.folder).path(release.model_id))
    expected = store.matrix(corpus.current(), ids, "image_vector")
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "embed_batches", refuse)
        assert np.array_equal(Pictures(corpus, corpus.current(), encoder, store).embeddings(ids), expected)
    add(file, "new", "newer")
    stages.ingest(pipeline)
    pictures = Pictures(corpus, corpus.current(), encoder, store)
    found = pictures.embeddings(["newer", *ids, "new"])
    assert np.array_equal(found[1:-1], expected)
    empty = EmbeddingStore(pipeline.folder, "another")
    all_made = Pictures(corpus, corpus.current(), encoder, empty).embeddings(["newer", *ids, "new"])
    assert np.allclose(found[[0, -1]], all_made[[0, -1]], atol=1e-5)
    assert not np.allclose(found, all_made, atol=0.1)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_vectors_are_lent_of_the_tower_that_is_the_same(file: Path, tmp_path: Path, tower: str) -> None:
    pipeline, release = load_pipeline(file), release_of(file)
    champion = ModelStore(pipeline.folder).path(release.model_id)
    other = Encoder.load(champion).dual_encoder
    changed = "text_projection" if tower == "image" else "visual.proj"
    weights = other.network.state_dict()
    weights[changed] = -weights[changed]
    weights["logit_scale"] += 1
    other.network.load_state_dict(weights)
    other.save(tmp_path / "built")
    challenger = ModelStore(pipeline.folder).adopt(tmp_path / "built")
    fake = fake_vectors(pipeline, release, seed=4)
    lender = lender_of(pipeline.folder, challenger, release.model_id)
    assert lender is not None
    assert (lender.images, lender.texts) == (tower == "image", tower == "text")
    embed(pipeline, release.snapshot, challenger)
    snapshot = Corpus(pipeline.folder).current()
    ids = Corpus(pipeline.folder).table(snapshot, ["item_id"])["item_id"].to_pylist()
    lent, made = (each.matrices(snapshot, ids) for each in (fake, EmbeddingStore(pipeline.folder, challenger)))
    equal = [np.array_equal(*pair) for pair in zip(lent, made, strict=True)]
    assert equal == [tower == "image", tower == "text"]
    assert all(
        same or not np.allclose(*pair, atol=0.1) for same, pair in zip(equal, zip(lent, made, strict=True), strict=True)
    )
