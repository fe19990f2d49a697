"""The OpenCLIP directory: which files it holds, and its configuration read and checked."""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
WEIGHTS_PATTERNS = ("*.safetensors", "*.bin", "*.pth")  # all that open_clip takes from a directory
TOKENIZER_FILES = re.compile(r"tokenizer.*\.json|special_tokens_map\.json|vocab\..+|merges\.txt|.*\.(model|spm)")


def require_files(directory: Path) -> None:
    """Raises ValueError where an OpenCLIP directory lacks its configuration or its weights."""
    for name, names in ((CONFIG_NAME, (CONFIG_NAME,)), (WEIGHTS_NAME, WEIGHTS_PATTERNS)):
        if not any(file.is_file() for pattern in names for file in directory.glob(pattern)):
            raise ValueError(f"{directory}: no {name}; an OpenCLIP directory holds {CONFIG_NAME} and {WEIGHTS_NAME}")


def read_config(file: Path) -> dict[str, Any]:
    # A recurrent tower is torch's; the names above are needed without it.
    from pairloom.models.towers import recurrent

    config = json.loads(file.read_text(encoding="utf-8"))
    # open_clip's own architecture files are the bare model_cfg.
    config = config if "model_cfg" in config else {"model_cfg": config}
    missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(config["model_cfg"])
    if missing:
        raise ValueError(f"{file}: model_cfg lacks {', '.join(sorted(missing))}")
    try:
        recurrent.text_config(config)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{file}: text_cfg.{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    return {"preprocess_cfg": {}, **config}


def tokenizer_files(directory: Path) -> dict[str, bytes]:
    files = sorted(file for file in directory.iterdir() if file.is_file() and TOKENIZER_FILES.fullmatch(file.name))
    return {file.name: file.read_bytes() for file in files}
