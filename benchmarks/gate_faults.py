"""What goes wrong on bad nights, as far outside of Pairloom as can be: in sources, files, other writers, the device.

What a training leaves is changed before it comes to the model store, what a device computes where towers hand it on.
"""

# N = items, D = embedding

import random
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lance
import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file

from benchmarks.gate_rows import Row
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.layout import WEIGHTS_NAME
from pairloom.models.training.trainer import TrainingResult
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import Release
from pairloom.storage.runs import Run

ADOPT = "pairloom.tasks.training.challenger.adopt"


@dataclass
class Tonight:
    """A night about to run, for a fault to strike."""

    folder: Path
    """All that the pipeline has stored."""
    release: Release
    released: Sequence[Row]
    """The rows of the release, as they were."""
    rows: list[Row]
    """Those of tonight: the released ones with honest new ones."""
    chance: random.Random
    other: Callable[[], object]
    """Runs another night of the same pipeline, without a training, to its end."""
    settings: dict[str, Any] = field(default_factory=dict)
    """By the path of a field of the pipeline."""
    during: ExitStack = field(default_factory=ExitStack)
    """What is otherwise while the night runs."""


Fault = Callable[[Tonight], None]


def emptied(tonight: Tonight) -> None:
    """The source has no rows."""
    tonight.rows = []


