"""Training checkpoints: a folder of tensors and a JSON record, published by one rename; the newest valid one wins."""

# N = items, K = hard negatives an anchor

import hashlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

logger = logging.getLogger(__name__)

TENSORS, RECORD = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Position:
    """How far a training run has come. All randomness is a function of seed and step: there is no RNG state to keep."""

    step: int = 0
    elapsed: float = 0.0
    """Training time so far in seconds, over all attempts."""
    samples: int = 0
    loss: float = math.nan
    usual_loss: float = math.nan
    """What `LossGuard` compares the next losses with."""
    rate_factor: float = 1.0
    """Of the learning rate; less after bad steps."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, and the state that they save and restore."""

    directory: Path
    fingerprint: str
    """Digest of everything that the training depends on."""
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    averages: Sequence[torch.Tensor] = ()
    """Moving averages of the trained weights, where there are any."""

    def save(self, position: Position, negatives_NK: npt.NDArray[np.int32] | None = None) -> None:
        """Writes `step-N` and deletes the older ones. A kill at any moment leaves the previous one valid.

        `negatives_NK` are negatives that were mined during this training.
        """
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        tensors |= {f"average.{number}": tensor for number, tensor in enumerate(self.averages)}
        if negatives_NK is not None:
            tensors["negatives"] = torch.from_numpy(negatives_NK)
        content = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
        record = {
            "position": vars(position),
            "fingerprint": self.fingerprint,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        directory = self.directory
        directory.mkdir(parents=True, exist_ok=True)
        final = directory / f"step-{position.step:09d}"
        aside = directory / f"{final.name}.partial"
        for leftover in directory.glob("*.partial"):
            shutil.rmtree(leftover)
        aside.mkdir()
        _write_durably(aside / TENSORS, content)
        _write_durably(aside / RECORD, json.dumps(record).encode())
        shutil.rmtree(final, ignore_errors=True)  # a damaged one, or one of other settings
        sys.audit("pairloom.failpoint", "checkpoint.before", final)
        aside.rename(final)
        _sync(directory)
        sys.audit("pairloom.failpoint", "checkpoint.after", final)
        for other in _checkpoints(directory):
            if other != final:
                shutil.rmtree(other)

    def resume(self) -> tuple[Position, npt.NDArray[np.int32] | None] | None:
        """Loads the newest valid checkpoint of this training; position and mined negatives, or none.

        One that is damaged, or that other inputs or settings made, is skipped with a warning.
        """
        for folder in _checkpoints(self.directory):
            try:
                record = json.loads((folder / RECORD).read_bytes())
                content = (folder / TENSORS).read_bytes()
                digest, fingerprint = record["sha256"], record["fingerprint"]
                tensors = load(content) if hashlib.sha256(content).hexdigest() == digest else None
            except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
                logger.warning("skipping checkpoint %s: %s", folder, error)
                continue
            if tensors is None:
                logger.warning("skipping checkpoint %s: its digest doesn't match", folder)
            elif fingerprint != self.fingerprint:
                logger.warning("skipping checkpoint %s: made from other inputs or settings", folder)
            else:
                _restore(tensors, self.network, self.optimizer)
                for number, average in enumerate(self.averages):
                    average.copy_(tensors[f"average.{number}"])
                negatives = tensors.get("negatives")
                return Position(**record["position"]), None if negatives is None else negatives.numpy()
        return None


def _restore(tensors: dict[str, torch.Tensor], network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    prefix = "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    states: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            states.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _checkpoints(directory: Path) -> list[Path]:
    """Complete checkpoints, newest first."""
    folders = directory.glob("step-*") if directory.is_dir() else ()
    return sorted((folder for folder in folders if folder.suffix != ".partial"), reverse=True)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
