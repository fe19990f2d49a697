"""Stages on a real Ray cluster of two nodes on this machine."""

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from child_processes import wait_until
from nights import current
from PIL import Image

from benchmarks.ray_nodes import Nodes, ray_nodes
from benchmarks.ray_work import not_opening, noting, refusing
from pairloom.flows.config import load_pipeline
from pairloom.models.fitness import UnfitModelError
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import DamagedError
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.location import FileSlice, NoImageError, Origin
from pairloom.storage.images.stored_image import DecodedImage
from pairloom.tasks.embed import embed
from pairloom.tasks.engine.config import EngineConfig, RayWorkerConfig
from pairloom.tasks.engine.decoding import decoding
from pairloom.tasks.engine.workers import workers
from pairloom.tasks.pipeline import Pipeline


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes(2) as started:
        yield started


@pytest.fixture(scope="module")
def engine(nodes: Nodes) -> EngineConfig:
    one = RayWorkerConfig(workers=1)
    return EngineConfig(kind="ray", address=nodes.address, ingest=one, embed=one, evaluate=one)


def test_what_a_worker_raises_is_raised_here(engine: EngineConfig) -> None:
    with workers(engine, "evaluate", refusing) as run:
        found = run(range(4))
        assert [next(found), next(found)] == [(0, 0), (1, 1)]
        with pytest.raises(UnfitModelError, match=r"^job 2 can't be done$"):
            next(found)
        assert list(run([3])) == [(3, 3)]
    with workers(engine, "evaluate", not_opening) as run, pytest.raises(DamagedError, match=r"^the model is damaged$"):
        next(run([0]))


def test_images_decoded_by_workers_are_those_decoded_here(
    engine: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IngestConfig(max_side=24, workers=1)
    pipeline = Pipeline.model_validate(
        {
            "name": "p",
            "root": tmp_path,
            "sources": [{"kind": "folder", "path": tmp_path}],
            "ingest": config.model_dump(),
            "engine": engine.model_dump(),
        }
    )
    for shade in range(3):
        Image.new("RGB", (40, 30), (50 * shade, 0, 0)).save(tmp_path / f"{shade}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "several").write_bytes(b"beside" + content)

    def absent() -> bytes:
        raise NoImageError("there is none")

    seen: list[Origin] = [tmp_path / f"{shade}.png" for shade in range(3)]
    seen += [tmp_path / "broken.png", tmp_path / "absent.png", FileSlice(tmp_path / "several", 6, len(content))]
    seen += [lambda: content, absent]
    # A path that means something in this process alone, as on a disk of this machine.
    monkeypatch.chdir(tmp_path)
    unseen: list[Origin] = [Path("2.png"), FileSlice(Path("several"), 6, len(content)), Path("absent.png")]
    with decoding(pipeline) as decoder:
        for origins in (seen, unseen, unseen):
            found = list(decoder(enumerate(origins), config))
            assert found == list(decode(enumerate(origins), config))
    assert sum(isinstance(image, DecodedImage) for _, image in found) == 2


def test_a_node_that_is_lost_costs_the_job_it_was_at_and_nothing_else(
    nodes: Nodes, engine: EngineConfig, tmp_path: Path
) -> None:
    def lose_it() -> None:
        wait_until(lambda: len({path.name.partition("-")[2] for path in tmp_path.iterdir()}) == 2)
        nodes.lose(1)
        (tmp_path / "go").touch()

    with ThreadPoolExecutor(1) as meanwhile, workers(engine, "mine", partial(noting, tmp_path)) as run:
        lost = meanwhile.submit(lose_it)
        assert list(run(range(5))) == [(job, job * job) for job in range(5)]
        lost.result()
    begun = Counter(path.name.partition("-")[0] for path in tmp_path.glob("*-*"))
    assert sorted(begun.values()) == [1, 1, 1, 1, 2]
    wait_until(lambda: not any(map(works, nodes.processes())))


def works(process: psutil.Process) -> bool:
    """Whether it is a worker's."""
    try:
        return "ray::Worker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def test_a_part_that_a_worker_embeds_has_the_vectors_of_one_embedded_here(
    first_night: Path, engine: EngineConfig, tmp_path: Path
) -> None:
    folder = shutil.copytree(first_night, tmp_path / "night")
    pipeline, release = load_pipeline(folder / "pipelines.yaml"), current(folder / "pipelines.yaml")
    snapshot, store = Corpus(pipeline.folder).current(), EmbeddingStore(pipeline.folder, release.model_id)
    ids = Corpus(pipeline.folder).table(snapshot, ["item_id"])["item_id"].to_pylist()
    expected = store.matrices(snapshot, ids)
    for part in snapshot.parts:
        store.forget(part)
    ref = embed(pipeline.model_copy(update={"engine": engine}), snapshot.number, release.model_id)
    assert ref.embedded == len(ids)
    for found_ND, expected_ND in zip(store.matrices(snapshot, ids), expected, strict=True):
        assert np.allclose(found_ND, expected_ND, rtol=0, atol=1e-6)
