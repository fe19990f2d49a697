"""What a model keeps of its training texts, in its folder: some of them embedded by it, and all their words.

Readers need both: an image's hubness is measured by the texts, and a query's words that are none of these are named.
They follow from the weights and the texts, so they don't enter the model's identity.
"""

# T = texts, D = embedding

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairloom.storage.files import DamagedError
from pairloom.storage.modelstore import TRAINING_TEXTS
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.schema import training_text_schema

VECTORS, WORDS = f"{TRAINING_TEXTS}/vectors.parquet", f"{TRAINING_TEXTS}/words.txt"


class TrainingTexts:
    """The training texts of the model in one OpenCLIP folder."""

    def __init__(self, model: Path) -> None:
        self._vectors, self._words = model / VECTORS, model / WORDS

    @property
    def kept(self) -> bool:
        """Whether there are any: models of earlier versions, and of other programs, have none."""
        return self._vectors.is_file()

    def write(self, vector_TD: np.ndarray, words: Iterable[str]) -> None:
        """Keep the embeddings (T, D) of some training texts, and the words of all of them in any order."""
        self._words.parent.mkdir(parents=True, exist_ok=True)
        self._words.write_text("".join(f"{word}\n" for word in sorted(set(words))), encoding="utf-8")
        dimension = vector_TD.shape[1]
        flat = pa.array(vector_TD.astype(np.float32, copy=False).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, dimension)
        write_parquet(pa.table([vectors], schema=training_text_schema(dimension)), self._vectors)

    def vectors(self) -> np.ndarray:
        """Float32 (T, D), L2-normalised. Raises DamagedError where they are missing or not what was written."""
        table = pa.Table.from_batches(read_parquet(self._vectors))
        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, np.float32).reshape(len(table), -1)

    def words(self) -> frozenset[str] | None:
        """Every word of the training texts, as `known_words` gives them; None where it isn't known which there are."""
        try:
            return frozenset(self._words.read_text(encoding="utf-8").splitlines())
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise DamagedError(f"{self._words} can't be read: {error}") from error
