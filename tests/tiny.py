"""A very small architecture and collection that train in a moment."""

import itertools
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220), "grey": (128, 128, 128)}
SHAPES = ("square", "bar", "corner", "frame")


def tiny_architecture(folder: Path) -> str:
    """Path of a config file: 16 pixel images, 8 tokens, 16 dimensions."""
    path = folder / "tiny-16.json"
    path.write_text(
        json.dumps(
            {
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
        )
    )
    return str(path)


def lstm_architecture(folder: Path) -> str:
    """The tiny architecture with a recurrent text tower."""
    path = Path(tiny_architecture(folder))
    content = json.loads(path.read_text())
    text_cfg = {"lstm": {"width": 12, "layers": 2}, "context_length": 8, "vocab_size": 300}
    content["model_cfg"]["text_cfg"] = text_cfg | {"hf_tokenizer_name": "fitted"}
    path.write_text(json.dumps(content))
    return str(path)


def timm_architecture(folder: Path, **vision: object) -> str:
    """Path of a config file: timm's smallest EfficientNet, with batch normalisation, and the tiny text tower."""
    path = Path(tiny_architecture(folder))
    content = json.loads(path.read_text())
    content["model_cfg"]["vision_cfg"] = {
        "image_size": 32,
        "timm_model_name": "test_efficientnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "timm_proj_bias": True,
        **vision,
    }
    path.write_text(json.dumps(content))
    return str(path)


def tiny_encoder(folder: Path, *, seed: int = 0) -> DualEncoder:
    """An untrained encoder with a vocabulary fitted to the collection's texts."""
    texts = [text for own in tiny_texts() for text in own]
    return create(ModelConfig(architecture=tiny_architecture(folder)), texts, seed=seed)


def tiny_texts() -> list[list[str]]:
    """Texts of 32 items: two of every colour and shape."""
    return [[f"{colour} {shape}", f"a {shape} in {colour}"] for colour in COLOURS for shape in SHAPES for _ in range(2)]


def tiny_images() -> list[Image.Image]:
    """The pictures that `tiny_texts` describe, 20 × 12 pixels."""
    images = []
    for colour in COLOURS.values():
        for shape in SHAPES:
            for copy in range(2):
                canvas = np.full((12, 20, 3), 255 - 10 * copy, dtype=np.uint8)
                canvas[
                    {"square": np.s_[2:10, 6:14], "bar": np.s_[4:7, :], "corner": np.s_[:6, :8], "frame": np.s_[:2, :]}[
                        shape
                    ]
                ] = colour
                images.append(Image.fromarray(canvas))
    return images


def tiny_items(folder: Path, encoder: DualEncoder) -> TrainingItems:
    """The collection, ready for training with this encoder."""
    texts, path = tiny_texts(), folder / "pixels.npy"
    if not path.exists():
        write_pixels(tiny_images(), len(texts), encoder.preprocess_cfg, path)
    ids = [str(number) for number in range(len(texts))]
    relations = Relations.build(ids, [own[0] for own in texts], texts, [None] * len(texts))
    return TrainingItems(tuple(ids), open_pixels(path), relations)


def interrupt_after_checkpoint(encoder: DualEncoder, workdir: Path, *, beyond: int = 0) -> None:
    """Have a training there raise KeyboardInterrupt amid a step, once it has left a checkpoint beyond that step.

    Until then passes take ever longer: checkpoints come after a share of the time, which a slow disk makes long.
    """
    delays = (0.001 * 1.2**number for number in itertools.count())

    def interrupt(*_: object) -> None:
        saved = [int(folder.name.removeprefix("step-")) for folder in workdir.glob("checkpoints/step-*[0-9]")]
        if any(step > beyond for step in saved):
            raise KeyboardInterrupt
        time.sleep(next(delays))

    encoder.network.get_submodule("visual").register_forward_pre_hook(interrupt)
