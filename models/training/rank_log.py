"""What the first of several ranks logs, said again by the process that started it: by a file, which no kill locks."""

import json
import logging
from pathlib import Path

OURS = "pairloom"
"""The logger above all of the project's."""


class RankLog:
    """One file of log lines, written by one process at a time and read while it grows."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._level = logging.getLogger(OURS).getEffectiveLevel()
        self._read = 0

    def keep(self) -> None:
        """Of the rank: log to the file from here on, what the process that started it would log."""
        handler = logging.FileHandler(self._file, encoding="utf-8")
        handler.setFormatter(_AsJson())
        ours = logging.getLogger(OURS)
        ours.addHandler(handler)
        ours.setLevel(self._level)

    def say(self) -> None:
        """Of the process that started it: log what is new."""
        if not self._file.exists():
            return
        with self._file.open("rb") as stream:
            stream.seek(self._read)
            whole, end, _ = stream.read().rpartition(b"\n")
        self._read += len(whole + end)
        for line in whole.splitlines():
            try:
                name, level, said = json.loads(line)
            except ValueError:
                continue  # a kill cut it off
            logging.getLogger(name).log(level, "%s", said)


class _AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps([record.name, record.levelno, record.getMessage()])
