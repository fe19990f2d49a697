"""Embedding of stored pictures end to end, beside the forward pass over pixels that lie ready on the device."""

# B = batch

import io
from functools import partial

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu.measures import Part, encoder_of, made_up_texts, seconds
from pairloom.models.encoder import IMAGE_BATCH, Encoder
from pairloom.models.pictures import Picture
from pairloom.storage.images.decoding import open_stored

SIDE = 256


def run(part: Part) -> None:
    """A line of each, and their ratio."""
    architecture, count = part.sizes.architectures[0], part.sizes.images
    encoder = Encoder(encoder_of(architecture, made_up_texts(count)))
    found: dict[str, float] = {}

    def forward() -> dict[str, object]:
        batch = min(IMAGE_BATCH, count)
        image_BCHW = encoder.pixels([open_stored(each) for each in jpegs(batch)]).to(encoder.dual_encoder.device)

        def once() -> None:
            with torch.inference_mode():
                for _ in range(count // batch):
                    encoder.dual_encoder.encode_images(image_BCHW).cpu()

        once()
        found["forward"] = count // batch * batch / seconds(once)
        return {"images_per_second": found["forward"]}

    def whole() -> dict[str, object]:
        stored = jpegs(min(count, 512))
        pictures: list[Picture] = [partial(open_stored, stored[row % len(stored)]) for row in range(count)]
        spent = seconds(lambda: encoder.embed_images(pictures))
        rate = count / spent
        return {"images_per_second": rate, "of_forward": rate / found["forward"] if "forward" in found else None}

    part.measure(f"forward only, {architecture}", forward)
    part.measure(f"end to end from JPEGs of {SIDE} px, {architecture}", whole)


def jpegs(count: int) -> list[bytes]:
    """Smooth noise, about as large as photographs are."""
    random, found = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
        stream = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found
