"""The tables and table functions that a statement may name, each made only for a statement that does."""

from collections.abc import Callable, Mapping
from typing import Any

from pairloom.search.sql.alike import ALIKE
from pairloom.search.sql.arguments import TableFunction
from pairloom.search.sql.history import HISTORY, metrics, releases
from pairloom.search.sql.searches import SEARCHES
from pairloom.search.sql.session import Session
from pairloom.search.sql.stored import pairs, quarantine

TABLES: Mapping[str, Callable[[Session], Any]] = {
    "items": lambda session: session.release,
    "releases": releases,
    "metrics": metrics,
    "quarantine": quarantine,
    "pairs": pairs,
}
FUNCTIONS: Mapping[str, TableFunction] = {each.name: each for each in (*SEARCHES, *ALIKE, *HISTORY)}
