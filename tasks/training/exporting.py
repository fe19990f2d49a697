"""A model exported once more, where what was exported of it is damaged."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pairloom.models.export import Compared, export
from pairloom.storage.modelstore import EXPORT_FILES


@contextmanager
def exported_again(model: Path) -> Iterator[Path]:
    """A copy of a model's folder, exported anew, for as long as this is entered. Its weights are the same files."""
    with tempfile.TemporaryDirectory(dir=model.parent, prefix=f".{model.name}.") as folder:
        copy = Path(folder) / model.name
        shutil.copytree(model, copy, copy_function=os.link, ignore=shutil.ignore_patterns(*EXPORT_FILES))
        # What it was compared on is long gone; what it must be now is known by its digest.
        export(copy, Compared((), np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)))
        yield copy
