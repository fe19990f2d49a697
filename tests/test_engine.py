"""Where stages that map over parts run: what can't be, and that sharing work out changes no result."""

import pickle
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from conftest import free_port
from nights import current

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.models.mining.lists import DIRECTIONS, Searcher
from pairloom.models.mining.positives import KnownPositives
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.tasks.engine.cluster import require_engine
from pairloom.tasks.engine.config import EngineConfig, RayWorkerConfig
from pairloom.tasks.engine.worker import package_versions, require_versions
from pairloom.tasks.engine.workers import workers
from pairloom.tasks.evaluation.pictures import opened_embedder, shared_out
from pairloom.tasks.items import read_items
from pairloom.tasks.mining.edges import near_duplicate_edges
from pairloom.tasks.mining.searching import Block, opened_searcher
from pairloom.tasks.pipeline import Pipeline


def test_here_a_worker_is_opened_once_and_for_a_first_job_only() -> None:
    opened: list[int] = []

    def square() -> "partial[int]":
        opened.append(1)
        return partial(pow, exp=2)

    with workers(EngineConfig(), "embed", square) as run:
        assert list(run([])) == []
        assert not opened
        assert [*run([2, 3]), *run([4])] == [(2, 4), (3, 9), (4, 16)]
    assert len(opened) == 1


@pytest.mark.parametrize("named", ["in the file", "in the environment"])
def test_a_cluster_that_does_not_answer_is_told_before_any_row_is_read(
    named: str, first_night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    said = "auto" if named == "in the environment" else address
    file = shutil.copy(first_night / "pipelines.yaml", tmp_path)
    pipeline = load_pipeline(Path(file), overrides=["engine.kind=ray", f"engine.address={said}"])
    with pytest.raises(
        ConnectionError, match=rf"no Ray cluster can be reached at {address} \(.*`ray start --head`"
    ) as caught:
        nightly(pipeline)
    assert "\n" not in str(caught.value)
    assert not pipeline.folder.exists()


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    require_engine(EngineConfig())
    with pytest.raises(ValueError, match=r"isn't installed: pip install 'pairloom\[ray\]'"):
        require_engine(EngineConfig(kind="ray"))


@pytest.mark.parametrize("address", ["auto", "10.0.0.7:6379", "head.example.org:6379", "[::1]:6379"])
def test_an_address_is_auto_or_host_and_port(address: str) -> None:
    assert EngineConfig(address=address).address == address


@pytest.mark.parametrize("address", ["ray://10.0.0.7:10001", "10.0.0.7", "local", ""])
def test_another_address_is_refused_when_the_file_is_read(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        EngineConfig(address=address)


def test_a_worker_takes_a_part_of_a_cpu_or_whole_ones() -> None:
    assert [RayWorkerConfig(num_cpus=count).num_cpus for count in (0.5, 1, 8)] == [0.5, 1, 8]
    with pytest.raises(ValueError, match=r"1\.5 is neither a part of one nor a number of whole ones"):
        RayWorkerConfig(num_gpus=1.5)


def test_a_node_with_another_version_is_refused_by_name() -> None:
    require_versions(package_versions())
    with pytest.raises(ValueError, match=r"has torch .*, and the machine of the night 0\.1: install the same versions"):
        require_versions(package_versions() | {"torch": "0.1"})


T = TypeVar("T")


def crossed(value: T) -> T:
    """As it comes to another machine."""
    found: T = pickle.loads(pickle.dumps(value))
    return found


def stored(folder: Path) -> tuple[Pipeline, str]:
    """The pipeline of a night, and the model that serves."""
    file = folder / "pipelines.yaml"
    return load_pipeline(file), current(file).model_id


def test_the_neighbours_of_blocks_are_those_of_all_items_at_once(first_night: Path) -> None:
    pipeline, release = stored(first_night)
    snapshot = Corpus(pipeline.folder).current()
    items = read_items(Corpus(pipeline.folder), snapshot, "train")
    edges = near_duplicate_edges(Corpus(pipeline.folder), snapshot, "train", pipeline.mining.near_duplicate_bits)
    relations = items.relations.with_edges(edges)
    vectors = EmbeddingStore(pipeline.folder, release).matrices(snapshot, relations.item_ids)
    here = Searcher(*vectors, KnownPositives(relations), pipeline.mining.range_max)
    there = crossed(partial(opened_searcher, pipeline, release, snapshot.number, edges))()
    rows_N = np.arange(len(relations))
    for direction in DIRECTIONS:
        for among_C in (None, rows_N[3::7]):
            whole = here(direction, rows_N, among_C)
            blocks = [there(crossed(Block(direction, own, among_C))) for own in np.array_split(rows_N, 3)]
            assert np.array_equal(np.concatenate([each.indices_QK for each in blocks]), whole.indices_QK)
            assert np.array_equal(np.concatenate([each.scores_QK for each in blocks]), whole.scores_QK)


def test_validation_images_that_are_shared_out_are_embedded_as_all_at_once(first_night: Path) -> None:
    pipeline, release = stored(first_night)
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.current()
    embed = crossed(partial(opened_embedder, pipeline, snapshot.number, release))()
    (part,) = snapshot.parts
    ids = corpus.part_ids(snapshot, part).to_pylist()[5:20]
    expected_ND = EmbeddingStore(pipeline.folder, release).matrix(snapshot, ids, "image_vector")
    asked = list(shared_out(dict.fromkeys(ids, part), at_once=6))
    assert [each.item_ids for each in asked] == [tuple(ids[:6]), tuple(ids[6:12]), tuple(ids[12:])]
    found_ND = np.concatenate([embed(crossed(each)) for each in asked])
    assert np.allclose(found_ND, expected_ND, rtol=0, atol=1e-6)
