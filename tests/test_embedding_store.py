from pathlib import Path

import numpy as np
import pytest

from pairloom.storage.corpus import Part
from pairloom.storage.embeddings import EmbeddingStore


@pytest.mark.parametrize("side", [0, 1])
def test_vectors_that_are_not_finite_are_not_stored(tmp_path: Path, side: int) -> None:
    store, part = EmbeddingStore(tmp_path, "model"), Part(digest="d", rows=2)
    vectors = [np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)]
    store.write(part, ["a", "b"], *vectors)
    vectors[side][1, 0] = np.inf
    with pytest.raises(ValueError, match=r"vectors of part d by model model are not finite"):
        store.write(part, ["a", "b"], *vectors)
    assert np.isfinite(np.stack(store.read(part)["image_vector"].to_pylist())).all()
