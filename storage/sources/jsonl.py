"""Rows of JSON lines, one object a line."""

import json
from collections.abc import Iterator
from pathlib import Path

from pairloom.storage.sources.file_start import check_start
from pairloom.storage.sources.raw_row import MAX_LINE, RawRow, Values, not_decoded, numbered_lines, opened


def jsonl_rows(path: Path, encoding: str = "utf-8") -> Iterator[RawRow]:
    """One row per non-empty line. NaN and infinities count as absent, as pandas means them.

    Raises ValueError for a file that is none of JSON lines, and where it can't be read on.
    """
    check_start(path, encoding, json_lines=True)
    with opened(path, encoding) as stream:
        for number, line in numbered_lines(stream):
            if line.isspace():
                continue
            yield RawRow(number, line, line, json_object, None, path)


def json_object(line: str) -> Values:
    """What one JSON object says. Raises ValueError for a text that is none."""
    if len(line) == MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} characters")
    problem = not_decoded(line)
    if problem:
        raise ValueError(problem)
    try:
        found = json.loads(line, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"not a JSON object but {type(found).__name__}")
    if "\\ud" in line.lower():
        problem = not_decoded(json.dumps(found, ensure_ascii=False))
        if problem:
            raise ValueError("holds half of a surrogate pair")
    return found
