"""Both sides of a release as indexes of usearch, which programs in a dozen languages open."""

import importlib.util
from pathlib import Path

import numpy as np

from pairloom.search.export.table import Selection, write_table
from pairloom.storage.schema import VECTOR_COLUMNS


def require_usearch() -> None:
    """Raises ValueError where the extra isn't there."""
    if importlib.util.find_spec("usearch") is None:
        raise ValueError("--format usearch needs `pip install 'pairloom[usearch]'`")


def write_indexes(selection: Selection, folder: Path) -> None:
    """`image.usearch` and `text.usearch`, by cosine, and `items.parquet`: keys are the numbers of its rows, from 0."""
    from usearch.index import Index, MetricKind, ScalarKind

    write_table(selection, folder / "items.parquet", vectors=False)
    width = selection.release.record.dimension
    indexes = {name: Index(ndim=width, metric=MetricKind.Cos, dtype=ScalarKind.F32) for name in VECTOR_COLUMNS}
    done = 0
    for batch in selection.batches(list(VECTOR_COLUMNS)):
        keys = np.arange(done, done + len(batch), dtype=np.uint64)
        done += len(batch)
        for name, index in indexes.items():
            index.add(keys, batch[name].flatten().to_numpy(zero_copy_only=False).reshape(-1, width))
    for name, index in indexes.items():
        index.save(str(folder / f"{name.removesuffix('_vector')}.usearch"))
