"""Turns images and texts into embeddings with a saved model."""

# N = inputs or items, T = unique texts, B = batch, D = embedding, F = features, H = height,
# W = width, C = colours

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from threading import Lock

import numpy as np
import torch
from safetensors import SafetensorError

from pairloom.models.arrays import Embeddings, Features, Indices, Mask, best_device
from pairloom.models.batches.pixels import normalize_pixels
from pairloom.models.fitness import require_finite
from pairloom.models.geometry import Geometry, Pixels
from pairloom.models.pictures import Picture, mapped
from pairloom.models.towers.config import SecondImageTowerConfig
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.opening import reason
from pairloom.models.towers.text_trunk import TextTrunk
from pairloom.models.towers.trunk import Trunk

IMAGE_BATCH = 256
TEXT_BATCH = 1024
TRUNK_BATCH = 16
"""Images that pass a convolutional trunk at once on a CPU. More want memory that is given back after each layer, and to
find it again takes the system longer than the layer does."""


class Encoder:
    """A dual encoder in evaluation mode, for any number of threads."""

    def __init__(self, dual_encoder: DualEncoder) -> None:
        self.dual_encoder = dual_encoder
        self.dual_encoder.network.to(best_device()).eval()
        self._geometry = Geometry.of(dual_encoder.preprocess_cfg)
        # Held while anything passes the network: a trimmed text puts its positions away for that long, and a
        # cross-encoder listens at its last layers.
        self.alone = Lock()

    @classmethod
    def load(cls, directory: Path) -> "Encoder":
        """The encoder of an OpenCLIP directory. RuntimeError where its weights aren't ones, or need code to run."""
        try:
            return cls(load(directory))
        except (RuntimeError, UnpicklingError, SafetensorError) as error:
            raise RuntimeError(f"{directory} can't be loaded: {reason(error)}") from error

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return int(self.dual_encoder.config["model_cfg"]["embed_dim"])

    def pixels(self, images: Iterable[Picture]) -> torch.Tensor:
        """Float32 (B, 3, H, W): the images as the image tower takes them."""
        return self._normalized(list(mapped(self._geometry, images)))

    @property
    def second(self) -> SecondImageTowerConfig | None:
        """Which items the second image tower encodes, where there is one."""
        return self.dual_encoder.second

    def embed_images(
        self, images: Sequence[Picture], second_N: Mask | None = None, *, batch_size: int = IMAGE_BATCH
    ) -> Embeddings:
        """Float32 (N, D), L2-normalised, through open_clip's evaluation preprocessing.

        `second_N` are the images for the second image tower; none leaves all to the first. Raises UnfitModelError where
        an embedding is not finite.
        """
        return self.embed_batches([images], second_N, batch_size=batch_size)

    def embed_batches(
        self, batches: Iterable[Sequence[Picture]], second_N: Mask | None = None, *, batch_size: int = IMAGE_BATCH
    ) -> Embeddings:
        """The same of all images of some batches. While a GPU embeds one batch, pictures of the next are opened."""
        found, done = [np.empty((0, self.dimension), dtype=np.float32)], 0
        with torch.inference_mode():
            for image_BCHW in self._prepared(batches, batch_size):
                own = slice(done, done + len(image_BCHW))
                second_B = None if second_N is None else torch.from_numpy(second_N[own])
                with self.alone:
                    found.append(self.dual_encoder.encode_images(image_BCHW, second_B).cpu().numpy())
                require_finite(found[-1], "image embeddings")
                done = own.stop
        return np.concatenate(found)

    def features(
        self,
        trunk: Trunk,
        batches: Iterable[Sequence[Picture]],
        changed: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Features:
        """Float32 (N, F): what this encoder's trunk makes of all images of some batches, or of what `changed` makes of
        the normalised pixels (B, 3, H, W)."""
        batch_size = TRUNK_BATCH if self.dual_encoder.device.type == "cpu" else IMAGE_BATCH
        found = [np.empty((0, trunk.width), dtype=np.float32)]
        with torch.inference_mode():
            for image_BCHW in self._prepared(batches, batch_size):
                with self.alone:
                    found.append(trunk.features(changed(image_BCHW) if changed else image_BCHW).cpu().numpy())
                require_finite(found[-1], "image features")
        return np.concatenate(found)

    def embed_features(self, trunk: Trunk, feature_NF: Features) -> Embeddings:
        """Float32 (N, D), L2-normalised: the image embeddings that follow from the trunk's output."""
        found = [np.empty((0, self.dimension), dtype=np.float32)]
        with torch.inference_mode(), self.alone, trunk.aside():
            for start in range(0, len(feature_NF), TEXT_BATCH):
                feature_BF = torch.from_numpy(feature_NF[start : start + TEXT_BATCH])
                found.append(self.dual_encoder.encode_images(feature_BF).cpu().numpy())
        require_finite(embedding_ND := np.concatenate(found), "image embeddings")
        return embedding_ND

    def _prepared(self, batches: Iterable[Sequence[Picture]], batch_size: int) -> Iterator[torch.Tensor]:
        """The images as the tower takes them, at most `batch_size` at once and never of two batches."""
        sizes: deque[int] = deque()

        def told() -> Iterator[Picture]:
            for images in batches:
                for start in range(0, len(images), batch_size):
                    own = images[start : start + batch_size]
                    sizes.append(len(own))
                    yield from own

        # While a GPU works at a batch, the next one is made ready; a CPU would only be kept from its work by that.
        ahead = None if self.dual_encoder.device.type == "cpu" else batch_size
        made = mapped(self._geometry, told(), ahead=ahead)
        for first in made:
            yield self._normalized([first, *islice(made, sizes.popleft() - 1)])

    def _normalized(self, pixels_BHWC: Sequence[Pixels]) -> torch.Tensor:
        image_BCHW = normalize_pixels(np.stack(pixels_BHWC), self.dual_encoder.preprocess_cfg)
        # Bit for bit what open_clip's transform leads to: convolutions add up in the order of the memory.
        return image_BCHW.contiguous()

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Float32 (N, D), L2-normalised. Raises UnfitModelError where an embedding is not finite."""
        return self._of_texts(texts, self.dual_encoder.encode_texts, self.dimension, "text embeddings")

    def text_features(self, trunk: TextTrunk, texts: Sequence[str]) -> Features:
        """Float32 (N, F): what this encoder's text trunk makes of texts."""
        return self._of_texts(texts, trunk.features, trunk.width, "text features")

    def embed_text_features(self, trunk: TextTrunk, feature_NF: Features) -> Embeddings:
        """Float32 (N, D), L2-normalised: the text embeddings that follow from the trunk's output."""
        embedding_ND = np.empty((len(feature_NF), self.dimension), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(feature_NF), TEXT_BATCH):
                feature_BF = torch.from_numpy(feature_NF[start : start + TEXT_BATCH])
                embedding_ND[start : start + len(feature_BF)] = trunk.embeddings(feature_BF).cpu().numpy()
        require_finite(embedding_ND, "text embeddings")
        return embedding_ND

    def _of_texts(
        self, texts: Sequence[str], made: Callable[[torch.Tensor], torch.Tensor], width: int, what: str
    ) -> Features:
        """Float32 (N, width): what is made of the texts' tokens. UnfitModelError, naming `what`, if it isn't finite."""
        found_NX = np.empty((len(texts), width), dtype=np.float32)
        with torch.inference_mode(), self.alone:
            for start in range(0, len(texts), TEXT_BATCH):
                token_BL = self.dual_encoder.trim(self.dual_encoder.tokenize(texts[start : start + TEXT_BATCH]))
                found_NX[start : start + len(token_BL)] = made(token_BL).cpu().numpy()
        require_finite(found_NX, what)
        return found_NX


def mean_text_embeddings(text_TD: Embeddings, item_texts: Iterable[Indices]) -> Embeddings:
    """One embedding an item (N, D): the mean of its texts' embeddings, L2-normalised.

    `item_texts` holds the rows of each item's texts, as `Relations.item_texts` does.
    """
    mean_ND = np.stack([text_TD[own].mean(axis=0) for own in item_texts])
    normalised_ND: Embeddings = mean_ND / np.maximum(np.linalg.norm(mean_ND, axis=1, keepdims=True), 1e-12)
    return normalised_ND
