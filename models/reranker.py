"""A saved cross-encoder at work: scores of one text with many images, or of one image with many texts."""

# N = images or texts, D = embedding

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pairloom.models.arrays import Scores
from pairloom.models.encoder import Encoder
from pairloom.models.fitness import require_finite
from pairloom.models.objectives.batch import Setting
from pairloom.models.objectives.config import CrossEncoderConfig
from pairloom.models.objectives.cross_encoder import CrossEncoderTerm
from pairloom.models.objectives.kept import read_kept
from pairloom.models.objectives.kept_configs import reranker_config
from pairloom.models.objectives.pair_network import CrossEncoder


class Reranker:
    """A cross-encoder in evaluation mode, beside the dual encoder that it was trained with."""

    def __init__(self, network: CrossEncoder, encoder: Encoder, *, cosine: float) -> None:
        """`cosine` is the share of the dual encoder's logit that is added to a score."""
        self._encoder = encoder
        self._network = network.to(encoder.dual_encoder.device).eval()
        logit_scale: torch.Tensor = encoder.dual_encoder.network.logit_scale  # type: ignore[assignment]
        self.cosine = cosine
        self._logit_scale = float(logit_scale.detach().exp())

    @classmethod
    def load(cls, directory: Path, encoder: Encoder) -> "Reranker":
        """The cross-encoder that was kept beside a model; ValueError where there is none."""
        name, written = reranker_config(directory)
        # Those that tell nothing of towers were kept before there were own ones.
        config = CrossEncoderConfig.model_validate({"towers": "shared"} | written)
        term = CrossEncoderTerm(config, Setting(encoder.dual_encoder, item_count=0, seed=0))
        prefix = f"{name}."
        kept = read_kept(directory)
        term.load_state_dict({key.removeprefix(prefix): kept[key] for key in kept if key.startswith(prefix)})
        return cls(term.network, encoder, cosine=config.cosine)

    def score_images(self, text: str, images: Sequence[Image.Image], cosine_N: npt.ArrayLike) -> Scores:
        """How well `text` describes each image, of whose embeddings the cosine similarities are known."""
        return self._scores(images, [text]) + self.cosine * self._logit_scale * np.asarray(cosine_N, np.float32)

    def score_texts(self, image: Image.Image, texts: Sequence[str]) -> Scores:
        """How well each text describes `image`."""
        (image_D,), text_ND = self._encoder.embed_images([image]), self._encoder.embed_texts(texts)
        scores: Scores = self._scores([image], texts) + self.cosine * self._logit_scale * (text_ND @ image_D)
        return scores

    def _scores(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Scores:
        """All pairs of one text and N images, or of one image and N texts; UnfitModelError where one isn't finite."""
        dual = self._encoder.dual_encoder
        pixels_BCHW = self._encoder.pixels(images)
        with torch.inference_mode(), self._encoder.alone:
            read_images = self._network.read_images(pixels_BCHW.to(dual.device))
            read_texts = self._network.read_texts(dual.trim(dual.tokenize(texts)).to(dual.device))
            count = max(len(images), len(texts))
            every_N = torch.arange(count, device=dual.device)
            first_N = torch.zeros_like(every_N)
            rows = (every_N, first_N) if len(texts) == 1 else (first_N, every_N)
            scores: Scores = self._network(read_images, read_texts, *rows).cpu().numpy()
        require_finite(scores, "scores of the cross-encoder")
        return scores
