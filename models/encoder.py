"""Turns images and texts into embeddings with a saved model."""

# N = inputs or items, T = unique texts, B = batch, D = embedding, H = height, W = width

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pairloom.models.arrays import Embeddings, Indices, Mask, best_device
from pairloom.models.fitness import require_finite
from pairloom.models.towers.config import SecondImageTowerConfig
from pairloom.models.towers.dual_encoder import DualEncoder, load

TEXT_BATCH = 1024


class Encoder:
    """A dual encoder in evaluation mode."""

    def __init__(self, dual_encoder: DualEncoder) -> None:
        self.dual_encoder = dual_encoder
        self.dual_encoder.network.to(best_device()).eval()
        # As late as `towers` does it.
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self._preprocess = image_transform_v2(PreprocessCfg(**dual_encoder.preprocess_cfg), is_train=False)

    @classmethod
    def load(cls, directory: Path) -> "Encoder":
        """The encoder of an OpenCLIP directory."""
        return cls(load(directory))

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return int(self.dual_encoder.config["model_cfg"]["embed_dim"])

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Float32 (B, 3, H, W): the images as the image tower takes them."""
        return torch.stack([self._preprocess(image) for image in images])

    @property
    def second(self) -> SecondImageTowerConfig | None:
        """Which items the second image tower encodes, where there is one."""
        return self.dual_encoder.second

    def embed_images(
        self, images: Sequence[Image.Image], second_N: Mask | None = None, *, batch_size: int = 256
    ) -> Embeddings:
        """Float32 (N, D), L2-normalised, through open_clip's evaluation preprocessing.

        `second_N` are the images for the second image tower; none leaves all to the first. Raises UnfitModelError where
        an embedding is not finite.
        """
        embedding_ND = np.empty((len(images), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                image_BCHW = self.pixels(images[start : start + batch_size])
                second_B = None if second_N is None else torch.from_numpy(second_N[start : start + len(image_BCHW)])
                embedding_BD = self.dual_encoder.encode_images(image_BCHW, second_B)
                embedding_ND[start : start + len(embedding_BD)] = embedding_BD.cpu().numpy()
        require_finite(embedding_ND, "image embeddings")
        return embedding_ND

    def embed_batches(self, batches: Iterable[Sequence[Image.Image]], second_N: Mask | None = None) -> Embeddings:
        """The same of all images of some batches, one batch at a time."""
        found, done = [np.empty((0, self.dimension), dtype=np.float32)], 0
        for images in batches:
            own = None if second_N is None else second_N[done : done + len(images)]
            found.append(self.embed_images(images, own))
            done += len(images)
        return np.concatenate(found)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Float32 (N, D), L2-normalised. Raises UnfitModelError where an embedding is not finite."""
        embedding_ND = np.empty((len(texts), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), TEXT_BATCH):
                token_BL = self.dual_encoder.trim(self.dual_encoder.tokenize(texts[start : start + TEXT_BATCH]))
                embedding_ND[start : start + len(token_BL)] = self.dual_encoder.encode_texts(token_BL).cpu().numpy()
        require_finite(embedding_ND, "text embeddings")
        return embedding_ND


def mean_text_embeddings(text_TD: Embeddings, item_texts: Sequence[Indices]) -> Embeddings:
    """One embedding an item (N, D): the mean of its texts' embeddings, L2-normalised.

    `item_texts` holds the rows of each item's texts, as `Relations.item_texts` does.
    """
    mean_ND = np.stack([text_TD[own].mean(axis=0) for own in item_texts])
    normalised_ND: Embeddings = mean_ND / np.maximum(np.linalg.norm(mean_ND, axis=1, keepdims=True), 1e-12)
    return normalised_ND
