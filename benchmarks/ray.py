"""Nights on a real Ray cluster of two nodes beside local ones, a node lost amid embedding; what a second worker saves.

    python -m benchmarks.ray history      two nights each way, a node killed in the second one
    python -m benchmarks.ray history --s3 the same, the cluster's root on an S3 server of this machine
    python -m benchmarks.ray scaling      each stage alone: local, one worker, two workers

The nodes are raylets of this machine with one CPU each (in `history` beside a head with none), the root is a folder
that all see, or on object storage. In `history` the same sources are read into two roots, and all that is stored and
served afterwards is compared: items, parts, pairs, model, metrics, vectors within 1e-6. The second night brings rows
and trains again; half a second after the first worker began to embed, all processes of its node get SIGKILL.

`scaling` gives seconds of CPU, which other programs on the machine distort least: in all, of the busiest worker from
when it was open, and until then (starting Python, importing, loading). What a second worker saves is the busiest one's.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.cloud import free_port
from benchmarks.object_server import BUCKET, object_server
from benchmarks.ray_nodes import Nodes, ray_nodes
from benchmarks.ray_work import random_searcher
from benchmarks.tiny_nights import NAMES, Nights, content
from pairloom.flows.nightly import nightly
from pairloom.search.rehearsal import rehearse
from pairloom.storage.corpus import Corpus
from pairloom.storage.objects import path_at
from pairloom.storage.releases import release_log
from pairloom.tasks.embedding.parts import PartEmbedder, Portion
from pairloom.tasks.engine.config import EngineConfig, RayWorkerConfig, SpreadStage
from pairloom.tasks.engine.decoding import decoding
from pairloom.tasks.engine.workers import Work, workers
from pairloom.tasks.evaluation.pictures import opened_embedder, shared_out
from pairloom.tasks.mining.searching import ROWS, Block
from pairloom.tasks.pipeline import Pipeline

SHADES = 8
SLOW = {"width": 256, "layers": 6, "head_width": 64, "patch_size": 8, "image_size": 64}
"""An image tower that takes some 15 ms an image on one CPU: a node can be lost while it embeds."""
SLOWER = SLOW | {"image_size": 128}
"""One that takes twice as long, so that what starting a worker costs is not all that is measured."""
PER_PART = 10
SEARCHED, DIMENSION = 75_000, 256
PHOTOS, PHOTO_SIDE = 4_500, 640
TIMES = 5
"""How often every part is embedded and evaluated, so that starting workers is not most of what is measured."""
LOG = "pairloom.tasks.engine.ray_workers"


class Larger(Nights):
    """The tiny nights with more pictures and a slower model, in any of several roots over the same sources."""

    def __init__(self, folder: Path, image_tower: Mapping[str, int]) -> None:
        super().__init__(folder)
        self.root = folder / "stored"
        self.engine = EngineConfig()
        towers = json.loads((folder / "towers.json").read_text(encoding="utf-8"))
        towers["model_cfg"]["vision_cfg"] |= image_tower
        (folder / "towers.json").write_text(json.dumps(towers), encoding="utf-8")

    @property
    def pipeline(self) -> Pipeline:
        """Tonight's."""
        blocks = self.blocks | {"ingest": self.blocks["ingest"] | {"part_rows": PER_PART}}
        return Pipeline(name="tiny", root=self.root, engine=self.engine, **blocks)

    @property
    def stored(self) -> Path:
        """The pipeline's folder."""
        return self.pipeline.folder

    def prepare(self, number: int) -> None:
        """As of the tiny nights, with pictures that are always there."""
        super().prepare(number)
        for shade in range(4, 4 + SHADES):
            for place, name in enumerate(NAMES):
                self.put(f"more {shade} {place}", name=name, shade=shade)
        self.write()


class Heard(logging.Handler):
    """What the workers' pool says, and who is told of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.since = 0
        """From which line on a night is looked at."""
        self.told: Callable[[str], None] = lambda _line: None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, and tell of it."""
        self.lines.append(record.getMessage())
        self.told(self.lines[-1])


