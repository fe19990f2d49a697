"""Rejected rows, read: how many for which reason, and the rows themselves."""

import difflib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.reasons import Outcome, Reason
from pairloom.storage.schema import QUARANTINE
from pairloom.storage.sources.config import SourceConfig
from pairloom.storage.sources.likely_base import likely_base

_OUTCOMES: tuple[str, ...] = ("quarantined", "filtered", "duplicate")
"""In the order of what people should look at first."""
assert set(_OUTCOMES) == set(get_args(Outcome))

_LOOKED_FOR = 20
"""How many images that aren't where rows say are looked for elsewhere."""
_EXAMPLE = 200
"""Most characters of an example's message."""


class ReasonCount(BaseModel, frozen=True):
    """How many rows were rejected for one reason."""

    reason: str
    outcome: str
    rows: int
    example: str
    """Source, row and message of the first one; a stranger's text."""
    remedy: str
    """What usually helps; empty for a reason that only another version of Pairloom knows."""


class RejectedRows:
    """The rejected rows of one snapshot, most urgent reasons first, each reason's rows in source order."""

    def __init__(
        self, corpus: Corpus, snapshot: Snapshot, *, reason: str | None = None, source: str | None = None
    ) -> None:
        """All of them, or those of one `reason` code or `source` label."""
        batches = list(corpus.rejected(snapshot, _STORED))
        none = pa.schema([QUARANTINE.field(name) for name in _STORED])
        found = pa.Table.from_batches(batches, None if batches else none)
        for column, value in (("reason", reason), ("source", source)):
            if value is not None:
                found = found.filter(pc.equal(found[column], value))
        self._found = found
        self._last_seen = last_ingest(corpus, snapshot)

    def counts(self, sources: Sequence[SourceConfig] = ()) -> list[ReasonCount]:
        """How many there are for each reason. `sources`: where images are looked for that aren't where rows say."""
        counted = []
        # No scalars and no times: for these pyarrow imports pandas: longer than all else that most nights do.
        told = self._found.select(["source", "row", "outcome", "message"])
        codes = self._found["reason"].to_pylist()
        first_place = {code: place for place, code in reversed(list(enumerate(codes)))}
        for code, rows in Counter(codes).items():
            first = told.slice(first_place[code], 1).to_pylist()[0]
            counted.append(
                ReasonCount(
                    reason=code,
                    outcome=first["outcome"],
                    rows=rows,
                    example=_example(first),
                    remedy=self._remedy(code, first["source"], sources),
                )
            )
        return sorted(counted, key=lambda each: (_OUTCOMES.index(each.outcome), -each.rows, each.reason))

    def table(self, limit: int | None = None) -> pa.Table:
        """The rows: where each stands, why it is no item, how often that was tried and when it was first and last so.

        `limit`: at most so many.
        """
        of_reason = [self._found.filter(pc.equal(self._found["reason"], each.reason)) for each in self.counts()]
        found = pa.concat_tables([self._found.slice(0, 0), *of_reason]).slice(0, limit)
        seen = pa.array([self._last_seen] * len(found), _TIME)
        return found.rename_columns({"rejected_at": "first_seen"}).append_column("last_seen", seen)

    def _remedy(self, reason: str, source: str, sources: Sequence[SourceConfig]) -> str:
        if reason not in set(Reason):
            return ""
        folder = next((each.image_folder(each.paths[0]) for each in sources if each.label == source), None)
        if reason == Reason.IMAGE_NOT_FOUND and folder is not None:
            columns = (self._found[name].to_pylist() for name in ("reason", "source", "image_path"))
            lost = (path for *where, path in zip(*columns, strict=True) if where == [reason, source] and path)
            paths = list(islice(lost, _LOOKED_FOR))
            if near := likely_base(folder, paths):
                return f"Images of these names are in {near}: set `base` to it."
        return Reason(reason).remedy


_TIME = pa.timestamp("us", tz="UTC")
_STORED = [
    "source",
    "row",
    "outcome",
    "reason",
    "message",
    "attempts",
    "item_id",
    "image_path",
    "rejected_at",
]


def last_ingest(corpus: Corpus, snapshot: Snapshot) -> datetime | None:
    """When the last ingest that changed anything ended, and so saw all rejected rows; None before the first."""
    path = corpus.log.path(snapshot.number)
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def require_reason(code: str) -> None:
    """Raises ValueError, with what may be meant, where there is no such reason."""
    codes = [reason.value for reason in Reason]
    if code not in codes:
        near = difflib.get_close_matches(code, codes, n=3, cutoff=0.5) or [each for each in codes if code in each]
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(codes)}"
        raise ValueError(f"there is no reason {code!r}: {hint}")


def explained(counts: Sequence[ReasonCount], seen: int, *, most: int = 3) -> str:
    """In one line what became of rows that are no items: the most frequent reasons, an example and its remedy.

    Empty where nothing but duplicates was rejected. `seen`: rows seen.
    """
    urgent = [each for each in counts if each.outcome != "duplicate"]
    if not urgent:
        return ""
    outcome, rows = urgent[0].outcome, sum(each.rows for each in urgent if each.outcome == urgent[0].outcome)
    counted = f"{rows:,} of {seen:,} rows" if seen else f"{rows:,} row{'' if rows == 1 else 's'}"
    reasons = ", ".join(f"{each.reason} {each.rows:,}" for each in urgent[:most])
    more = ", …" if len(urgent) > most else ""
    first = urgent[0]
    return f"{counted} {outcome}: {reasons}{more}; e.g. {first.example}. {first.remedy}".strip()


def too_many(counts: Sequence[ReasonCount], seen: int, max_rejected: float) -> str:
    """Why the night's rows are not believed: more than the share `max_rejected` of those seen are quarantined.

    Empty where they are no more. Filtered rows and duplicates are meant, and don't count.
    """
    quarantined = [each for each in counts if each.outcome == "quarantined"]
    if sum(each.rows for each in quarantined) <= max_rejected * seen:
        return ""
    said = explained(quarantined, seen)
    return f"{said} More than `ingest.max_rejected` allows ({max_rejected:.0%}): what is served stays"


def _example(row: dict[str, object]) -> str:
    message = " ".join(str(row["message"]).split())
    shown = message if len(message) <= _EXAMPLE else f"{message[:_EXAMPLE]} …"
    return f"{row['source']} row {row['row']}: {shown}"
