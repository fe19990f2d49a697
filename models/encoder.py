"""Turns images and texts into embeddings with a saved model."""

# N = inputs, B = batch, D = embedding, H = height, W = width

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from models import towers

Embeddings = npt.NDArray[np.float32]

TEXT_BATCH = 1024


class Encoder:
    """A dual encoder in evaluation mode."""

    def __init__(self, dual_encoder: towers.DualEncoder) -> None:
        self._dual_encoder = dual_encoder
        self._dual_encoder.network.eval()
        self._preprocess = image_transform_v2(PreprocessCfg(**dual_encoder.preprocess_cfg), is_train=False)

    @classmethod
    def load(cls, directory: Path) -> "Encoder":
        """The encoder of an OpenCLIP directory."""
        return cls(towers.load(directory))

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return int(self._dual_encoder.config["model_cfg"]["embed_dim"])

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 256) -> Embeddings:
        """Float32 (N, D), L2-normalised, through open_clip's evaluation preprocessing."""
        embedding_ND = np.empty((len(images), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size]
                image_BCHW = torch.stack([self._preprocess(image) for image in batch])
                embedding_ND[start : start + len(batch)] = self._dual_encoder.encode_images(image_BCHW).numpy()
        return embedding_ND

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Float32 (N, D), L2-normalised."""
        embedding_ND = np.empty((len(texts), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), TEXT_BATCH):
                token_BL = self._dual_encoder.trim(self._dual_encoder.tokenize(texts[start : start + TEXT_BATCH]))
                embedding_ND[start : start + len(token_BL)] = self._dual_encoder.encode_texts(token_BL).numpy()
        return embedding_ND
