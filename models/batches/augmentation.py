"""Random changes to the images of a batch, drawn for the whole batch and applied on the model's device."""

# B = batch, C = colours, H = height, W = width

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pairloom.models.batches.config import AugmentationConfig


@dataclass(frozen=True)
class Changes:
    """What happens to each of B images."""

    affine_B23: torch.Tensor
    """As `torch.nn.functional.affine_grid` takes it."""
    contrast_B: torch.Tensor
    brightness_B: torch.Tensor

    def of(self, rows: slice | torch.Tensor) -> "Changes":
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
