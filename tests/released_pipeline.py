"""A small released pipeline for the tests of the read side: real model folder, real table, real record."""

import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import torch
from PIL import Image
from safetensors.torch import save_file

from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.hubness import hubness as measure
from pairloom.storage.files import digest_files
from pairloom.storage.images.stored_image import thumbnail
from pairloom.storage.releases import Release, Training, release_log
from pairloom.storage.schema import HUBNESS, ColumnType
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable, table_name
from pairloom.storage.training_texts import TrainingTexts
from pairloom.tasks.training.texts import keep_training_texts

D = 16
MODEL_ID = "tiny0001"
KEEP: dict[str, ColumnType] = {"subgroup": "string", "price": "float64", "seen": "timestamp", "tags": "list<string>"}
COLOURS = ["red", "green", "blue", "white", "black", "grey", "pink", "brown"]
FRUITS = ["apple", "pear", "plum", "lemon", "fig"]
HOSTILE = ["'; DROP TABLE items; --", 'quo"te', "back`tick", "ünïcödé 🍎", "<script>alert(1)</script>", "a'b OR 1=1"]
NAMES = [f"{colour} {fruit}" for colour in COLOURS for fruit in FRUITS] + HOSTILE
TINY = {
    "embed_dim": D,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def save_model(directory: Path) -> None:
    """A tiny random model in OpenCLIP's layout."""
    directory.mkdir(parents=True)
    mean, std = list(open_clip.OPENAI_DATASET_MEAN), list(open_clip.OPENAI_DATASET_STD)
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": mean, "std": std}}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY)
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")


@cache
def picture(number: int) -> bytes:
    """A small PNG that differs from all others."""
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def item_rows(encoder: Encoder, names: list[str]) -> pa.Table:
    """One table row per name; the item_id is the name."""
    images = [picture(at) for at in range(len(names))]
    count = len(names)
    return pa.table(
        {
            "item_id": names,
            "image_vector": list(
                encoder.embed_images([Image.open(io.BytesIO(each)).convert("RGB") for each in images])
            ),
            "text_vector": list(encoder.embed_texts(names)),
            "texts": [[name, f"a picture of {name}"] for name in names],
            "group": [name.split()[-1] for name in names],
            "split": ["train" if at % 3 else "val" for at in range(count)],
            "path": [f"/pictures/{at}.png" for at in range(count)],
            "width": [16] * count,
            "height": [16] * count,
            "source": ["test"] * count,
            "content_digest": [f"digest of {name}" for name in names],
            "thumbnail": [thumbnail(each) for each in images],
            "subgroup": [name.split()[-1].capitalize() for name in names],
            "price": [float(at) if at % 7 else float("nan") for at in range(count)],
            "seen": [datetime(2026, 11, 1 + at % 28, tzinfo=UTC) for at in range(count)],
            "tags": [["tag", name] for name in names],
        }
    )


def publish(
    folder: Path,
    *,
    names: list[str] = NAMES,
    number: int = 1,
    change: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    metrics: Mapping[str, float] | None = None,
    hubness: bool = False,
) -> Release:
    """Write model, table and release record below `folder`; returns the record.

    `change` makes other rows of those that the model made. With `hubness` the model keeps its training texts, and the
    items' hubness is in the table.
    """
    model = folder / "models" / MODEL_ID
    if not model.is_dir():
        save_model(model)
    encoder = Encoder.load(model)
    rows = item_rows(encoder, names)
    if hubness:
        keep_training_texts(model, encoder, names)
        image_ND = np.stack(rows["image_vector"].to_numpy())
        rows = rows.append_column(HUBNESS, pa.array(measure(image_ND, TrainingTexts(model).vectors())))
    table = VectorTable.create_or_open(folder, MODEL_ID, dimension=D, keep=KEEP)
    table.upsert(change(rows))
    table.sync({})
    files = digest_files(folder, iter([*table.files(), *(path for path in model.rglob("*") if path.is_file())]), {})
    record = Release(
        number=number,
        files=files,
        created_at=datetime(2026, 11, 22, tzinfo=UTC),
        snapshot=1,
        snapshot_digest="0" * 64,
        model_id=MODEL_ID,
        table=table_name(MODEL_ID),
        table_version=table.version,
        rows=len(names),
        dimension=D,
        max_side=16,
        keep=KEEP,
        hubness=hubness,
        index=None,
        metrics=dict(metrics or {}),
        training=Training(
            config_digest="0" * 64, items=len(names), trained_at=datetime(2026, 11, 22, tzinfo=UTC), verdict="released"
        ),
        reason="test",
    )
    TableUpkeep(table.path).tag(number, table.version)
    release_log(folder).publish(record)
    return record
