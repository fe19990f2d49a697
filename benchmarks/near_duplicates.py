"""How well near-duplicates are told from other pictures, and what looking for them costs.

Different pictures: all pairs of files of a collection whose hashes are close, with what the small pictures say of them,
and how many of the pairs are of different `source`. Copies: pictures saved again, resized, cut; the share found.
Cost: CPU seconds for random hashes, a tenth of them copies in up to three bits, on a first night and with 1 % new.

python -m benchmarks.near_duplicates ../shared/data/emoji/captions.jsonl --base ../shared/data
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import open_query_image
from pairloom.storage.images.stored_image import shrunk
from pairloom.storage.ingestion.near_duplicates import CloseHashes, Hashes, candidates, followed, same_pictures
from pairloom.storage.ingestion.near_pictures import thumbnail

CONFIG = IngestConfig()
COPIES = 300
PAIRS_AT_ONCE = 5_000


def saved(form: str, quality: int) -> Callable[[Image.Image], Image.Image]:
    def copy(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, form, quality=quality)
        return Image.open(stream).convert("RGB")

    return copy


def resized(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize([max(16, round(side * share)) for side in image.size], Image.Resampling.LANCZOS)


def cut(image: Image.Image) -> Image.Image:
    width, height = image.size
    x, y = round(width * 0.02), round(height * 0.02)
    return image.crop((x, y, width - x, height - y))


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 85": saved("JPEG", 85),
    "JPEG, quality 50": saved("JPEG", 50),
    "WebP, quality 70": saved("WEBP", 70),
    "half the size": resized(0.5),
    "one and a half times the size": resized(1.5),
    "2 % cut off each side": cut,
}


def hash_of(image: Image.Image) -> int:
    return int(str(imagehash.phash(image)), 16)


def different_pictures(pixels: list[bytes], sources: list[str], hashes_N: Hashes, small_N: np.ndarray) -> str:
    close = CloseHashes.none(CONFIG.near_duplicate_bits).with_hashes(hashes_N)
    pairs = np.stack(candidates(hashes_N, close), axis=1)
    pairs = np.array([[a, b] for a, b in pairs.tolist() if pixels[a] != pixels[b]], np.int64).reshape(-1, 2)
    found = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        found[block] = same_pictures(*(small_N[ends] for ends in pairs[block].T))
    across = np.array([sources[a] != sources[b] for a, b in pairs.tolist()], bool)
    return (
        f"{len(hashes_N):,} pictures: {len(pairs):,} pairs by hash, {across.sum():,} of them of two sources; "
        f"{found.sum():,} by picture, {(across & found).sum():,} of two sources"
    )


def copies_found(images: list[Image.Image]) -> dict[str, float]:
    found = {}
    for name, copied in WAYS.items():
        copies = [shrunk(copied(image), CONFIG.max_side) for image in images]
        same = same_pictures(*(np.stack([thumbnail(each) for each in both]) for both in (images, copies)))
        near = [
            (hash_of(one) ^ hash_of(other)).bit_count() <= CONFIG.near_duplicate_bits
            for one, other in zip(images, copies, strict=True)
        ]
        found[name] = float(np.mean(same & np.array(near)))
    return found


def cost(count: int) -> str:
    random = np.random.default_rng(0)
    first = random.integers(0, 2**63, count * 9 // 10, np.uint64)
    copied = first[random.integers(0, len(first), count // 10)]
    for _ in range(3):
        copied ^= np.uint64(1) << random.integers(0, 64, len(copied)).astype(np.uint64)
    hashes_N = np.concatenate([first, copied])
    started = time.process_time()
    close = CloseHashes.none(CONFIG.near_duplicate_bits).with_hashes(hashes_N)
    followed(hashes_N, close, lambda earlier_M, _: np.ones(len(earlier_M), bool))
    first_night = time.process_time() - started
    more_N = np.concatenate([hashes_N, random.integers(0, 2**63, count // 100, np.uint64)])
    started = time.process_time()
    close.with_hashes(more_N)
    return f"{count:,} hashes: {first_night:.1f} CPU s, with 1 % new {time.process_time() - started:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--base", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.captions.read_text(encoding="utf-8").splitlines()]
    base = options.base or options.captions.parent
    images = [open_query_image(base / row["image"], CONFIG) for row in rows]
    hashes_N = np.array([hash_of(image) for image in images], np.uint64)
    small_N = np.stack([thumbnail(image) for image in images])
    sources = [str(row.get("source")) for row in rows]
    sys.stdout.write(different_pictures([image.tobytes() for image in images], sources, hashes_N, small_N) + "\n")
    chosen = np.random.default_rng(1).permutation(len(images))[:COPIES]
    for name, share in copies_found([images[place] for place in chosen.tolist()]).items():
        sys.stdout.write(f"{name}: {share:.2f}\n")
    for count in (100_000, 1_000_000):
        sys.stdout.write(cost(count) + "\n")


if __name__ == "__main__":
    main()
