"""How much of what is released a night's rows change, and what they have otherwise than the released items."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pairloom.models.evaluation.config import RowsGateConfig
from pairloom.models.evaluation.findings import Finding, found, matters


def changed(what: str, items: int, released: int, config: RowsGateConfig) -> Finding:
    """How many of the released items have other captions, say, under the same id."""
    share = items / max(1, released)
    against = (
        f"{items:,} of {released:,} released items have changed {what} ({share:.0%}), more than gate.rows.max_changed "
        f"({config.max_changed:.0%})"
    )
    return found(
        f"changed {what}",
        f"{released:,} items",
        f"{items:,} ({share:.1%})",
        against if share > config.max_changed else "",
    )


@dataclass(frozen=True)
class Equals:
    """Which share of items have the captions, say, of another one."""

    released: float
    among: float
    """Of the new and changed rows, one another's."""
    anywhere: float
    """Of the new and changed rows, one another's or a released item's."""


def equal(what: str, equals: Equals, rows: int, released: int, config: RowsGateConfig) -> Finding:
    """How many of the new and changed `rows` have another's: far more of them, or fewer, are another kind of it."""
    more, fewer = equals.among - equals.released, equals.released - equals.anywhere
    against = ""
    if matters(rows, released, config) and max(more, fewer) > config.max_changed:
        now = equals.among if more > fewer else equals.anywhere
        against = (
            f"{now:.0%} of {rows:,} new or changed rows have the same {what} as another, and {equals.released:.0%} of "
            f"the released items: more than gate.rows.max_changed ({config.max_changed:.0%}) apart"
        )
    tonight = f"{equals.among:.1%} of {rows:,} rows" if rows else "no rows"
    return found(f"equal {what}", f"{equals.released:.1%}", tonight, against)


def emptied(
    column: str, share: float, nulls: int, rows: int, config: RowsGateConfig, *, of: str = "new or changed rows"
) -> Finding:
    """How many of some rows have no value in a column; `share`: of the released items, as they were."""
    against = ""
    if nulls / max(1, rows) - share > config.max_changed:
        against = (
            f"{column} is empty in {nulls:,} of {rows:,} {of}, and in {share:.0%} of the released "
            f"items: more than gate.rows.max_changed ({config.max_changed:.0%}) apart"
        )
    return found(f"empty {column}", f"{share:.1%}", f"{nulls:,} of {rows:,} rows", against)


def shrunk(rows: int, releases: Sequence[int], config: RowsGateConfig) -> Finding:
    """How many items there are, beside the median of the retained releases."""
    usual = median(releases)
    against = (
        f"there are {rows:,} items, and {usual:,.0f} in the median of {len(releases)} releases: a loss of more than "
        f"gate.rows.max_changed ({config.max_changed:.0%})"
    )
    return found("items", f"{usual:,.0f}", f"{rows:,}", against if rows < (1 - config.max_changed) * usual else "")
