"""Models as OpenCLIP folders, named by the digest of what makes their vectors."""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar

from pairloom.storage.failpoints import hit
from pairloom.storage.files import (
    DamagedError,
    FileDigests,
    copy_in,
    delete_folder,
    make_folder,
    make_young,
    read_unchanging,
    sync,
    written_aside,
)
from pairloom.storage.local_copies import local_copy, upload
from pairloom.storage.objects import ObjectPath

CURVE = "training.jsonl"
CARD_FILES = ("README.md", "pairloom.json", CURVE)
"""Files about the model, not of it: they do not enter its identity."""
EXPORT_FILES = ("onnx.json", "text.onnx", "text_tokens.json", "image.onnx", "second_image.onnx")
"""Its towers as queries load them, made from it once: their bytes are also those of what made them."""
BESIDE = (*CARD_FILES, *EXPORT_FILES)
OWN_TEXT_TOWER = "text_tower"
"""Folder of a text tower that open_clip can't build: with such a model it embeds images only."""
TRAINING_TEXTS = "training_texts"
"""Folder of what follows from the weights and the training texts: it doesn't enter the model's identity either."""
TEXT_QUERIES = "text_queries"
"""Folder in that of a model whose image tower wants evaluation mode: it embeds texts, and refuses images, for readers
who never switch to that."""

P = TypeVar("P", bound=PurePath)


class ModelStore:
    """The models of one pipeline, below its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"

    def path(self, model_id: str) -> Path:
        """The OpenCLIP folder of a model, on this machine. Raises ValueError where there is none."""
        return local_copy(self._stored(model_id))

    def whole(self, model_id: str) -> Path:
        """The OpenCLIP folder of a model, read through. Raises DamagedError where its files aren't those it is named
        after; what is beside them may be any.
        """
        path = self.path(model_id)
        if model_digest(path) != model_id and path != self.folder / model_id:
            # It may be the copy alone that is damaged.
            shutil.rmtree(path)
            path = self.path(model_id)
        if model_digest(path) != model_id:
            wrong = f"the digest of the files in {path} isn't its name"
            raise DamagedError(f"model {model_id} is not the one that was made: {wrong}")
        return path

    def holds(self, model_id: str) -> bool:
        """Whether there is such a model, and its files are those it is named after."""
        return (self.folder / model_id).is_dir() and model_digest(self.path(model_id)) == model_id

    def ids(self) -> list[str]:
        """The model_ids of all models."""
        return sorted(path.name for path in self.folder.glob("[!.]*") if path.is_dir())

    def adopt(self, built: Path, curve: Iterable[Mapping[str, float]] = ()) -> str:
        """Move a freshly written OpenCLIP folder into the store in one step (to object storage file by file); returns
        its model_id.

        `curve` is the log of its training, kept beside it.
        """
        model_id = model_digest(built)
        lines = [json.dumps(line) + "\n" for line in curve]
        (built / CURVE).write_text("".join(lines), encoding="utf-8")
        make_folder(self.folder)
        if self.holds(model_id):
            # Young again: no garbage, though no release may name it any more.
            make_young(self.folder / model_id)
            shutil.rmtree(built)
            return model_id
        if (damaged := self.folder / model_id).exists():
            for name in BESIDE:
                if (damaged / name).is_file():
                    copy_in(damaged / name, built / name)
            delete_folder(damaged)
        for path in (*built.rglob("*"), built):
            sync(path)
        hit("adopt.before", self.folder / model_id)
        if isinstance(self.folder, ObjectPath):
            upload(built, self.folder / model_id)
        else:
            built.replace(self.folder / model_id)
        sync(self.folder)
        hit("adopt.after", self.folder / model_id)
        return model_id

    def describe(self, model_id: str, lineage: Mapping[str, Any], card: str) -> None:
        """Write where a model comes from (`pairloom.json`) and its model card beside its weights."""
        folder = self._stored(model_id)
        for name, text in (("pairloom.json", json.dumps(lineage, indent=1, sort_keys=True)), ("README.md", card)):
            with written_aside(folder / name) as aside:
                aside.write_text(text, encoding="utf-8")

    def dimension(self, model_id: str) -> int:
        """Length D of a model's embeddings, by its configuration."""
        config = json.loads(read_unchanging(self._stored(model_id) / "open_clip_config.json"))
        return int(config["model_cfg"]["embed_dim"])

    def lineage(self, model_id: str) -> dict[str, Any]:
        """What is told of how a model was made. OSError or ValueError where it can't be read."""
        found = json.loads(read_unchanging(self._stored(model_id) / "pairloom.json"))
        if not isinstance(found, dict):
            raise ValueError(f"pairloom.json of model {model_id} holds no mapping")
        return found

    def trunks(self, model_ids: Collection[str]) -> set[str] | None:
        """Digests of the frozen trunks, of either tower, that models say they have; None where one can't be asked."""
        try:
            said = [self.lineage(model_id) for model_id in model_ids]
        except (OSError, ValueError):
            return None
        return {each[name] for each in said for name in ("trunk", "text_trunk") if each.get(name)}

    def described(self, model_id: str) -> bool:
        """Whether it is written down where a model comes from."""
        return (self.folder / model_id / "pairloom.json").is_file()

    def curve(self, model_id: str) -> list[dict[str, float]]:
        """The log of a model's training; empty where that, or the model, is there no more."""
        file = self.folder / model_id / CURVE
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []

    def files(self, model_id: str) -> Iterator[Path]:
        """Every file of a model, for a release to name."""
        return (path for path in sorted(self._stored(model_id).rglob("*")) if path.is_file())

    def _stored(self, model_id: str) -> Path:
        path = self.folder / model_id
        if not path.is_dir():
            raise ValueError(f"no model {model_id} below {self.folder}")
        return path


def is_plain(folder: Path) -> bool:
    """Whether plain `open_clip` embeds texts as well as images with the model in `folder`."""
    return not (folder / OWN_TEXT_TOWER).exists()


def model_digest(folder: Path) -> str:
    """The model_id: digest of weights, configuration, preprocessing and tokenizer, file by file."""
    digests = {}
    for path in folder.rglob("*"):
        if path.is_file() and _identifies(own := path.relative_to(folder)):
            with path.open("rb") as stream:
                digests[own] = hashlib.file_digest(stream, "sha256").digest()
    return _digest(digests)


def recorded_digest(files: FileDigests, model_id: str) -> str:
    """What `model_digest` of the model's folder is, if its files have the digests that a record says."""
    folder = PurePosixPath("models", model_id)
    names = {PurePosixPath(name): each for name, each in files.items()}
    return _digest(
        {
            path.relative_to(folder): bytes.fromhex(each.sha256)
            for path, each in names.items()
            if path.is_relative_to(folder) and _identifies(path.relative_to(folder))
        }
    )


def _identifies(path: PurePath) -> bool:
    """Whether a file, by its path in a model's folder, is part of what makes the vectors."""
    return path.name not in BESIDE and path.parts[0] != TRAINING_TEXTS


def _digest(digests: Mapping[P, bytes]) -> str:
    found = hashlib.sha256()
    for path in sorted(digests):
        found.update(f"{path.as_posix()}\0".encode())
        found.update(digests[path])
    return found.hexdigest()[:16]
