"""SQL over one release: DuckDB reads the table `items`; `search(…)`, `similarity(…)` and its peers reach the model."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from pairloom.search.fitting import cutoff_for, fitting
from pairloom.search.query import Query, corrects, json_value, nearest_rows, query_vector
from pairloom.search.release import OpenRelease, Reader
from pairloom.storage.sealed import MAX_SECONDS, Deadline, sealed_connection

MAX_ROWS = 1_000_000
MAX_BYTES = 2**28
TEXTS_AT_ONCE = 64
"""Texts that are encoded between two looks at the clock."""

_MEASURES = {
    "similarity": "array_cosine_similarity",
    "inner_product": "array_inner_product",
    "euclidean_distance": "array_distance",
}
_HINT = "the table is `items`; search('text', k := 10) is a table, similarity(image_vector, 'text') a value"


@dataclass(frozen=True)
class SqlResult:
    """The rows that a statement gave, with the release and model they came from."""

    release: int
    model_id: str
    rows: pa.Table


def run_sql(reader: Reader, sql: str) -> pa.Table:
    """The rows of one SELECT statement over the reader's release.

    `items` is the release's table. `search('text', k := 10)` is a table: the nearest rows with their `score`, found
    through the vector index. `similarity(vector, text)` is a value: the cosine similarity of a vector and any text, or
    of two vectors; `inner_product` and `euclidean_distance` likewise.
    The statement can neither write nor reach a file, the network or a setting; rows, bytes and time are bounded. Raises
    ValueError in one line.
    """
    release, deadline = reader.current, Deadline(MAX_SECONDS)
    with contextlib.closing(sealed_connection()) as connection:
        _prepare(connection, release, deadline)
        try:
            with deadline.interrupts(connection):
                statement = _with_searches(release, connection, _only_select(connection, sql), deadline)
                return _fetched(connection.sql(statement), deadline)
        except RecursionError as error:
            raise ValueError(f"the statement nests too deeply ({_HINT})") from error
        except (MemoryError, pa.ArrowMemoryError) as error:
            raise ValueError("the statement needs more memory than there is: add a LIMIT") from error
        # What Arrow can't hold, it calls an OSError.
        except (duckdb.Error, OSError) as error:
            raise ValueError(f"{_first_line(str(error))} ({_HINT})") from error


def json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The document that `pairloom sql --json` prints: a list of row objects."""
    columns = [[json_value(value) for value in _values(column)] for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The column in Python's types, or as DuckDB's text where these don't reach: years before 1 and after 9999."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        with contextlib.closing(sealed_connection()) as connection:
            texts = connection.from_arrow(pa.table({"value": column})).select("CAST(value AS VARCHAR)")
            return [text for (text,) in texts.fetchall()]
    return values


def _prepare(connection: Any, release: OpenRelease, deadline: Deadline) -> None:
    """Register the table and the functions."""
    dimension = release.record.dimension
    connection.register("items", release.dataset)
    embed = _TextEmbedding(release, deadline)
    connection.create_function("embed_text", embed, ["VARCHAR"], f"FLOAT[{dimension}]", type="arrow")
    # DuckDB folds embed_text of a constant into the plan: it is encoded once, however many rows there are.
    vector = f"FLOAT[{dimension}]"
    for name, function in _MEASURES.items():
        connection.execute(
            f"CREATE MACRO {name}(v {vector}, t VARCHAR) AS {function}(v, embed_text(t)), "
            f"(v {vector}, t {vector}) AS {function}(v, t)"
        )


class _TextEmbedding:
    """DuckDB's `embed_text`: each different text of a statement is encoded once."""

    def __init__(self, release: OpenRelease, deadline: Deadline) -> None:
        self.release = release
        self.deadline = deadline
        self.known: dict[str, Any] = {}

    def __call__(self, texts: pa.ChunkedArray) -> pa.Array:
        rows = texts.to_pylist()
        fresh = sorted({text for text in rows if text is not None} - self.known.keys())
        for start in range(0, len(fresh), TEXTS_AT_ONCE):
            self.deadline.check()
            some = fresh[start : start + TEXTS_AT_ONCE]
            self.known.update(zip(some, self.release.embed_texts(some), strict=True))
        vectors = [None if text is None else self.known[text] for text in rows]
        return pa.array(vectors, type=pa.list_(pa.float32(), self.release.record.dimension))


def _only_select(connection: Any, sql: str) -> str:
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(each.type.name for each in statements) or "nothing"
        raise ValueError(f"one SELECT statement is wanted, not {kinds} ({_HINT})")
    query: str = statements[0].query
    return query


def _with_searches(release: OpenRelease, connection: Any, sql: str, deadline: Deadline) -> str:
    """The statement with every `search(…)` in its parse tree replaced by a table of that search's rows."""
    ((serialized,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    tree = json.loads(serialized)
    if tree["error"]:
        raise ValueError(f"{_first_line(tree['error_message'])} ({_HINT})")
    calls = list(_search_calls(tree))
    if not calls:
        return sql
    for number, call in enumerate(calls):
        deadline.check()
        name = f"search result {number}"
        connection.register(name, _searched(release, call["function"]["arguments"]))
        table = {
            "type": "BASE_TABLE",
            "alias": call["alias"] or "search",
            "sample": call["sample"],
            "query_location": call["query_location"],
            "query_location_length": call["query_location_length"],
            "schema_name": "",
            "table_name": name,
            "column_name_alias": call["column_name_alias"],
            "catalog_name": "",
            "at_clause": None,
            "qualified_name": {"path": [name]},
        }
        call.clear()
        call.update(table)
    ((rewritten,),) = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()
    return str(rewritten)


def _search_calls(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if node.get("type") == "TABLE_FUNCTION" and node["function"]["function_name"].lower() == "search":
            yield node
        for each in list(node.values()):
            yield from _search_calls(each)
    elif isinstance(node, list):
        for each in node:
            yield from _search_calls(each)


def _searched(release: OpenRelease, arguments: list[dict[str, Any]]) -> pa.Table:
    given: dict[str, Any] = {}
    for position, argument in enumerate(arguments):
        name = (argument["name"] or ("text", "k")[min(position, 1)]).lower()
        literal = argument["expression"].get("literal")
        wanted = {"text": "STRING", "k": "INTEGER", "where": "STRING"}.get(name)
        if wanted is None or name in given or literal is None or literal["kind"] != wanted:
            raise ValueError("search takes constants: search('text', k := 10, \"where\" := 'a condition')")
        given[name] = literal["text"]
    if "text" not in given:
        raise ValueError("search takes a text: search('red apple', k := 10)")
    query, k, where = Query(text=given["text"]), int(given.get("k", 10)), given.get("where")
    vector, correct = query_vector(release, query), corrects(release, query)
    rows = nearest_rows(release, vector, k=k, where=where, columns=release.columns, hubness=correct)
    return rows.append_column("fits", pa.array(fitting(rows, cutoff_for(release, query)), pa.bool_()))


def _fetched(result: Any, deadline: Deadline) -> pa.Table:
    reader = result.to_arrow_reader(2_048)  # no more than DuckDB itself makes at once
    batches, rows, size = [], 0, 0
    for batch in reader:
        deadline.check()
        batches.append(batch)
        rows += len(batch)
        size += batch.nbytes
        if rows > MAX_ROWS:
            raise ValueError(f"the statement gives more than {MAX_ROWS} rows: add a LIMIT")
        if size > MAX_BYTES:
            raise ValueError(
                f"the statement gives more than {MAX_BYTES // 2**20} MiB: select fewer columns, or add a LIMIT"
            )
    table = pa.Table.from_batches(batches, schema=reader.schema)
    return table.rename_columns(_distinct(table.column_names))


def _distinct(names: list[str]) -> list[str]:
    """A joined table may name columns twice, which a row object can't hold: `item_id`, `item_id_1`."""
    taken: list[str] = []
    for name in names:
        number, each = 0, name
        while each in taken:
            number += 1
            each = f"{name}_{number}"
        taken.append(each)
    return taken


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0]