@contextlib.contextmanager
def heard() -> Iterator[Heard]:
    """What the pool says inside."""
    logger, handler = logging.getLogger(LOG), Heard()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def history(folder: Path, root: Path) -> dict[str, Any]:
    """A first night and one with other rows and another model, each way.

    Returns what differs after each of them, and what the pool said when the node was lost.
    """
    nights, found = Larger(folder, SLOW), list[dict[str, Any]]()
    with ray_nodes(3, head_cpus=0) as nodes, heard() as pool:
        ray = EngineConfig(kind="ray", address=nodes.address)
        for number in (1, 3):
            nights.prepare(number)
            row: dict[str, Any] = {"night": number}
            nights.root, nights.engine = folder / "local", EngineConfig()
            row["local"] = _night(nights)
            local = nights.stored
            nights.root, nights.engine = root, ray
            if number == 3:
                pool.since = len(pool.lines)
                pool.told = partial(_lose_when_embedding, nodes, pool)
            row["ray"] = _night(nights)
            row["differs"] = content(local).differences(content(nights.stored)) + _parts_differ(local, nights.stored)
            found.append(row)
    lost = [line for line in pool.lines if "lost" in line]
    return {"nights": found, "lost": lost, "load": os.getloadavg()}


def _night(nights: Larger) -> dict[str, Any]:
    with patch("pairloom.flows.rehearsal.in_fresh_process", rehearse):
        night = nightly(nights.pipeline)
    spread = ("ingest", "mine", "evaluate", "embed")
    return {"outcome": night.outcome, "seconds": {name: night.seconds.get(name) for name in spread}}


def _lose_when_embedding(nodes: Nodes, pool: Heard, _line: str) -> None:
    """Lose the node where the first of the challenger's workers embeds, half a second after it began."""
    evaluated = any(each.startswith("evaluate:") for each in pool.lines[pool.since :])
    if evaluated and pool.lines[-1].startswith("embed: a worker has started"):
        pool.told = lambda _line: None
        threading.Timer(0.5, lambda: nodes.lose(nodes.busiest())).start()


def _parts_differ(one: Path, other: Path) -> list[str]:
    """Kinds of files named by what is in them that are not the same."""
    names = {
        kind: [sorted(path.relative_to(each).as_posix() for path in each.glob(kind)) for each in (one, other)]
        for kind in ("corpus/*.parquet", "embeddings/*/*.parquet", "pairs/*")
    }
    return [kind for kind, (here, there) in names.items() if here != there]


class Metered:
    """CPU seconds of this process, its children and a cluster's workers, sampled until the block ends."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._seconds: dict[int, float] = {}
        self._open: dict[int, float] = {}
        self._workers: dict[int, int] = {}
        """The worker that a process is, or works for."""

    def __enter__(self) -> "Metered":
        self._before, self._began = self._sampled(), time.monotonic()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sampled()
        self._over.set()
        self._thread.join()
        self.wall = time.monotonic() - self._began

    def opened(self, line: str) -> None:
        """A worker is open: what it has used by now was to get ready."""
        if "has started" in line:
            self._sampled()
            for worker, used in self._by_worker().items():
                self._open.setdefault(worker, used)

    def figures(self) -> dict[str, float]:
        """In all, of the busiest worker from when it was open, and of the slowest to open until then."""
        spent = sum(used - self._before.get(pid, 0.0) for pid, used in self._seconds.items())
        worked = [used - self._open.get(worker, 0.0) for worker, used in self._by_worker().items()]
        found = {"cpu": spent, "wall": self.wall}
        if worked:
            found |= {"busiest": max(worked), "opening": max(self._open.values(), default=0.0)}
        return {name: round(value, 2) for name, value in found.items()}

    def _by_worker(self) -> dict[int, float]:
        found: dict[int, float] = {}
        for pid, worker in list(self._workers.items()):
            found[worker] = found.get(worker, 0.0) + self._seconds.get(pid, 0.0)
        return found

    def _sample(self) -> None:
        while not self._over.wait(0.1):
            self._sampled()

    def _sampled(self) -> dict[int, float]:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                title = process.cmdline()[:1]
                times = process.cpu_times()
                self._seconds[process.pid] = times.user + times.system
                parent = process.ppid()
                if title and title[0].startswith("ray::Worker"):
                    self._workers[process.pid] = process.pid
                elif parent in self._workers:
                    self._workers[process.pid] = self._workers[parent]
        return dict(self._seconds)


def metered(run: Callable[[], object]) -> dict[str, float]:
    """What a run takes."""
    with heard() as pool, Metered() as meter:
        pool.told = meter.opened
        run()
    return meter.figures()


def scaling(folder: Path) -> dict[str, Any]:
    """Each stage alone, with as much work as takes some seconds: local, then one worker, then two."""
    torch.set_num_threads(1)
    nights = Larger(folder, SLOWER)
    nights.prepare(1)
    with patch("pairloom.flows.rehearsal.in_fresh_process", rehearse):
        assert nightly(nights.pipeline).outcome == "released"
    release = release_log(nights.stored).current()
    assert release is not None
    photos = _photos(folder / "photos")
    found: dict[str, Any] = {"load before": os.getloadavg()}
    with ray_nodes(2) as nodes:
        for stage in ("ingest", "mine", "embed", "evaluate"):
            found[stage] = {}
            for name, engine in _engines(nodes, stage):
                pipeline = nights.pipeline.model_copy(update={"engine": engine})
                run = {
                    "ingest": partial(_decode, pipeline, photos),
                    "mine": partial(_search, engine),
                    "embed": partial(_embed, pipeline, release.snapshot, release.model_id),
                    "evaluate": partial(_evaluate, pipeline, release.snapshot, release.model_id),
                }[stage]
                found[stage][name] = metered(run)
    return found | {"load after": os.getloadavg()}


def _engines(nodes: Nodes, stage: str) -> Iterator[tuple[str, EngineConfig]]:
    yield "local", EngineConfig()
    for count in (1, 2):
        share = RayWorkerConfig(workers=count)
        yield f"{count} on ray", EngineConfig(kind="ray", address=nodes.address, **{stage: share})


def _photos(folder: Path) -> list[Path]:
    """JPEGs of noise over large shapes, of a photograph's size."""
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = []
    for number in range(50):
        small = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BICUBIC)
        paths.append(folder / f"{number}.jpg")
        picture.save(paths[-1], quality=90)
    return [paths[number % len(paths)] for number in range(PHOTOS)]


