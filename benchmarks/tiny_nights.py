"""Three tiny nights of some tenths of a second each, what they leave, and faults that strike them where one wants.

The first night trains; the second one brings rows that are new, changed, gone and broken; the third one trains again.
Images are decoded and releases rehearsed by what their children run, in this process: starting children would take most
of the time.
"""

# N = items, D = embedding

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from PIL import Image

from pairloom.flows.nightly import nightly
from pairloom.flows.outcome import Night
from pairloom.search.rehearsal import rehearse
from pairloom.search.release import OpenRelease
from pairloom.storage.corpus import Corpus
from pairloom.storage.failpoints import EVENT
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, decode_file
from pairloom.storage.pairs import PairStore
from pairloom.tasks.pipeline import Pipeline

TOLERANCE = 1e-6
"""Of vectors: the order of batches may change the last bit."""
TOWERS = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 300,
            "width": 32,
            "heads": 2,
            "layers": 1,
            "pool_type": "eos",
            "hf_tokenizer_name": "fitted",
        },
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "longest", "fill_color": 255},
}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220), "grey": (128, 128, 128)}
SHAPES = {"square": np.s_[2:10, 6:14], "bar": np.s_[4:7, :], "corner": np.s_[:6, :8], "frame": np.s_[:2, :]}
NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]

Row = dict[str, Any]


