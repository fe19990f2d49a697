"""What open_clip builds from files that others made: weights are numbers, and code that lies beside them never runs.

open_clip itself passes on whatever a model's configuration says to transformers, `trust_remote_code` included.
"""

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError

UNREADABLE = (
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    StopIteration,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)
"""What open_clip, torch, NumPy and the hub raise over files that are missing or not what they should be."""
_ADVICE = re.compile(r"weights_only|allow_pickle|safe_globals")
"""Of libraries' errors that tell how to run what a file holds."""


def open_model(name: str, **options: Any) -> torch.nn.Module:
    """`open_clip.create_model`; only numbers are read from files of weights."""
    with _no_foreign_code():
        network: torch.nn.Module = open_clip.create_model(name, weights_only=True, **options)
    return network


def open_tokenizer(name: str, text_cfg: Mapping[str, Any]) -> Any:
    """`open_clip.get_tokenizer` for a text tower of this configuration."""
    options = {"trust_remote_code": False} if text_cfg.get("hf_tokenizer_name") else {}
    with _no_foreign_code():
        return open_clip.get_tokenizer(name, **options)


def reason(error: BaseException) -> str:
    """Why a file wasn't read, on one line: without the libraries' advice to run what it holds."""
    said = " ".join(str(error).split()) or type(error).__name__
    if not advises(error):
        return said[:300]
    held = re.search(r"GLOBAL ([\w.]+)", said)
    return f"it holds {f'the Python object {held[1]}' if held else 'more than tensors'}, and only tensors are loaded"


def advises(error: BaseException) -> bool:
    """Whether an error advises to run what a file holds."""
    return _ADVICE.search(str(error)) is not None


@contextmanager
def _no_foreign_code() -> Iterator[None]:
    """On a terminal, transformers would ask whether it may run what came with a model: for zero seconds, it refuses."""
    from transformers import dynamic_module_utils

    patience = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError("model.architecture: the model brings code of its own, and none is run") from error
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = patience
