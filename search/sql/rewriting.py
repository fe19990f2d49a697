"""A statement made ready for DuckDB: its table functions become tables of their rows, means of vectors ours.

Only text is replaced, at the places that DuckDB's own parse tree names: errors can say where in the statement they are.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import duckdb

from pairloom.search.sql.arguments import Arguments, TableFunction
from pairloom.search.sql.edits import Edit, Edited
from pairloom.search.sql.errors import HINT, PlacedError, one_line, placed
from pairloom.search.sql.functions import MEAN
from pairloom.search.sql.session import Session
from pairloom.search.sql.tables import FUNCTIONS, TABLES
from pairloom.search.sql.tokens import Token, call_end, tokens
from pairloom.storage.schema import VECTOR_COLUMNS

_VECTORS = {*VECTOR_COLUMNS, "embed_text", "embed_image"}
_Node = dict[str, Any]


def edits_of(session: Session, sql: str) -> list[Edit]:
    """What is replaced in one SELECT, whose tables are registered and table functions computed. Raises PlacedError."""
    tree, words = _parsed(session, sql), tokens(sql)
    return [*_table_edits(session, tree, words), *_mean_edits(tree, words)]


def _table_edits(session: Session, node: Any, words: list[Token]) -> Iterator[Edit]:
    """Registers what the tree names; yields what stands for a table function."""
    if isinstance(node, list):
        for each in node:
            yield from _table_edits(session, each, words)
    elif isinstance(node, dict):
        if (function := _function(node)) is not None:
            yield _computed(session, node, function, words)
            return
        if node.get("type") == "BASE_TABLE":
            _register(session, node["table_name"])
        if node.get("show_type") == "SHOW_SPECIAL":
            for name in TABLES:
                # What can't be read isn't listed.
                with contextlib.suppress(ValueError, RuntimeError):
                    _register(session, name)
        for each in node.values():
            yield from _table_edits(session, each, words)


def _function(node: _Node) -> TableFunction | None:
    called = node["function"] if node.get("type") == "TABLE_FUNCTION" else {}
    return FUNCTIONS.get(called.get("function_name", "").lower()) if not called.get("schema") else None


def _register(session: Session, name: str) -> None:
    table = TABLES.get(name.lower())
    if table is not None and name.lower() not in session.registered:
        session.register(name.lower(), table(session))


def _computed(session: Session, call: _Node, function: TableFunction, words: list[Token]) -> Edit:
    """A call, its rows registered under a name of their own."""
    start = int(call["query_location"])
    end = call_end(words, start)
    session.deadline.check()
    try:
        rows = function.rows(session, _arguments(session, call, function))
    except PlacedError as error:
        # Its place is one in the argument.
        raise PlacedError(error.message, start, error.hint) from error
    except ValueError as error:
        raise PlacedError(str(error), start) from error
    if end is None:
        raise PlacedError(f"{function.name} isn't called", start)
    name = f"{function.name} {next(session.numbers)}"
    session.register(name, rows)
    return Edit(start, end, f'"{name}"' if call["alias"] else f'"{name}" AS {function.name}')


def _arguments(session: Session, call: _Node, function: TableFunction) -> Arguments:
    values: dict[str, Any] = {}
    for position, argument in enumerate(call["function"]["arguments"]):
        given = argument["name"].lower()
        name = given or (function.parameters[position] if position < len(function.parameters) else "")
        if name not in function.parameters or name in values:
            wrong = f"no parameter {given}" if given else "too many arguments"
            wrong = f"{name} twice" if name in values else wrong
            raise ValueError(f"{function.name}: {wrong}; write {function.usage}")
        values[name] = _value(session, argument["expression"], f"{function.name}: its {name}")
    return Arguments(function, values)


def _value(session: Session, expression: _Node, what: str) -> Any:
    """The value of an argument: an expression of constants, or a subquery that gives one."""
    tree = _parsed(session, "SELECT 1")
    tree["statements"][0]["node"]["select_list"] = [{**expression, "alias": ""}]
    ((sql,),) = session.connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()
    try:
        text = Edited(str(sql), edits_of(session, str(sql))).text
        ((value,),) = session.connection.execute(text).fetchall()
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        raise ValueError(f"{what} is neither constant nor a subquery: {placed(error).message}") from error
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise ValueError(f"{what} can't be computed: {placed(error).message}") from error
    return list(value) if isinstance(value, tuple) else value


def _mean_edits(node: Any, words: list[Token]) -> Iterator[Edit]:
    """`avg` of vectors, which DuckDB knows of numbers only: our mean of their list, whatever filter it has."""
    if isinstance(node, list):
        for each in node:
            yield from _mean_edits(each, words)
    elif isinstance(node, dict):
        if _function(node) is not None:
            return
        if node.get("class") == "FUNCTION" and _is_mean(node):
            start, end = node["query_location"], node["query_location"] + node["query_location_length"]
            name = next((word for word in words if word.start == start), None)
            if name is not None and name.text.lower() == node["function_name"]:
                yield Edit(start, name.end, f"{MEAN}(list")
                yield Edit(end, end, ")")
        for each in node.values():
            yield from _mean_edits(each, words)


def _is_mean(node: _Node) -> bool:
    arguments = node["arguments"]
    if len(arguments) != 1 or node.get("schema"):
        return False
    of = arguments[0]["expression"]
    named = of.get("function_name") or (of.get("column_names") or [""])[-1]
    return node["function_name"] == "avg_vector" or (node["function_name"] == "avg" and named.lower() in _VECTORS)


def _parsed(session: Session, sql: str) -> _Node:
    ((serialized,),) = session.connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    tree: _Node = json.loads(serialized)
    if tree["error"]:
        place = str(tree.get("position", ""))
        raise PlacedError(one_line(tree["error_message"]), int(place) if place.isdigit() else None, HINT)
    return tree
