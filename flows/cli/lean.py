"""What a command that only reads keeps out of its process."""

import sys
from typing import Any


class _WithoutPandas:
    """A finder that says there is no pandas."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002  # Python's signature
        if name == "pandas":
            raise ModuleNotFoundError("kept out of this command", name=name)


def reads_without_pandas() -> None:
    """Has PyArrow's datasets, which Lance stands on, load without pandas: a quarter of a query's time.

    PyArrow looks for it once, so as to know its types where they are handed in. Whoever asks for a data frame still
    gets one: it is then imported after all.
    """
    finder = _WithoutPandas()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow.dataset  # noqa: F401
    finally:
        sys.meta_path.remove(finder)
