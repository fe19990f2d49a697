"""Attacks on models: folders whose files are not those that were trained, for readers and for the night."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_encoder

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.flows.scoring import Owner, _architecture
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.files import DamagedError
from pairloom.storage.modelstore import CARD_FILES, ModelStore
from pairloom.storage.releases import release_log
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.training.champion import fitting_champion

WritePipelines = Callable[..., Path]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: WritePipelines) -> Path:
    """A file of pipelines with a release. Copied by who changes it."""
    folder = tmp_path_factory.mktemp("released")
    file = write_pipelines(folder, shapes, retrain={"min_new_fraction": 0.9})
    assert nightly(load_pipeline(file)).outcome == "released"
    return file


@pytest.fixture
def file(released: Path, tmp_path: Path) -> Path:
    shutil.copytree(released.parent, tmp_path / "copy")
    return tmp_path / "copy" / released.name


def flip(file: Path) -> None:
    """Change one bit near the end."""
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


def more_rows(pipeline: Pipeline, file: Path) -> Pipeline:
    """The pipeline with half as many rows as before: the night has to embed nothing but what is new."""
    captions = file.parent / "captions.jsonl"
    source = pipeline.sources[0]
    lines = source.files[0].read_text().splitlines()
    changed = [lines[0].replace('"text": "', '"text": "quite '), *lines[1:]]
    captions.write_text("\n".join(changed) + "\n")
    base = str(source.files[0].parent)
    return load_pipeline(file, overrides=[f"sources.0.path={captions}", f"sources.0.base={base}"])


FILES = ("open_clip_model.safetensors", "open_clip_config.json", "tokenizer.json")


@pytest.mark.parametrize("name", FILES)
def test_night_embeds_with_no_model_that_readers_would_refuse(file: Path, name: str) -> None:
    pipeline = load_pipeline(file)
    record = release_log(pipeline.folder).current()
    assert record is not None
    changed = pipeline.folder / "models" / record.model_id / name
    flip(changed)
    with pytest.raises(DamagedError, match=f"is not the one released: models/{record.model_id}/{name} has other"):
        nightly(more_rows(pipeline, file))
    assert release_log(pipeline.folder).numbers() == [1]
    with pytest.raises(DamagedError, match=r"release 1 is not whole: .*other contents"):
        search(OpenRelease.open(pipeline.folder), Query(text="red"))


def test_night_with_the_model_that_was_made_embeds(file: Path) -> None:
    pipeline = load_pipeline(file)
    night = nightly(more_rows(pipeline, file))
    assert (night.outcome, night.release, "train" in night.seconds) == ("released", 2, False)
    assert search(OpenRelease.open(pipeline.folder), Query(text="red")).hits


@pytest.mark.parametrize("name", CARD_FILES)
def test_card_and_log_of_a_model_are_no_condition_for_serving_it(file: Path, name: str) -> None:
    pipeline = load_pipeline(file)
    record = release_log(pipeline.folder).current()
    assert record is not None
    flip(pipeline.folder / "models" / record.model_id / name)
    assert nightly(more_rows(pipeline, file)).outcome == "released"
    assert search(OpenRelease.open(pipeline.folder), Query(text="red")).hits


@pytest.mark.parametrize("name", FILES)
def test_no_training_starts_from_and_no_score_is_given_to_a_model_that_changed(file: Path, name: str) -> None:
    pipeline = load_pipeline(file)
    [model_id] = ModelStore(pipeline.folder).ids()
    assert fitting_champion(pipeline, model_id) == ModelStore(pipeline.folder).path(model_id)
    flip(pipeline.folder / "models" / model_id / name)
    with pytest.raises(DamagedError, match="isn't its name"):
        fitting_champion(pipeline, model_id)
    with pytest.raises(DamagedError, match="isn't its name"):
        _architecture(model_id, Owner(file, "shapes", None))


def test_file_that_was_added_to_a_model_or_taken_from_it_is_noticed(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    tiny_encoder(tmp_path).save(tmp_path / "built")
    model_id = store.adopt(tmp_path / "built")
    assert store.whole(model_id) == store.path(model_id)
    added = store.path(model_id) / "open_clip_pytorch_model.bin"
    added.write_bytes(b"x")
    with pytest.raises(DamagedError, match="isn't its name"):
        store.whole(model_id)
    added.unlink()
    (store.path(model_id) / "tokenizer.json").unlink()
    with pytest.raises(DamagedError, match="isn't its name"):
        store.whole(model_id)
