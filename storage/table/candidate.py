"""A table made ready for a release: its index as the configuration asks, or whatever finds enough; checked."""

import logging
from dataclasses import dataclass

from pairloom.storage.table.check import TableCheck
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.effort import greater_efforts
from pairloom.storage.table.vectors import VectorTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """What became of the table."""

    kind: str | None
    """Of its index; None where all vectors are read for a query."""
    check: TableCheck


def indexed_and_checked(table: VectorTable, config: IndexConfig, *, expected_rows: int) -> Candidate:
    """The table with its index up to date.

    Where the index misses too much, more candidates are ranked by their vectors, more partitions are searched, and
    another kind is built, in this order; then none: slower answers are better than wrong ones, and than none.
    """
    found = _measured(table, config, expected_rows)
    if found.check.ann_recall < config.min_ann_recall and table.partly_known:
        # By some of tonight's rows, which may be few: what counts is all of them.
        table.check_all()
        found = Candidate(found.kind, table.check(config, expected_rows=expected_rows))
    for effort in greater_efforts(config, expected_rows):
        if found.check.ann_recall >= config.min_ann_recall:
            break
        logger.warning("%s: trying %s", "; ".join(found.check.problems), effort.words)
        table.ask(effort)
        found = _measured(table, config, expected_rows)
    return found


def _measured(table: VectorTable, config: IndexConfig, expected_rows: int) -> Candidate:
    return Candidate(table.build_index(config), table.check(config, expected_rows=expected_rows))
