"""Decoded pixels, resized once as the model sees them, so that training never decodes; and cheap batch augmentation."""

# N = images, B = batch, H = height, W = width, C = colours

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, Field

Pixels = npt.NDArray[np.uint8]


class AugmentationConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Random changes to the images of a batch."""

    shift: float = Field(default=0.08, ge=0, le=0.5)
    """Largest shift, as a fraction of the side."""
    scale: float = Field(default=0.15, ge=0, lt=1)
    """Largest relative change of size."""
    rotation: float = Field(default=10.0, ge=0, le=180)
    """Largest rotation in degrees."""
    flip: bool = False
    """Mirror half of the images; wrong where left and right matter (arrows, text)."""
    colour: float = Field(default=0.1, ge=0, lt=1)
    """Largest relative change of brightness and contrast."""


def write_pixels(images: Iterable[Image.Image], count: int, preprocess_cfg: Mapping[str, Any], path: Path) -> None:
    """Writes `count` images as uint8 (N, H, W, 3), through the geometry of the evaluation preprocessing."""
    # As late as `towers` does it.
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    cfg = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), dict(preprocess_cfg)))
    # Pixels stay uint8: the last two steps of the transform only turn them into normalised floats.
    *geometry, _to_tensor, _normalize = image_transform_v2(cfg, is_train=False).transforms
    height, width = cfg.input_size[1:]
    pixels_NHWC = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, height, width, 3))
    written = 0
    for image in images:
        for step in geometry:
            image = step(image)
        pixels_NHWC[written] = np.asarray(image)
        written += 1
    if written != count:
        raise ValueError(f"{path}: {count} images were announced, {written} came")
    pixels_NHWC.flush()


def open_pixels(path: Path) -> Pixels:
    """The file of `write_pixels` as a read-only memory map, uint8 (N, H, W, 3)."""
    pixels: Pixels = np.load(path, mmap_mode="r")
    return pixels


def normalize_pixels(
    pixels_BHWC: Pixels, preprocess_cfg: Mapping[str, Any], device: torch.device | str = "cpu"
) -> torch.Tensor:
    """What the image tower takes, on `device`: float32 (B, 3, H, W) with the model's mean and standard deviation."""
    mean, std = (torch.tensor(preprocess_cfg[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std"))
    # permute alone keeps the colours last in memory, which is also the fastest layout for convolutions.
    image_BCHW = torch.from_numpy(np.array(pixels_BHWC)).to(device).permute(0, 3, 1, 2)
    return image_BCHW.float().div_(255).sub_(mean).div_(std)


@dataclass(frozen=True)
class Changes:
    """What happens to each of B images."""

    affine_B23: torch.Tensor
    """As `torch.nn.functional.affine_grid` takes it."""
    contrast_B: torch.Tensor
    brightness_B: torch.Tensor

    def of(self, rows: slice) -> "Changes":
        """The changes of some of the images."""
        return Changes(self.affine_B23[rows], self.contrast_B[rows], self.brightness_B[rows])


def draw_changes(count: int, config: AugmentationConfig, generator: torch.Generator) -> Changes:
    """Random changes for `count` images."""

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    zoom_B = torch.exp(uniform(math.log1p(config.scale)))
    angle_B = uniform(math.radians(config.rotation))
    # Coordinates run from -1 to 1, so a shift by a fraction of the side is twice as large.
    shift_B2 = torch.stack([uniform(2 * config.shift), uniform(2 * config.shift)], dim=1)
    mirror_B = torch.where(torch.rand(count, generator=generator) < (0.5 if config.flip else 0.0), -1.0, 1.0)
    contrast_B, brightness_B = 1 + uniform(config.colour), uniform(config.colour)
    cos_B, sin_B = torch.cos(angle_B) * zoom_B, torch.sin(angle_B) * zoom_B
    rows = [torch.stack([cos_B * mirror_B, -sin_B], 1), torch.stack([sin_B * mirror_B, cos_B], 1)]
    return Changes(torch.cat([torch.stack(rows, 1), shift_B2.unsqueeze(2)], dim=2), contrast_B, brightness_B)


def augment(image_BCHW: torch.Tensor, changes: Changes) -> torch.Tensor:
    """Each image of the batch moved, scaled, turned and recoloured; what comes in is the image's border."""
    device = image_BCHW.device
    grid_BHW2 = F.affine_grid(changes.affine_B23.to(device), list(image_BCHW.shape), align_corners=False)
    moved_BCHW = F.grid_sample(image_BCHW, grid_BHW2, padding_mode="border", align_corners=False)
    contrast_B, brightness_B = changes.contrast_B.to(device), changes.brightness_B.to(device)
    return moved_BCHW * contrast_B.view(-1, 1, 1, 1) + brightness_B.view(-1, 1, 1, 1)