def _decode(pipeline: Pipeline, photos: list[Path]) -> None:
    config = pipeline.ingest.model_copy(update={"max_side": 224, "workers": 1})
    with decoding(pipeline.model_copy(update={"ingest": config})) as decoder:
        assert sum(1 for _ in decoder(enumerate(photos), config)) == len(photos)


def _search(engine: EngineConfig) -> None:
    blocks = [
        Block("image_to_text", np.arange(at, min(at + ROWS // 4, SEARCHED)), None)
        for at in range(0, SEARCHED, ROWS // 4)
    ]
    _do(engine, "mine", partial(random_searcher, SEARCHED, DIMENSION), blocks)


def _embed(pipeline: Pipeline, snapshot: int, model_id: str) -> None:
    parts = Corpus(pipeline.folder).log.read(snapshot).parts
    _do(
        pipeline.engine,
        "embed",
        partial(PartEmbedder, pipeline, snapshot, model_id),
        [Portion(each, 0, 1) for each in parts] * TIMES,
    )


def _evaluate(pipeline: Pipeline, number: int, model_id: str) -> None:
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.log.read(number)
    part_of = {each: part for part in snapshot.parts for each in corpus.part_ids(snapshot, part).to_pylist()}
    asked = list(shared_out(part_of, at_once=16)) * TIMES
    _do(pipeline.engine, "evaluate", partial(opened_embedder, pipeline, number, model_id), asked)


def _do(engine: EngineConfig, stage: SpreadStage, opened: Callable[[], Work[Any, Any]], jobs: list[Any]) -> None:
    with workers(engine, stage, opened) as run:
        assert sum(1 for _ in run(jobs)) == len(jobs)


def main() -> None:
    """Run one of the two, and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("history", "scaling"))
    parser.add_argument("--s3", action="store_true", help="the nights on the cluster store on object storage")
    options = parser.parse_args()
    logging.getLogger("pairloom").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as until_the_end:
        folder = Path(name)
        stored = folder / "ray"
        if options.s3:
            server = until_the_end.enter_context(object_server(free_port(), folder / "log"))
            # The nodes inherit it.
            os.environ |= {**server.environment, "PAIRLOOM_CACHE": str(folder / "cache")}
            stored = path_at(f"s3://{BUCKET}/ray")
        found = history(folder, stored) if options.which == "history" else scaling(folder)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