def shrunk(tonight: Tonight) -> None:
    """Nine of ten rows are missing."""
    tonight.rows = tonight.chance.sample(tonight.rows, len(tonight.rows) // 10)


def captions_shuffled(tonight: Tonight) -> None:
    """Every caption stands under another id."""
    _shuffle(tonight, "texts")


def pictures_shuffled(tonight: Tonight) -> None:
    """Every picture stands under another id, so that the champion's recall is that of chance."""
    _shuffle(tonight, "image")


def _shuffle(tonight: Tonight, column: str) -> None:
    values = [row[column] for row in tonight.rows]
    tonight.chance.shuffle(values)
    tonight.rows = [{**row, column: value} for row, value in zip(tonight.rows, values, strict=True)]


def poisoned(tonight: Tonight) -> None:
    """One caption stands at 1 % of the released rows."""
    chosen = set(tonight.chance.sample(range(len(tonight.released)), -(-len(tonight.released) // 100)))
    tonight.rows = [
        {**row, "texts": ["buy cheap watches"]} if place in chosen else row for place, row in enumerate(tonight.rows)
    ]


def column_renamed(tonight: Tonight) -> None:
    """The captions' column has another name."""
    tonight.rows = [{("caption" if name == "texts" else name): row[name] for name in row} for row in tonight.rows]


def column_emptied(tonight: Tonight) -> None:
    """A kept column has no value any more, on a night that brings nothing else."""
    tonight.rows = [{**row, "kind": None} for row in tonight.released]


def ids_repeated(tonight: Tonight) -> None:
    """Every second row has the id of the one before it."""
    tonight.rows = [{**row, "id": tonight.rows[place - place % 2]["id"]} for place, row in enumerate(tonight.rows)]


def ids_cut(tonight: Tonight) -> None:
    """Ids are cut to 16 characters, which makes some of them equal."""
    tonight.rows = [{**row, "id": row["id"][:16]} for row in tonight.rows]


def ids_equal(tonight: Tonight) -> None:
    """All rows have one id."""
    tonight.rows = [{**row, "id": tonight.rows[0]["id"]} for row in tonight.rows]


def device_gives_nan(tonight: Tonight) -> None:
    """The device gives NaN for every image."""
    _device_gives(tonight, lambda embedding_BD: torch.full_like(embedding_BD, torch.nan))


def device_gives_one(tonight: Tonight) -> None:
    """The device gives the same embedding for every image."""
    _device_gives(tonight, lambda embedding_BD: embedding_BD[:1].repeat(len(embedding_BD), 1))


def _device_gives(tonight: Tonight, changed: Callable[[torch.Tensor], torch.Tensor]) -> None:
    encode = DualEncoder.encode_images

    def faulty(self: DualEncoder, *arguments: Any) -> torch.Tensor:
        return changed(encode(self, *arguments))

    tonight.during.enter_context(patch.object(DualEncoder, "encode_images", faulty))


def training_leaves_nan(tonight: Tonight) -> None:
    """The training leaves weights with NaN."""
    _training_leaves(tonight, lambda _, weight: weight * torch.nan)


def training_leaves_one(tonight: Tonight) -> None:
    """The training leaves towers that give one embedding whatever they are asked: the last norms only shift."""
    _training_leaves(
        tonight, lambda name, weight: weight * 0 if re.search(r"ln_(post|final)\.weight$", name) else weight
    )


def _training_leaves(tonight: Tonight, changed: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    def leave(result: TrainingResult) -> TrainingResult:
        with torch.no_grad():
            for name, weight in result.encoder.network.named_parameters():
                weight.copy_(changed(name, weight))
        return result

    tonight.during.enter_context(adopting(leave))


def adopting(changed: Callable[[TrainingResult], TrainingResult]) -> Any:
    """While this is entered, a training leaves what is made of what it gave."""
    from pairloom.tasks.training.challenger import adopt

    def adopted(run: Run, models: ModelStore, result: TrainingResult, texts: Sequence[str]) -> None:
        adopt(run, models, changed(result), texts)

    return patch(ADOPT, adopted)


def trained_too_fast(tonight: Tonight) -> None:
    """The challenger learned at a rate of 10, as somebody set it."""
    tonight.settings["training.learning_rate"] = 10.0


def table_permuted(tonight: Tonight) -> None:
    """Another Lance client has written the released vectors back, each under another id."""
    permute(tonight)


def permute(tonight: Tonight) -> None:
    """Write a new version of the released table, in which vectors stand under other ids."""
    path = str(tonight.folder / tonight.release.table)
    rows = lance.dataset(path).to_table()
    order = pa.array(np.random.default_rng(tonight.chance.randrange(1 << 30)).permutation(len(rows)))
    for column in ("image_vector", "text_vector"):
        at = rows.schema.get_field_index(column)
        rows = rows.set_column(at, rows.schema.field(at), rows[column].take(order))
    lance.write_dataset(rows, path, mode="overwrite")


def embeddings_flipped(tonight: Tonight) -> None:
    """Bits of the champion's stored embeddings are flipped on the disk."""
    for path in (tonight.folder / "embeddings" / tonight.release.model_id).glob("*.parquet"):
        content = bytearray(path.read_bytes())
        for _ in range(20):
            content[tonight.chance.randrange(len(content))] ^= 1 << tonight.chance.randrange(8)
        path.write_bytes(content)


def model_swapped(tonight: Tonight) -> None:
    """Another model of the same shape lies where the champion was."""
    swap(tonight.folder / "models" / tonight.release.model_id / WEIGHTS_NAME)


def challenger_swapped(tonight: Tonight) -> None:
    """Another model of the same shape comes to lie where the challenger is, once that was measured."""
    from pairloom.flows.build import build

    def swapped(pipeline: Any, plan: Any, verdict: Any, model_id: str) -> Any:
        if model_id != tonight.release.model_id:
            swap(tonight.folder / "models" / model_id / WEIGHTS_NAME)
        return build(pipeline, plan, verdict, model_id)

    tonight.during.enter_context(patch("pairloom.flows.nightly.build", swapped))


def swap(weights: Path) -> None:
    """Write other weights of the same shapes."""
    random_ = torch.Generator().manual_seed(0)
    found = load_file(weights)
    noise = {
        name: torch.randn(each.shape, generator=random_) for name, each in found.items() if each.is_floating_point()
    }
    save_file({name: (each + 0.1 * noise[name] if name in noise else each) for name, each in found.items()}, weights)


def written_meanwhile(tonight: Tonight) -> None:
    """Another Lance client, which has the table open, writes permuted vectors once tonight's version is checked."""
    from pairloom.tasks.publish import propose

    def late(*arguments: Any) -> Any:
        permute(tonight)
        return propose(*arguments)

    tonight.during.enter_context(patch("pairloom.flows.build.propose", late))


def two_nights(tonight: Tonight) -> None:
    """Another night of the pipeline begins and ends while this one trains."""

    def meanwhile(result: TrainingResult) -> TrainingResult:
        tonight.other()
        return result

    tonight.during.enter_context(adopting(meanwhile))


@dataclass(frozen=True)
class Bad:
    """One kind of bad night: what strikes one without a training, and one with."""

    kind: str
    without: Fault
    with_training: Fault


BAD = (
    Bad("empty source", emptied, emptied),
    Bad("−90 % of rows", shrunk, shrunk),
    Bad("shuffled captions", captions_shuffled, captions_shuffled),
    Bad("one poisoned caption on 1 %", poisoned, poisoned),
    Bad("NaN", device_gives_nan, training_leaves_nan),
    Bad("poor recall", pictures_shuffled, trained_too_fast),
    Bad("schema drift", column_renamed, column_emptied),
    Bad("collapsed model", device_gives_one, training_leaves_one),
    Bad("corrupted vectors", table_permuted, embeddings_flipped),
    Bad("duplicate keys", ids_repeated, ids_equal),
    Bad("model and vectors swapped", model_swapped, challenger_swapped),
    Bad("stale writer", written_meanwhile, two_nights),
)

LIMITS = (Bad("some duplicate keys", ids_cut, ids_cut),)
"""Not among those that must be blocked: fewer rows than the limits that people may set."""
