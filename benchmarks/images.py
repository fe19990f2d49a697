"""What opening images costs: training pixels, embedding and thumbnails, before and after, in turn.

Before: one thread that opens an image, then makes something of it; thumbnails made anew for each model. Each figure is
a median over rounds in which all take turns; wall and processor time, of this process and its threads.

    python -m benchmarks.images --architecture ViT-B-32 --images 256
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from pairloom.models.arrays import available_cpus
from pairloom.models.batches.pixels import write_pixels
from pairloom.models.encoder import IMAGE_BATCH, Encoder
from pairloom.models.geometry import Geometry
from pairloom.models.pictures import Picture
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.storage.corpus import EMPTY, Corpus, Snapshot
from pairloom.storage.images.decoding import open_stored
from pairloom.storage.images.limits import Limits
from pairloom.storage.images.stored_image import DecodedImage, decode_file, thumbnail
from pairloom.storage.schema import item_schema, vector_schema
from pairloom.tasks.indexing.rows import part_rows

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos"


def stored(count: int) -> list[bytes]:
    """So many photographs of the development bundle as the corpus has them, over again where there are fewer."""
    files = sorted(path for path in PHOTOS.rglob("*") if path.suffix == ".jpg")[:count]
    decoded = [decode_file(path, Limits(256, 16, 64_000_000)) for path in files]
    contents = [image.content for image in decoded if isinstance(image, DecodedImage)]
    return (contents * (count // len(contents) + 1))[:count]


def measured(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median wall and processor seconds of each way."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            way()
            if number:  # the first round warms up
                found[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: dict(zip(("wall", "processor"), map(statistics.median, zip(*each, strict=True)), strict=True))
        for name, each in found.items()
    }


def pixels_one_by_one(contents: Sequence[bytes], geometry: Geometry, path: Path) -> None:
    """As `write_pixels` was."""
    shape = (len(contents), geometry.height, geometry.width, 3)
    pixels_NHWC = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for row, content in enumerate(contents):
        pixels_NHWC[row] = geometry(open_stored(content))
    pixels_NHWC.flush()


def embed_one_by_one(contents: Sequence[bytes], encoder: Encoder) -> None:
    """As `embed_images` was."""
    transform = image_transform_v2(PreprocessCfg(**encoder.dual_encoder.preprocess_cfg), is_train=False)
    for start in range(0, len(contents), IMAGE_BATCH):
        images = [open_stored(content) for content in contents[start : start + IMAGE_BATCH]]
        forward(torch.stack([transform(image) for image in images]), encoder)


def forward(image_BCHW: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    """The image tower alone."""
    with torch.inference_mode():
        return encoder.dual_encoder.encode_images(image_BCHW).cpu()


def indexed(corpus: Corpus, snapshot: Snapshot) -> int:
    """Rows for the vector table of all items, as `index` has them written."""
    schema, (part,) = vector_schema(2, {}), snapshot.parts
    ids = corpus.part_ids(snapshot, part).combine_chunks()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * len(ids), np.float32)), 2)
    embedded = pa.table([ids, vectors, vectors], ["item_id", "image_vector", "text_vector"])
    return sum(batch.num_rows for batch in part_rows(corpus, snapshot, part, embedded, ids, schema))


def corpus_of(contents: Sequence[bytes], folder: Path, *, thumbnails: bool) -> tuple[Corpus, Snapshot]:
    """A corpus of these images in one part; without thumbnails as earlier versions wrote it."""
    rows = [
        {
            "item_id": str(number),
            "image": {"bytes": content, "path": f"{number}.jpg"},
            "texts": ["a text"],
            "split": "train",
            "width": 1,
            "height": 1,
            "source": "",
            "content_digest": "",
            "thumbnail": thumbnail(content) if thumbnails else None,
        }
        for number, content in enumerate(contents)
    ]
    corpus = Corpus(folder)
    part = corpus.write_items(pa.Table.from_pylist(rows, item_schema({})), EMPTY)
    return corpus, Snapshot(number=1, files={}, parts=(part,), quarantine=(), tombstones={}, keep={})


def figures(architecture: str, count: int, rounds: int) -> dict[str, object]:
    """Seconds for `count` images, of every way."""
    contents = stored(count)
    lazy: list[Picture] = [partial(open_stored, content) for content in contents]
    encoder = Encoder(create(ModelConfig(architecture=architecture), ["a text"], seed=0))
    settings = encoder.dual_encoder.preprocess_cfg
    ready = [encoder.pixels(lazy[start : start + IMAGE_BATCH]) for start in range(0, count, IMAGE_BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.npy"
        known = corpus_of(contents, Path(folder) / "known", thumbnails=True)
        older = corpus_of(contents, Path(folder) / "older", thumbnails=False)
        seconds = measured(
            {
                "pixels before": lambda: pixels_one_by_one(contents, Geometry.of(settings), file),
                "pixels": lambda: write_pixels(lazy, count, settings, file),
                "forward alone": lambda: [forward(image_BCHW, encoder) for image_BCHW in ready],
                "embedding before": lambda: embed_one_by_one(contents, encoder),
                "embedding": lambda: encoder.embed_images(lazy),
                "index before": lambda: (indexed(*known), [thumbnail(content) for content in contents]),
                "index of an older part": lambda: indexed(*older),
                "index": lambda: indexed(*known),
            },
            rounds,
        )
    return {
        "architecture": architecture,
        "images": count,
        "bytes": sum(map(len, contents)),
        "size": Image.open(io.BytesIO(contents[0])).size,
        "cpus": available_cpus(),
        "load": os.getloadavg(),
        "seconds": seconds,
        "ratios": {
            f"{name} by {kind}": round(seconds[slow][kind] / seconds[fast][kind], 2)
            for name, slow, fast in (
                ("pixels, times as fast as before", "pixels before", "pixels"),
                ("embedding, times as fast as before", "embedding before", "embedding"),
                ("embedding, share of forward's speed", "forward alone", "embedding"),
                ("index, times as fast as before", "index before", "index"),
            )
            for kind in ("wall", "processor")
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="tiny-64")
    parser.add_argument("--images", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(figures(options.architecture, options.images, options.rounds), indent=1) + "\n")
