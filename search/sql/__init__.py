"""SQL over one release; what the other folders import of it."""

from pairloom.search.sql.attached import NOTHING, Attached
from pairloom.search.sql.rows import json_rows
from pairloom.search.sql.statement import SqlResult, run_sql

__all__ = ["NOTHING", "Attached", "SqlResult", "json_rows", "run_sql"]
