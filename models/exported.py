"""Turns images and texts into embeddings with a saved model's exported towers: `Encoder` without torch."""

# N = inputs, B = batch, L = tokens, D = embedding

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from pairloom.models.arrays import Embeddings, Indices, Mask, available_cpus
from pairloom.models.fitness import require_finite
from pairloom.models.geometry import Geometry, normalized
from pairloom.models.pictures import Picture, mapped
from pairloom.models.towers.config import SecondImageTowerConfig
from pairloom.models.towers.export_files import IMAGE, MANIFEST, SECOND_IMAGE, TEXT, TOKENIZER, Manifest, TextSettings
from pairloom.models.towers.text_cleaning import cleaned

IMAGE_BATCH = 32
TEXT_BATCH = 256
THREADS = 4
"""At most: a query is over before more of them have begun."""


class ExportedEncoder:
    """The exported towers of a model, for any number of threads; each is loaded when it is first asked for."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self._directory = directory
        self.manifest = manifest
        # cached_property has no lock of its own from Python 3.12 on.
        self._loading = RLock()
        self._towers: dict[str, Any] = {}

    @classmethod
    def load(cls, directory: Path) -> "ExportedEncoder":
        """The exported towers in a model's folder. ValueError where there are none, or such as this version can't use.

        Whether the files are those that were written is for the caller to know.
        """
        return cls(directory, Manifest.model_validate_json((directory / MANIFEST).read_bytes()))

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        return self.manifest.dimension

    @property
    def second(self) -> SecondImageTowerConfig | None:
        """Which items the second image tower encodes, where there is one."""
        return self.manifest.second

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Float32 (N, D), L2-normalised. Raises UnfitModelError where an embedding is not finite."""
        embedding_ND = np.empty((len(texts), self.dimension), dtype=np.float32)
        # Long ones together: a batch is as wide as its longest.
        order_N = np.argsort([len(text) for text in texts], kind="stable")
        for start in range(0, len(texts), TEXT_BATCH):
            some = order_N[start : start + TEXT_BATCH]
            embedding_ND[some] = self._run(TEXT, self.tokens(texts[each] for each in some))
        require_finite(embedding_ND, "text embeddings")
        return embedding_ND

    def embed_images(
        self, images: Sequence[Picture], second_N: Mask | None = None, *, batch_size: int = IMAGE_BATCH
    ) -> Embeddings:
        """Float32 (N, D), L2-normalised. `second_N` are the images for the second image tower, where there is one.

        Raises UnfitModelError where an embedding is not finite.
        """
        assert self.manifest.image is not None, "only asked where images can be embedded"
        embedding_ND = np.empty((len(images), self.dimension), dtype=np.float32)
        geometry, second = Geometry.of(self.manifest.image), np.zeros(len(images), bool)
        if self.second and second_N is not None:
            second = second_N
        for name, own in ((IMAGE, ~second), (SECOND_IMAGE, second)):
            rows = np.flatnonzero(own)
            for start in range(0, len(rows), batch_size):
                some = rows[start : start + batch_size]
                pixels_BHWC = np.stack(list(mapped(geometry, (images[row] for row in some))))
                embedding_ND[some] = self._run(name, normalized(pixels_BHWC, self.manifest.image))
        require_finite(embedding_ND, "image embeddings")
        return embedding_ND

    def tokens(self, texts: Iterable[str]) -> Indices:
        """Token ids (B, L), as the text tower takes them: cut to the longest text where that changes nothing."""
        settings = self._text
        # Not as a batch: that starts threads, which a process that forks later is warned of.
        rows = [self._tokenizer.encode(cleaned(text, settings.cleaning)).ids for text in texts]
        token_BL = np.array(rows, np.int64)
        if (end := settings.end) is None:
            return token_BL
        found_BL = token_BL if end.by == "largest" else token_BL == end.id
        shortened_BL: Indices = token_BL[:, : int(found_BL.argmax(axis=1).max()) + 1]
        return shortened_BL

    @property
    def _text(self) -> TextSettings:
        assert self.manifest.text is not None, "only asked where texts can be embedded"
        return self.manifest.text

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._directory / TOKENIZER))

    def _run(self, name: str, input_: npt.NDArray[Any]) -> Embeddings:
        tower = self._tower(name)
        embedding_BD: Embeddings = tower.run(None, {tower.get_inputs()[0].name: input_})[0]
        return embedding_BD

    def _tower(self, name: str) -> Any:
        with self._loading:
            if name not in self._towers:
                import onnxruntime

                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = threads()
                options.inter_op_num_threads = 1
                options.log_severity_level = 4
                # Threads that wait for more work would keep the others' cores busy.
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                file = self._directory / name
                try:
                    self._towers[name] = onnxruntime.InferenceSession(
                        str(file), options, providers=["CPUExecutionProvider"]
                    )
                except Exception as error:  # each of its errors is of a class of its own
                    said = " ".join(str(error).split())
                    raise RuntimeError(f"{file} can't be loaded: {said[:300]}") from error
            return self._towers[name]


def threads() -> int:
    """How many threads compute one batch: few, and no more than who started the process allows numeric libraries."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return min(THREADS, available_cpus(), int(allowed) if allowed.isdecimal() and int(allowed) else THREADS)
