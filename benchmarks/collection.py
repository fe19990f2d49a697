"""Validation items of a pipeline that has run, with the embeddings that its newest release serves."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pairloom.flows.config import load_pipeline
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import Release, release_log
from pairloom.tasks.pipeline import Pipeline

PIPELINES = Path(__file__).parent / "objectives" / "ordered.yaml"


@dataclass(frozen=True)
class Released:
    """A pipeline's newest release and its validation items."""

    pipeline: Pipeline
    release: Release
    model: Path
    snapshot: Snapshot
    item_ids: list[str]
    image_ND: npt.NDArray[np.float32]


def released(file: Path, name: str) -> Released:
    """What `pairloom run` left. ValueError where it has released nothing yet."""
    pipeline = load_pipeline(file, name)
    release = release_log(pipeline.folder).current()
    if release is None:
        raise ValueError(f"pipeline {name!r} has no release yet: run `pairloom run -p {name} --file {file}`")
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.log.read(release.snapshot)
    rows = corpus.table(snapshot, ["item_id", "split"]).to_pylist()
    item_ids = [row["item_id"] for row in rows if row["split"] == "val"]
    image_ND, _ = EmbeddingStore(pipeline.folder, release.model_id).matrices(snapshot, item_ids)
    model = ModelStore(pipeline.folder).path(release.model_id)
    return Released(pipeline, release, model, snapshot, item_ids, image_ND)


def print_figures(about: str | None, pipeline: str, figures: Callable[[Path, str], Mapping[str, object]]) -> None:
    """What a program of pipelines' figures does: reads `--file` and `--pipeline`, prints JSON; `about` is its
    help, `pipeline` the usual one.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=PIPELINES)
    parser.add_argument("--pipeline", default=pipeline)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(figures(options.file, options.pipeline), indent=1) + "\n")
