"""Decoded pixels, resized once as the model sees them, so that training never decodes; and cheap batch augmentation."""

# N = images, B = batch, H = height, W = width, C = colours

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pairloom.models.arrays import Features, Indices
from pairloom.models.geometry import Geometry, Pixels
from pairloom.models.pictures import Picture, mapped


def write_pixels(images: Iterable[Picture], count: int, preprocess_cfg: Mapping[str, Any], path: Path) -> None:
    """Writes `count` images as uint8 (N, H, W, 3), through the geometry of the evaluation preprocessing."""
    geometry = Geometry.of(preprocess_cfg)
    shape = (count, geometry.height, geometry.width, 3)
    written = 0
    # Not through a memory map: where the disk is full, that kills the process instead of raising OSError.
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for pixels_HWC in mapped(geometry, images):
            file.write(np.ascontiguousarray(pixels_HWC).data)
            written += 1
    if written != count:
        raise ValueError(f"{path}: {count} images were announced, {written} came")


def pixel_bytes(count: int, preprocess_cfg: Mapping[str, Any]) -> int:
    """What `write_pixels` will write, but for a header."""
    geometry = Geometry.of(preprocess_cfg)
    return count * geometry.height * geometry.width * 3


def write_features(feature_NF: Features, path: Path) -> None:
    """Writes what a trunk that is put aside made of the images, float32 (N, F), where pixels would be."""
    with path.open("wb") as file:
        np.save(file, feature_NF)


def open_features(path: Path) -> Features:
    """The file of `write_features` as a read-only memory map, float32 (N, F)."""
    feature_NF: Features = np.lib.format.open_memmap(path, mode="r")
    return feature_NF


def open_pixels(path: Path) -> Pixels:
    """The file of `write_pixels` as a read-only memory map, uint8 (N, H, W, 3)."""
    pixels: Pixels = np.lib.format.open_memmap(path, mode="r")
    return pixels


class StreamedPixels:
    """Pixels that are made when they are asked for; those of `write_pixels`."""

    def __init__(
        self, picture: Callable[[int], Image.Image], preprocess_cfg: Mapping[str, Any], *, threads: int | None = None
    ) -> None:
        """`picture` opens the image of a row, in so many threads at once, as many as there are CPUs by default."""
        self._picture, self._geometry, self._threads = picture, Geometry.of(preprocess_cfg), threads

    def __getitem__(self, rows: Indices | slice) -> Pixels:
        """Uint8 (B, H, W, 3) of some rows."""
        wanted = range(*rows.indices(rows.stop)) if isinstance(rows, slice) else rows.tolist()
        return np.stack(list(mapped(self._pixels, wanted, threads=self._threads)))

    def _pixels(self, row: int) -> Pixels:
        return self._geometry(self._picture(row))


def normalize_pixels(
    pixels_BHWC: Pixels, preprocess_cfg: Mapping[str, Any], device: torch.device | str = "cpu"
) -> torch.Tensor:
    """What the image tower takes, on `device`: float32 (B, 3, H, W) with the model's mean and standard deviation."""
    mean, std = (torch.tensor(preprocess_cfg[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std"))
    # permute alone keeps the colours last in memory, which is also the fastest layout for convolutions.
    image_BCHW = torch.from_numpy(np.array(pixels_BHWC)).to(device).permute(0, 3, 1, 2)
    return image_BCHW.float().div_(255).sub_(mean).div_(std)
