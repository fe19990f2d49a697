"""Rejected rows as people read them: reasons with their remedies first, then the rows."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel
from rich.padding import Padding
from rich.text import Text

from pairloom.flows.show.console import out
from pairloom.flows.show.line import Line
from pairloom.storage.corpus import Corpus
from pairloom.storage.escaping import plain
from pairloom.storage.quarantine import ReasonCount, RejectedRows, last_ingest

MESSAGE = 240
"""Most characters of a message that a terminal shows."""


class RejectedRow(BaseModel, frozen=True):
    """One rejected row."""

    source: str
    row: int
    outcome: str
    reason: str
    message: str
    attempts: int
    """How often its image was tried."""
    item_id: str | None
    image_path: str | None
    first_seen: datetime
    """The night that first rejected it for this reason."""
    last_seen: datetime
    """The last night that changed anything: all of these rows were there then, and no items."""


class ReasonShare(ReasonCount, frozen=True):
    """How many rows were rejected for one reason, and which share of all that is."""

    share: float
    """Of the items and the rejected rows."""


class QuarantineReport(BaseModel, frozen=True):
    """What is known of rows that are no items."""

    pipeline: str
    snapshot: int
    last_seen: datetime | None
    items: int
    rejected: int
    """Rows that are no items, whichever of them were asked for."""
    reasons: tuple[ReasonShare, ...]
    rows: tuple[RejectedRow, ...]
    """At most as many as were asked for."""
    exported: int | None = None
    """Rows written to a file."""
    retried: int | None = None
    """Images that the next night will try again."""

    @property
    def chosen(self) -> int:
        """Rows that were asked for, listed or not."""
        return sum(each.rows for each in self.reasons)


def quarantine_report(
    folder: Path, *, reason: str | None = None, source: str | None = None, limit: int
) -> QuarantineReport:
    """The rejected rows of the pipeline stored in `folder`, or those of one reason or source; lists at most `limit`."""
    corpus = Corpus(folder)
    snapshot = corpus.current()
    found = RejectedRows(corpus, snapshot, reason=reason, source=source)
    rejected = sum(part.rows for part in snapshot.quarantine)
    seen = snapshot.rows + rejected
    return QuarantineReport(
        pipeline=folder.name,
        snapshot=snapshot.number,
        last_seen=last_ingest(corpus, snapshot),
        items=snapshot.rows,
        rejected=rejected,
        reasons=tuple(ReasonShare(**each.model_dump(), share=each.rows / seen) for each in found.counts()),
        rows=tuple(RejectedRow(**row) for row in found.table(limit).to_pylist()),
    )


def show_quarantine(report: QuarantineReport) -> None:
    """All of it."""
    seen = f" · as of {report.last_seen:%Y-%m-%d %H:%M} UTC" if report.last_seen else ""
    said = f"  {report.rejected:,} of {report.items + report.rejected:,} rows are no items{seen}"
    out.print(Text.assemble((report.pipeline, "bold"), said))
    show_reasons(report.reasons, {each.reason: each.share for each in report.reasons})
    if report.rows:
        out.print()
    for row in report.rows:
        tried = f" · tried {row.attempts} times" if row.attempts > 1 else ""
        head = f"{row.source} row {row.row} · {row.reason}{tried} · since {row.first_seen:%Y-%m-%d}"
        out.print(Line(head), overflow="fold")
        _indented(_shortened(row.message))
    if (left := report.chosen - len(report.rows)) > 0:
        out.print(Text(f"{_counted(left, 'row')} more: see --limit and --export", style="dim"))
    if not report.chosen:
        out.print("no such rows")
    if report.exported is not None:
        out.print(Text(f"{_counted(report.exported, 'row')} written"))
    if report.retried is not None:
        out.print(
            Text(f"the next night tries {_counted(report.retried, 'image')} again, as far as rows still name them")
        )


def show_reasons(counts: Sequence[ReasonCount], shares: dict[str, float]) -> None:
    """How many rows for which reason, each with an example and its remedy; `shares` where known."""
    for each in counts:
        share = f" · {shares[each.reason]:.1%}" if each.reason in shares else ""
        out.print(Text.assemble((f"{each.reason}", "bold"), f" · {each.outcome} · {_counted(each.rows, 'row')}{share}"))
        _indented(f"e.g. {_shortened(each.example)}")
        if each.remedy:
            _indented(each.remedy)


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _shortened(message: str) -> str:
    shown = plain(message)
    return shown if len(shown) <= MESSAGE else f"{shown[:MESSAGE]} …"


def _indented(text: str) -> None:
    out.print(Padding(Line(text, overflow="fold"), (0, 0, 0, 2), expand=False))