class Nights:
    """A collection in a folder that changes from night to night, and the pipeline over it."""

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self.folder = folder
        self.root = root or folder / "stored"
        self.rows: dict[str, Row] = {}
        self.changes: dict[str, Any] = {}
        """Blocks of the pipeline's configuration that tonight's differs in."""
        self.grace_hours = 0
        """More where several nights run at once: what one of them writes is not named yet."""
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        (folder / "towers.json").write_text(json.dumps(TOWERS), encoding="utf-8")

    @property
    def blocks(self) -> dict[str, Any]:
        """What `pipelines.yaml` says of the pipeline tonight."""
        blocks: dict[str, Any] = {
            "sources": [{"kind": "jsonl", "path": str(self.folder / "captions.jsonl")}],
            "columns": {"id": "id", "texts": ["texts"], "keep": {"price": "int64"}},
            "ingest": {"max_side": 20, "min_side": 4, "part_rows": 6, "max_removed": 1.0, "val_fraction": 0.3},
            "model": {"architecture": str(self.folder / "towers.json")},
            "training": {
                "max_minutes": None, "max_steps": 3, "batch_size": 8, "threads": 1, "checkpoint_seconds": 1e-9
            },
            "retrain": {"min_new_fraction": 1.0, "every_nights": 10_000},
            "evaluation": {"k": [1, 5]},
            # These models learn nothing, and another night's may know less; of so few rows many change at once.
            "gate": {"first": "none", "max_regression": 1.0, "rows": {"accept": True}},
            "retention": {"releases": 2, "grace_hours": self.grace_hours},
        }  # fmt: skip
        return blocks | self.changes

    @property
    def pipeline(self) -> Pipeline:
        """Tonight's."""
        return Pipeline(name="tiny", root=self.root, **self.blocks)

    @property
    def file(self) -> Path:
        """A `pipelines.yaml` that says so, for the command line."""
        path = self.folder / "pipelines.yaml"
        document = {"root": str(self.root), "pipelines": {"tiny": self.blocks}}
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    @property
    def stored(self) -> Path:
        """The pipeline's folder."""
        return self.root / "tiny"

    def put(self, item: str, *, name: str, shade: int = 0, price: int | None = 1) -> None:
        """Have a row with this id; its picture is what its name says, in one of some shades."""
        picture = f"pictures/{name.replace(' ', '-')}-{shade}.png"
        if not (self.folder / picture).exists():
            colour, shape = name.split()
            canvas = np.full((12, 20, 3), 255 - 5 * shade, dtype=np.uint8)
            canvas[SHAPES[shape]] = COLOURS[colour]
            Image.fromarray(canvas).save(self.folder / picture)
        texts = [name, f"a {name} of shade {shade}"]
        self.rows[item] = {"id": item, "image": picture, "texts": texts, "price": price}

    def write(self) -> None:
        """Write the source of tonight."""
        lines = "".join(json.dumps(row) + "\n" for row in self.rows.values())
        (self.folder / "captions.jsonl").write_text(lines, encoding="utf-8")

    def prepare(self, number: int) -> None:
        """Make the sources and the configuration of one of the three nights what they are there."""
        self.rows, self.changes = {}, {}
        for place, name in enumerate(NAMES):
            self.put(str(place), name=name)
        if number >= 2:
            for place, name in enumerate(NAMES[:4]):
                self.put(f"new {place}", name=name, shade=1)
            self.put("1", name="red bar", shade=2)
            self.put("2", name="red corner", price=7)
            del self.rows["4"], self.rows["5"]
            broken = self.folder / "pictures" / "broken.png"
            # Its time tells a file from another one.
            if not broken.exists():
                broken.write_bytes(b"no picture")
            self.rows["broken"] = {"id": "broken", "image": "pictures/broken.png", "texts": ["broken"], "price": 1}
        if number >= 3:
            self.changes = {"mining": {"num_negatives": 2}}
            self.put("new 9", name="blue bar", shade=3)
        self.write()

    def run(self) -> Night:
        """Tonight's night, in this process."""
        torch.set_num_threads(1)
        with (
            patch("pairloom.tasks.ingest.decoding", lambda _pipeline: contextlib.nullcontext(decoded_here)),
            patch("pairloom.flows.rehearsal.in_fresh_process", rehearse),
        ):
            return nightly(self.pipeline)

    def keep(self, name: str) -> None:
        """Remember the stored state under a name."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        if self.stored.exists():
            shutil.copytree(self.stored, self.folder / name)

    def restore(self, name: str) -> None:
        """Go back to a stored state."""
        shutil.rmtree(self.stored, ignore_errors=True)
        if (self.folder / name).exists():
            shutil.copytree(self.folder / name, self.stored)


def decoded_here(
    items: Iterable[tuple[Any, Origin]], config: IngestConfig
) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
    """As `storage.images.decoding.decode`, for which it stands."""
    for key, path in items:
        assert isinstance(path, Path), "these sources name files"
        yield key, decode_file(path, config.limits)


@dataclass(frozen=True)
class Content:
    """What a pipeline has stored and serves, whatever the names, numbers and places of it."""

    items: dict[str, Row]
    quarantine: list[Row]
    served: dict[str, Row]
    vectors_ND: np.ndarray
    """Of images, then of texts, in the order of `served`."""
    release: Row
    pairs: list[list[Row]]

    def differences(self, other: "Content") -> list[str]:
        """The names of what is otherwise there."""
        plain = ("items", "quarantine", "served", "release", "pairs")
        found = [name for name in plain if getattr(self, name) != getattr(other, name)]
        near = self.vectors_ND.shape == other.vectors_ND.shape and np.allclose(
            self.vectors_ND, other.vectors_ND, rtol=0, atol=TOLERANCE
        )
        return found if near else [*found, "vectors"]


def content(folder: Path) -> Content:
    """All that a pipeline has stored, read as readers do. Raises what they do; AssertionError where an item doubles."""
    corpus = Corpus(folder)
    snapshot = corpus.current()
    names = [name for name in corpus.columns(snapshot) if name != "ingested_at"] if snapshot.parts else []
    served = served_content(folder)
    rejected = [row for batch in corpus.rejected(snapshot) for row in batch.to_pylist()]
    pairs = PairStore(folder)
    mined = sorted(path.name for path in pairs.folder.glob("*") if pairs.complete(path.name))
    return Content(
        items=by_id(corpus.table(snapshot, names).to_pylist()) if names else {},
        quarantine=sorted(({**row, "rejected_at": None} for row in rejected), key=str),
        **served,
        pairs=[pairs.read(name).to_pylist() for name in mined],
    )


def served_content(folder: Path, number: int | None = None) -> Any:
    """What readers of a release, or of the current one, get: `served`, `vectors_ND` and `release` of Content."""
    release = OpenRelease.open(folder, number)
    rows = by_id(release.dataset.to_table().to_pylist())
    vectors = [[row.pop(name) for row in rows.values()] for name in ("image_vector", "text_vector")]
    record = release.record
    assert len(rows) == record.rows
    return {
        "served": rows,
        "vectors_ND": np.array(vectors, np.float32),
        "release": {
            "model_id": record.model_id,
            "metrics": record.metrics,
            "intervals": record.intervals,
            "rows": record.rows,
            "reason": record.reason,
            "number": record.number,
            "training": (record.training.config_digest, record.training.items, record.training.verdict),
        },
    }


def by_id(rows: list[Row]) -> dict[str, Row]:
    """Rows by `item_id`, in its order; AssertionError where one comes twice."""
    found = {row["item_id"]: row for row in sorted(rows, key=lambda row: str(row["item_id"]))}
    assert len(found) == len(rows), "an item comes twice"
    return found


Point = tuple[str, str]
"""What a failpoint is about to do or has done, and to which file: its path below the pipeline's folder."""

_listener: Callable[[str, Path], None] | None = None


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event == EVENT and _listener is not None:
        _listener(*arguments)


@contextlib.contextmanager
def listening(listener: Callable[[str, Path], None]) -> Iterator[None]:
    """Have `listener` hear of all failpoints that are reached inside; what it raises is raised there."""
    global _listener
    _hear_once()
    _listener = listener
    try:
        yield
    finally:
        _listener = None


def _hear_once(added: list[bool] = []) -> None:  # noqa: B006  # audit hooks stay for the life of a process
    if not added:
        sys.addaudithook(_heard)
        added.append(True)


def failing(at: int, fault: Callable[[], object]) -> Callable[[str, Path], None]:
    """A listener that lets `fault` happen at the `at`th failpoint, counted from 0."""
    left = iter(range(at, -1, -1))

    def listen(_point: str, _path: Path) -> None:
        if next(left, None) == 0:
            fault()

    return listen
