"""An auto-encoder head: a small decoder gives an image back from its embedding, beside the losses of other terms."""

# B = batch, b = this rank's share of it, D = embedding, C = colours, H = height, W = width

import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.config import ReconstructionConfig


def build(config: ReconstructionConfig, setting: Setting) -> Term:
    """The term with its decoder."""
    return ReconstructionTerm(config, setting)


class ReconstructionTerm(Term):
    """The squared error of the decoded images. Nothing of it is kept beside the model."""

    splits = True

    def __init__(self, config: ReconstructionConfig, setting: Setting) -> None:
        super().__init__()
        size = setting.encoder.preprocess_cfg["size"]
        height, width = (size, size) if isinstance(size, int) else size
        self._shape = (3, min(height, config.side), min(width, config.side))
        self.decoder = nn.Sequential(
            nn.Linear(setting.dimension, config.width),
            nn.GELU(),
            nn.Linear(config.width, self._shape[0] * self._shape[1] * self._shape[2]),
            nn.Unflatten(1, self._shape),
        )

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """This rank's share of the loss."""
        decoded_bCHW = self.decoder(batch.sides["image"][batch.own_rows])
        return squared_errors(decoded_bCHW, batch.ready.image_bCHW).sum() / batch.ready.count


def squared_errors(decoded_bCHW: torch.Tensor, image_bCHW: torch.Tensor) -> torch.Tensor:
    """(b,): mean squared difference of each decoded image from the image, its pixels averaged to the decoded size."""
    height, width = decoded_bCHW.shape[-2:]
    shrunk_bCHW = F.adaptive_avg_pool2d(image_bCHW, (height, width))
    return (decoded_bCHW - shrunk_bCHW).square().mean(dim=(1, 2, 3))
