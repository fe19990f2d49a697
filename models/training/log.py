"""What a training says of itself while it runs: JSON lines, TensorBoard where wanted, and how far it is."""

import json
import logging
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode

logger = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
LAST_BYTES = 16_384
"""More than a line of the log has."""

PEAK_FLOPS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 operations a second, from the vendor's data sheets, by a part of the GPU's name."""


@dataclass(frozen=True)
class TrainingProgress:
    """A sign of life, once a second or so."""

    step: int
    fraction: float
    loss: float
    samples_per_second: float
    eta_seconds: float


class TrainingLog:
    """`log.jsonl` in the run's folder, a line a second: rates are those since the line before."""

    def __init__(self, folder: Path | None, tensorboard: Path | None, device: torch.device) -> None:
        """Without a folder (on ranks that don't lead) nothing is written. ValueError without TensorBoard installed."""
        self._lines = None if folder is None else (folder / "log.jsonl").open("a", encoding="utf-8")
        self._board = _board(tensorboard) if tensorboard and folder else None
        self._peak = peak_flops(device)
        self._counter: FlopCounterMode | None = None
        self._since = (time.perf_counter(), 0, 0, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._lines:
            self._lines.close()
        if self._board:
            self._board.close()

    def begin(self, step: int, samples: int, waited: float) -> None:
        """Where the rates of the next line start from."""
        self._since = (time.perf_counter(), step, samples, waited)

    @property
    def due(self) -> bool:
        """Whether it is time for a line."""
        return time.perf_counter() - self._since[0] >= EVERY_SECONDS

    def counting(self) -> AbstractContextManager[object]:
        """Around the forward and backward pass: counts the operations of the first one on a GPU whose peak is known."""
        if self._peak is None or self._counter is not None:
            return nullcontext()
        self._counter = FlopCounterMode(display=False)
        return self._counter

    def write(
        self, step: int, samples: int, waited: float, values: dict[str, float], left: tuple[float, float]
    ) -> TrainingProgress:
        """One line: `values`, rates since the last one, and how long it will take.

        `waited` are the seconds spent waiting for batches so far, `left` the share of the budget that is used up and
        the seconds that took.
        """
        began, first_step, first_sample, waited_before = self._since
        now = time.perf_counter()
        seconds, (fraction, elapsed) = max(now - began, 1e-9), left
        rate, eta = (samples - first_sample) / seconds, elapsed * max(1 - fraction, 0) / max(fraction, 1e-9)
        line = {"step": step, "fraction": fraction, **values, "samples_per_second": rate}
        line |= {"data_wait": (waited - waited_before) / seconds, "eta_seconds": eta}
        if self._peak and self._counter and step > first_step:
            line["mfu"] = self._counter.get_total_flops() * (step - first_step) / seconds / self._peak
        if self._lines:
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()
        if self._board:
            for name, value in line.items():
                self._board.add_scalar(f"training/{name}", value, step)
        self._since = (now, step, samples, waited)
        return TrainingProgress(step, fraction, values["loss"], rate, eta)


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a training's log, of all attempts; where two say something of one step, the later one."""
    file = folder / "log.jsonl"
    by_step = {}
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # a kill cut it off
        by_step[line["step"]] = line
    return [by_step[step] for step in sorted(by_step)]


def last_line(folder: Path) -> dict[str, float] | None:
    """The last whole line of a training's log; nothing before it is read. None where there is none."""
    file = folder / "log.jsonl"
    if not file.exists():
        return None
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - LAST_BYTES))
        whole = stream.read().rpartition(b"\n")[0]
    line: dict[str, float] | None = json.loads(whole.rpartition(b"\n")[2]) if whole else None
    return line


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"training.tensorboard: {folder}: TensorBoard is missing; install pairloom[tensorboard] or leave it out"
        ) from error
    return SummaryWriter(str(folder))


def peak_flops(device: torch.device) -> float | None:
    """Bfloat16 operations a second at most; None on a CPU and for a GPU that `PEAK_FLOPS` doesn't know."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)
