"""SQL over the release: a page of rows, or all of them as a file; read-only, bounded in time and size."""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter
from fastapi import Query as Parameter
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.background import BackgroundTask

from pairloom.search.sql import NOTHING, json_rows
from pairloom.search.sql.limits import ANSWER, Limits
from pairloom.search.sql.statement import Answer, answered
from pairloom.search.web.errors import TooManyError
from pairloom.search.web.pictures import address
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service
from pairloom.storage.exported import export_batches

SHOWN = 1_000
"""Most rows that a page shows."""
SHOWN_BYTES = 2**23
"""What they may take: vectors and thumbnails are long. No more rows are shown then."""
LONGEST = 6_000
AT_ONCE = 2
"""Statements that are worked on at once: each may take gigabytes."""
PATIENCE = 5.0
"""Seconds that a statement waits for its turn."""
SHARE = 0.8
"""Of the time that a request may take, what a statement may."""

Format = Literal["csv", "parquet", "json", "jsonl"]
KINDS = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
}
Statement = Annotated[
    str, Parameter(min_length=1, max_length=LONGEST, description="One SELECT over `items` and the other tables.")
]


class Column(BaseModel, frozen=True):
    """One column of a result."""

    name: str
    type: str


class Rows(BaseModel, frozen=True, use_attribute_docstrings=True):
    """The first rows of a result."""

    release: int
    model_id: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    """As `pairloom sql --json` prints them."""
    pictures: list[str | None] | None
    """Where the picture of each row's item is; None where no column names an `item_id`."""
    more: bool
    """Whether there are rows beyond these: a file has them all."""


class Statements:
    """Answers statements, few at once."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._limits = Limits(ANSWER.rows, ANSWER.bytes, min(ANSWER.seconds, SHARE * service.config.seconds))

    def rows(self, release: ServedRelease, sql: str, count: int) -> Rows:
        """The first `count` rows. ValueError as `run_sql` raises it."""
        with self._answered(release, sql) as answer:
            kept: list[pa.RecordBatch] = []
            seen = size = 0
            for batch in answer.batches:
                kept.append(batch.slice(0, count - seen))
                seen, size = seen + len(batch), size + batch.nbytes
                if seen > count or size > SHOWN_BYTES:
                    break
            whole = seen <= count and size <= SHOWN_BYTES
            table = pa.Table.from_batches(kept, answer.schema)
        return Rows(
            release=release.record.number,
            model_id=release.record.model_id,
            columns=[Column(name=field.name, type=str(field.type)) for field in table.schema],
            rows=json_rows(table),
            pictures=_pictures(release, table),
            more=not whole,
        )

    def file(self, release: ServedRelease, sql: str, path: Path) -> None:
        """All rows, written to a file, by its suffix. ValueError as `run_sql` raises it."""
        with self._answered(release, sql) as answer:
            export_batches(answer.schema, answer.batches, path)

    @contextmanager
    def _answered(self, release: ServedRelease, sql: str) -> Iterator[Answer]:
        if not self._turns.acquire(timeout=PATIENCE):
            raise TooManyError("too many statements at once: try again in a moment")
        try:
            with answered(release, sql, NOTHING, self._limits) as answer:
                yield answer
        finally:
            self._turns.release()


def _pictures(release: ServedRelease, table: pa.Table) -> list[str | None] | None:
    names = table.column_names
    if "item_id" not in names or not pa.types.is_string(table.schema.field("item_id").type):
        return None
    wanted = table["item_id"]
    known = pc.is_in(pc.field("item_id"), value_set=wanted.unique())
    found = release.dataset.scanner(columns=["item_id"], filter=known, with_row_id=True).to_table()
    places = dict(zip(found["item_id"].to_pylist(), found["_rowid"].to_pylist(), strict=True))
    return [None if each not in places else address(release, places[each]) for each in wanted.to_pylist()]


def router(service: Service) -> APIRouter:
    """Where statements are asked."""
    routes = APIRouter(tags=["sql"])
    statements = Statements(service)

    @routes.get("/api/sql")
    def sql(
        statement: Statement,
        limit: Annotated[int, Parameter(ge=1, le=SHOWN, description="Most rows.")] = 100,
        release: Annotated[int | None, Parameter(ge=1, le=10**9, description="Ask an older release.")] = None,
    ) -> Rows:
        """The first rows of one SELECT, as `pairloom sql` gives them.

        It can read the release and nothing else. What is wrong with it comes with its `line` and `column`, where known.
        """
        with service.reading(release) as opened:
            return statements.rows(opened, statement, limit)

    @routes.get("/api/sql/file", response_class=FileResponse)
    def file(
        statement: Statement,
        format: Annotated[Format, Parameter(description="What to write.")] = "csv",
        release: Annotated[int | None, Parameter(ge=1, le=10**9)] = None,
    ) -> FileResponse:
        """All rows of one SELECT, at most 1,000,000 or 256 MiB, as a file."""
        folder = tempfile.mkdtemp(prefix="pairloom-sql-")
        path = Path(folder) / f"result.{format}"
        try:
            with service.reading(release) as opened:
                statements.file(opened, statement, path)
                name = f"{opened.folder.name}-release-{opened.record.number}.{format}"
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(path, media_type=KINDS[format], filename=name, background=gone)

    return routes
