"""Exports a saved model's towers for queries without torch, and keeps only what gives the same embeddings."""

# N = images or texts, B = batch, L = tokens, D = embedding, H = height, W = width, C = colours

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from pairloom.models.arrays import Embeddings
from pairloom.models.exported import ExportedEncoder
from pairloom.models.geometry import Geometry, Pixels, normalized
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.export_files import (
    IMAGE,
    MANIFEST,
    SECOND_IMAGE,
    TEXT,
    TOKENIZER,
    Manifest,
    TextSettings,
)
from pairloom.models.towers.export_tokenizer import cleaning_of, exported_tokenizer
from pairloom.models.towers.graphs import ImageGraph, TextGraph, write_graph
from pairloom.models.towers.second_tower import PREFIX

logger = logging.getLogger(__name__)

T = TypeVar("T")

TOLERANCE = 1e-5
"""Of one number of an embedding, by torch and by the exported tower."""
TEXTS, IMAGES = 24, 8
"""How many of those given are compared."""
ODD_TEXTS = (
    "x", "", " \t\n ", "A RED\nAPPLE!!", "séance Ã©tÃ© l’été", "红色的鞋 👟🏽", "&lt;b&gt; &amp;amp; it's",
    "word " * 100, "zero\u200bwidth\ufeff", "<eot> <pad> <start_of_text> </s> [SEP]", "50% of 3.14, don't_they",
)  # fmt: skip
SHAPES = ((64, 64), (37, 90), (200, 31), (5, 7))
"""Sizes of images whose preprocessing is compared with open_clip's."""


@dataclass(frozen=True)
class Compared:
    """What an exported model and torch are given, or some of it."""

    texts: Sequence[str]
    pixels_NHWC: Pixels


def export(directory: Path, compared: Compared) -> Manifest:
    """Writes the exported towers into a model's OpenCLIP directory.

    A tower that can't be exported, or gives other embeddings than torch, is left out, with the reason.
    """
    encoder, reasons = load(directory), list[str]()
    encoder.network.requires_grad_(False)
    manifest = Manifest(
        dimension=int(encoder.config["model_cfg"]["embed_dim"]),
        second=encoder.second,
        tolerance=TOLERANCE,
        torch=torch.__version__,
    )
    try:
        manifest = manifest.model_copy(update={"text": _export_texts(encoder, directory, manifest, compared.texts)})
    except Exception as error:  # whatever torch, ONNX and tokenizers raise over what they don't know
        reasons.append(_reason("the text tower", error))
        _remove(directory, TEXT, TOKENIZER)
    try:
        _export_images(encoder, directory, manifest, compared.pixels_NHWC)
        manifest = manifest.model_copy(update={"image": encoder.preprocess_cfg})
    except Exception as error:  # as above
        reasons.append(_reason("the image tower", error))
        _remove(directory, IMAGE, SECOND_IMAGE)
    for each in reasons:
        logger.warning("%s", each)
    manifest = manifest.model_copy(update={"reasons": tuple(reasons)})
    (directory / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    return manifest


def _export_texts(encoder: DualEncoder, directory: Path, manifest: Manifest, texts: Sequence[str]) -> TextSettings:
    """The settings of an exported text tower that gives torch's embeddings. ValueError where it gives others."""
    settings = TextSettings(cleaning=cleaning_of(encoder.tokenizer), end=encoder.text_end)
    exported_tokenizer(encoder.tokenizer).save(str(directory / TOKENIZER), pretty=False)
    asked = [*_some(texts, TEXTS), *ODD_TEXTS]
    example_BL = encoder.tokenize(asked[:2])
    axes = ["B"]
    if settings.end is not None:
        # Shorter than the context, so that its length isn't taken for the only one there is.
        example_BL, axes = example_BL[:, : max(2, encoder.context_length - 1)], ["B", "L"]
    write_graph(TextGraph(encoder), example_BL, axes, directory, TEXT)
    made = ExportedEncoder(directory, manifest.model_copy(update={"text": settings}))
    asked.sort(key=len)
    for some in _batches(asked):
        wanted_BL = encoder.trim(encoder.tokenize(some))
        if not np.array_equal(made.tokens(some), wanted_BL.numpy()):
            raise ValueError("the library `tokenizers` cuts texts into other tokens than open_clip")
        with torch.inference_mode():
            wanted_BD = encoder.encode_texts(wanted_BL).numpy()
        _require_equal(made.embed_texts(some), wanted_BD)
    return settings


def _export_images(encoder: DualEncoder, directory: Path, manifest: Manifest, pixels_NHWC: Pixels) -> None:
    """Exports the image towers. ValueError where they give other embeddings than torch."""
    cfg = encoder.preprocess_cfg
    _compare_preprocessing(encoder)
    images = [Image.fromarray(pixels_NHWC[row]) for row in _some(range(len(pixels_NHWC)), IMAGES)]
    geometry = Geometry.of(cfg)
    example = torch.from_numpy(normalized(np.stack([geometry(image) for image in images[:2]]), cfg))
    for name, prefix in ((IMAGE, "visual."), (SECOND_IMAGE, PREFIX)):
        if prefix in encoder.image_towers:
            write_graph(ImageGraph(encoder, prefix), example, ["B"], directory, name)
    made = ExportedEncoder(directory, manifest.model_copy(update={"image": cfg}))
    for some in _batches(images):
        image_BCHW = torch.from_numpy(normalized(np.stack([geometry(image) for image in some]), cfg))
        for second in (False, True) if encoder.second else (False,):
            second_B = np.full(len(some), second)
            with torch.inference_mode():
                wanted_BD = encoder.encode_images(image_BCHW, torch.from_numpy(second_B)).numpy()
            _require_equal(made.embed_images(some, second_B), wanted_BD)


def _compare_preprocessing(encoder: DualEncoder) -> None:
    """ValueError where open_clip makes other inputs of images than we do."""
    cfg, draw = encoder.preprocess_cfg, np.random.default_rng(0)
    transform, geometry = image_transform_v2(PreprocessCfg(**cfg), is_train=False), Geometry.of(cfg)
    for width, height in SHAPES:
        image = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if not np.allclose(transform(image).numpy(), normalized(geometry(image)[None], cfg)[0], rtol=0, atol=1e-6):
            raise ValueError("images are preprocessed otherwise than by open_clip")


def _require_equal(found_BD: Embeddings, wanted_BD: Embeddings) -> None:
    difference = float(np.abs(found_BD - wanted_BD).max())
    if not difference <= TOLERANCE:
        raise ValueError(f"its embeddings differ from torch's by {difference:.1g}")


def _batches(things: Sequence[T]) -> list[Sequence[T]]:
    """One alone, a few, and all the others."""
    return [each for each in (things[:1], things[1:4], things[4:]) if len(each)]


def _some(things: Sequence[T], count: int) -> Sequence[T]:
    """As many, from all over."""
    return things[:: max(1, len(things) // count)][:count]


def _reason(tower: str, error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{tower} can't be exported, so that queries load torch for it: {said[:200]}"


def _remove(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).unlink(missing_ok=True)
