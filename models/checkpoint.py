"""Training checkpoints: a folder of tensors and a JSON record, published by one rename; the newest valid one wins."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

logger = logging.getLogger(__name__)

TENSORS, RECORD = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Position:
    """How far a training run has come. All randomness is a function of seed and step: there is no RNG state to keep."""

    step: int
    elapsed: float
    """Training time so far in seconds, over all attempts."""
    samples: int
    loss: float


def save_checkpoint(
    directory: Path,
    position: Position,
    fingerprint: str,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Sequence[torch.Tensor] = (),
) -> None:
    """Writes `directory/step-N` and deletes the older ones. A kill at any moment leaves the previous one valid.

    `averages` are the moving averages of the trained weights, where there are any.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    tensors |= {f"average.{number}": tensor for number, tensor in enumerate(averages)}
    content = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    record = {
        "position": vars(position),
        "fingerprint": fingerprint,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"step-{position.step:09d}"
    aside = directory / f"{final.name}.partial"
    for leftover in directory.glob("*.partial"):
        shutil.rmtree(leftover)
    aside.mkdir()
    _write_durably(aside / TENSORS, content)
    _write_durably(aside / RECORD, json.dumps(record).encode())
    shutil.rmtree(final, ignore_errors=True)  # a damaged one, or one of other settings
    aside.rename(final)
    _sync(directory)
    for other in _checkpoints(directory):
        if other != final:
            shutil.rmtree(other)


def resume_checkpoint(
    directory: Path,
    fingerprint: str,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Sequence[torch.Tensor] = (),
) -> Position | None:
    """Loads the newest valid checkpoint with this fingerprint into them; none where there is none.

    One that is damaged, or that other inputs or settings made, is skipped with a warning.
    """
    for folder in _checkpoints(directory):
        try:
            record = json.loads((folder / RECORD).read_bytes())
            content = (folder / TENSORS).read_bytes()
        except (OSError, ValueError) as error:
            logger.warning("skipping checkpoint %s: %s", folder, error)
            continue
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            logger.warning("skipping checkpoint %s: its digest doesn't match", folder)
        elif record["fingerprint"] != fingerprint:
            logger.warning("skipping checkpoint %s: made from other inputs or settings", folder)
        else:
            tensors = load(content)
            _restore(tensors, network, optimizer)
            for number, average in enumerate(averages):
                average.copy_(tensors[f"average.{number}"])
            return Position(**record["position"])
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
