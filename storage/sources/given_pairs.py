"""Given pairs: what people say of pairs of their items, read from files of their own; what can't be used is counted."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pairloom.storage.sources.columns import is_missing, typed
from pairloom.storage.sources.config import GivenPairsConfig
from pairloom.storage.sources.delimited import Dialect, csv_rows
from pairloom.storage.sources.jsonl import jsonl_rows
from pairloom.storage.sources.raw_row import RawRow, Values

RELATIONS = ("positive", "negative", "ordered", "target")
REQUIRED = ("anchor", "other", "relation")
COLUMNS = (*REQUIRED, "target", "weight")


@dataclass(frozen=True)
class GivenPair:
    """One row that can be used."""

    file: str
    row: int
    """Line of the file, or row of a Parquet file, from 1."""
    anchor: str
    other: str
    relation: str
    target: float | None
    weight: float


@dataclass(frozen=True)
class RejectedPair:
    """One row that can't.

    Reasons: malformed-row, id-missing, self-pair, relation-unknown, weight-bad, target-bad, repeated, item-unknown,
    other-split; contradiction.
    """

    file: str
    row: int
    reason: str
    message: str


def read_given_pairs(
    configs: Sequence[GivenPairsConfig], splits: Mapping[str, str]
) -> Iterator[GivenPair | RejectedPair]:
    """Every row of every file, in their order, none left out. `splits` holds the split of each item.

    Of rows that say the same of the same items the first counts. Raises ValueError for a file that is not there, can't
    be read or lacks a column.
    """
    seen: set[tuple[str, str, str]] = set()
    for config in configs:
        for raw in _raw_rows(config):
            try:
                pair = _understood(config.path.name, raw, splits)
                if (pair.anchor, pair.other, pair.relation) in seen:
                    raise _RejectedError("repeated", f"{pair.anchor} and {pair.other} are {pair.relation} already")
            except _RejectedError as rejection:
                yield RejectedPair(config.path.name, raw.number, rejection.reason, rejection.message[:500])
            else:
                seen.add((pair.anchor, pair.other, pair.relation))
                yield pair


def given_digest(configs: Sequence[GivenPairsConfig]) -> str:
    """Digest of what the files hold, empty without files. Raises ValueError where one can't be read."""
    found = hashlib.sha256()
    for config in configs:
        try:
            with config.path.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise ValueError(f"pairs: {config.path} can't be read: {error.strerror}") from error
    return found.hexdigest()[:16] if configs else ""


class _RejectedError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def _raw_rows(config: GivenPairsConfig) -> Iterator[RawRow]:
    """The file's rows. A file of text may lack a required column in some rows, but not in all of them."""
    path, kind = config.path, config.kind or config.path.suffix.removeprefix(".").lower()
    found: set[str] = set()
    any_row = False
    try:
        for raw in {"parquet": _parquet_rows, "jsonl": jsonl_rows, "csv": _csv_rows}[kind](path):
            with contextlib.suppress(ValueError):
                found.update(raw.values())
                any_row = True
            yield raw
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"pairs: {path} can't be read: {error}") from error
    if missing := [name for name in REQUIRED if name not in found] if any_row else []:
        raise ValueError(f"pairs: {path} has no column {missing[0]}; it has {', '.join(sorted(found)) or 'none'}")


def _csv_rows(path: Path) -> Iterator[RawRow]:
    return csv_rows(path, Dialect())


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        number, columns = 0, [name for name in COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=10_000, columns=columns):
            for values in batch.to_pylist():
                number += 1
                yield RawRow(number, "", values, dict)


def _understood(file: str, raw: RawRow, splits: Mapping[str, str]) -> GivenPair:
    try:
        values = raw.values()
    except ValueError as error:
        raise _RejectedError("malformed-row", str(error)) from error
    anchor, other = (_item(values, side, splits) for side in ("anchor", "other"))
    if anchor == other:
        raise _RejectedError("self-pair", f"{anchor} is paired with itself")
    relation = values.get("relation")
    if not isinstance(relation, str) or relation.strip().lower() not in RELATIONS:
        raise _RejectedError("relation-unknown", f"relation {relation!r:.80} is none of {', '.join(RELATIONS)}")
    relation = relation.strip().lower()
    weight, target = _number(values, "weight"), _number(values, "target")
    if weight is not None and weight <= 0:
        raise _RejectedError("weight-bad", f"weight {weight} is not above 0")
    if (target is None) == (relation == "target") and relation != "ordered":
        how = "needs a target" if target is None else "takes no target"
        raise _RejectedError("target-bad", f"the relation {relation} {how}")
    return GivenPair(file, raw.number, anchor, other, relation, target, 1.0 if weight is None else weight)


def _item(values: Values, side: str, splits: Mapping[str, str]) -> str:
    value = values.get(side)
    try:
        item = None if isinstance(value, list | dict) else typed(value, "string")
    except TypeError:
        item = None
    if item is None and value is not None:
        raise _RejectedError("malformed-row", f"{side} holds a {type(value).__name__}, not an id")
    item = str(item).strip() if item is not None else ""
    if not item:
        raise _RejectedError("id-missing", f"{side} is empty")
    if item not in splits:
        raise _RejectedError("item-unknown", f"{side} {item} is no item of the corpus")
    if splits[item] != "train":
        raise _RejectedError("other-split", f"{side} {item} is a {splits[item]} item; pairs are for training")
    return item


def _number(values: Values, column: str) -> float | None:
    """A finite number that float32 can hold, or None where there is none."""
    try:
        number = typed(values.get(column), "float64")
    except (ValueError, TypeError, OverflowError) as error:
        raise _RejectedError(f"{column}-bad", f"{column} {values.get(column)!r:.80} is no number") from error
    if number is None:
        written = str(values.get(column))
        if "inf" in written.lower() or not is_missing(written):
            raise _RejectedError(f"{column}-bad", f"{column} can't be infinite")
        return None
    assert isinstance(number, float)
    if abs(number) > 3e38 or 0 < abs(number) < 1e-30:
        raise _RejectedError(f"{column}-bad", f"{column} {number} can't be held")
    return number
