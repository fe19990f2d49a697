"""Rows for vector tables in tests: seeded vectors, no model."""

import numpy as np
import pyarrow as pa

from pairloom.storage.table.index import Floats

D = 8


def unit_vectors(seed: int, count: int, dimension: int = D) -> Floats:
    """Random directions, L2-normalised, float32."""
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def vector_rows(ids: list[str], *, seed: int = 0, digest: str = "first", dimension: int = D) -> pa.Table:
    """One row per id, as the pipeline brings them."""
    count = len(ids)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(unit_vectors(seed, count, dimension).ravel()), dimension)
    return pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "image_vector": vectors,
            "text_vector": vectors,
            "texts": pa.array([[f"text of {each}"] for each in ids], pa.list_(pa.string())),
            "group": pa.nulls(count, pa.string()),
            "split": ["train"] * count,
            "path": ["p"] * count,
            "width": pa.array([1] * count, pa.int32()),
            "height": pa.array([1] * count, pa.int32()),
            "source": ["s"] * count,
            "content_digest": [digest] * count,
            "thumbnail": pa.array([b"x"] * count, pa.binary()),
            "subgroup": ["A" if at % 2 else "B" for at in range(count)],
        }
    )
