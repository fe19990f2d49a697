"""What `model:` of a pipeline means, wherever its files lie: their contents stand in place of their paths."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.layout import require_files
from pairloom.models.towers.names import WEIGHTS_SUFFIXES

FOLDER = "local-dir:"


def by_content(config: ModelConfig, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The block, in JSON, with the SHA-256 of a config's, a folder's or a weights file's contents for its path.

    It stays the same where a project is moved, and on another machine; what a file holds by now makes it another. What
    is not there any more is taken to hold what it held when the champion was made, by its `lineage`: a training that
    starts from that needs no file. Names of architectures, tags and packages stand as they are.
    """
    said = config.model_dump(mode="json")
    name, weights = config.architecture, config.pretrained
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER))
        said["architecture"] = FOLDER + _folder(folder) if whole(folder) else _gone("architecture", name, lineage)
    elif name.endswith(".json"):
        said["architecture"] = _file(Path(name)) if Path(name).is_file() else _gone("architecture", name, lineage)
    if weights is not None and Path(weights).is_file():
        said["pretrained"] = _file(Path(weights))
    elif weights is not None and weights.endswith(WEIGHTS_SUFFIXES):
        said["pretrained"] = _gone("pretrained", weights, lineage)
    return said


def _gone(key: str, name: str, lineage: Mapping[str, Any]) -> Any:
    """What the champion was made of, if that was called the same; the path of anything else."""
    was, held = (lineage.get(block, {}).get(key) for block in ("model", "towers"))
    return held if held and was and Path(was).name == Path(name).name else name


def whole(folder: Path) -> bool:
    """Whether an OpenCLIP directory has all that is read of it."""
    try:
        require_files(folder)
    except ValueError:
        return False
    return True


def _folder(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(each for each in folder.iterdir() if each.is_file()):
        found.update(f"{file.name}\0{_file(file)}\n".encode(errors="surrogatepass"))
    return found.hexdigest()


def _file(file: Path) -> str:
    known = file.stat()
    return _digest(file, known.st_size, known.st_mtime_ns)


@functools.lru_cache
def _digest(file: Path, _bytes: int, _modified: int) -> str:
    """A night asks several times, and weights may be large."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
