"""Attacks by SQL: statements, conditions of a search, and `where` of a source."""

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from released_pipeline import NAMES, picture, publish

import pairloom.search.nearest
import pairloom.search.query
import pairloom.search.sql.statement
import pairloom.storage.sources.row_filter
from pairloom.search.query import Query
from pairloom.search.query import search as find
from pairloom.search.release import OpenRelease
from pairloom.search.sql import NOTHING, Attached, json_rows, run_sql
from pairloom.search.sql.limits import ANSWER
from pairloom.storage.sealed import in_time, sealed_connection
from pairloom.storage.sources.row_filter import RowFilter


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    folder = tmp_path_factory.mktemp("pipeline")
    publish(folder)
    return OpenRelease.open(folder)


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in `.tmp` of the working directory, where DuckDB spills if nobody says otherwise."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".tmp" / "secret.csv"
    file.parent.mkdir()
    file.write_text("a,b\nhidden,1\n")
    return file


READS = [
    "SELECT * FROM read_text('.tmp/secret.csv')",
    "SELECT * FROM read_blob('.tmp/secret.csv')",
    "SELECT * FROM read_csv('.tmp/secret.csv')",
    "SELECT * FROM '.tmp/secret.csv'",
    "SELECT * FROM read_json('.tmp/*')",
    "SELECT * FROM glob('.tmp/*')",
    "SELECT * FROM glob('**')",
    "SELECT * FROM sniff_csv('.tmp/secret.csv')",
    "SELECT * FROM parquet_metadata('.tmp/secret.csv')",
    "SELECT * FROM query('FROM read_text(''.tmp/secret.csv'')')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''.tmp/secret.csv'')'))",
    "SELECT * FROM read_text('file://' || '.tmp/secret.csv')",
    "SELECT * FROM read_csv('https://example.com/x.csv')",
    "SELECT getenv('HOME')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_csv('/etc/passwd')",
]
WRITES = [
    "COPY items TO '.tmp/stolen.csv'",
    "EXPORT DATABASE '.tmp/stolen'",
    "ATTACH '.tmp/stolen.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET temp_directory = '.tmp'",
    "SET lock_configuration = false",
    "PRAGMA enable_profiling",
    "CALL enable_logging()",
    "SELECT * FROM enable_logging(storage = 'file', storage_config = {'path': '.tmp/log'})",
    "SELECT * FROM enable_profiling()",
    "CREATE SECRET s (TYPE s3)",
    "CREATE TABLE t AS SELECT 1",
    "DROP VIEW items",
    "DELETE FROM items",
    "SELECT 1; DROP VIEW items",
]


@pytest.mark.parametrize("sql", READS + WRITES)
def test_statement_reaches_nothing_but_the_table(release: OpenRelease, secret: Path, sql: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as error:
        run_sql(release, sql)
    assert "hidden" not in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in secret.parent.iterdir()] == ["secret.csv"]


IMAGES = [
    "../secret.png",
    "/etc/hostname",
    "link.png",
    "folder/../../secret.png",
    "file:///etc/hostname",
    "http://127.0.0.1:1/a.png",
    "absent.png",
    "folder",
    "",
    "a\0b.png",
]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("sql", ["SELECT embed_image({})", "SELECT * FROM search_image({})"])
def test_statement_names_no_image_but_those_below_the_folder_that_the_caller_allows(
    release: OpenRelease, tmp_path: Path, name: str, sql: str
) -> None:
    (tmp_path / "secret.png").write_bytes(picture(1))
    allowed = tmp_path / "allowed"
    (allowed / "folder").mkdir(parents=True)
    (allowed / "link.png").symlink_to(tmp_path / "secret.png")
    literal = "'" + name.replace("\0", "' || chr(0) || '") + "'"
    for attached in (Attached(images=allowed), NOTHING):
        with pytest.raises(ValueError, match=r"\S") as error:
            run_sql(release, sql.format(literal), attached)
        assert "\n" not in str(error.value)


def test_attached_files_are_read_and_never_reached_by_another_name(release: OpenRelease, secret: Path) -> None:
    attached = Attached({"mine": secret})
    assert json_rows(run_sql(release, "SELECT a FROM mine", attached)) == [{"a": "hidden"}]
    for sql in (*READS, "DELETE FROM mine", "UPDATE mine SET a = 'x'", "DROP VIEW mine"):
        with pytest.raises(ValueError, match=r"\S") as error:
            run_sql(release, sql, attached)
        assert "hidden" not in str(error.value)
    assert secret.read_text() == "a,b\nhidden,1\n"


def test_statement_that_needs_more_memory_spills_nowhere(
    release: OpenRelease, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairloom.storage.sealed, "MEMORY_LIMIT", "64MB")
    sql = "SELECT count(*) FROM (SELECT range AS r FROM range(20000000) ORDER BY hash(range) LIMIT 19000000)"
    with pytest.raises(ValueError, match="Out of Memory"):
        run_sql(OpenRelease(release.folder, release.record), sql)
    assert [path.name for path in secret.parent.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    "setting",
    [
        "temp_directory",
        "enable_external_access",
        "lock_configuration",
        "autoinstall_known_extensions",
        "autoload_known_extensions",
        "allow_community_extensions",
        "allow_persistent_secrets",
        "python_enable_replacements",
    ],
)
def test_no_setting_of_a_sealed_database_can_be_opened_again(setting: str) -> None:
    with contextlib.closing(sealed_connection()) as connection:
        ((value,),) = connection.execute(f"SELECT current_setting('{setting}')").fetchall()
        assert value in ("", False) or setting == "lock_configuration"
        with pytest.raises(Exception, match="configuration has been locked"):
            connection.execute(f"SET {setting} = 'true'")


BOMBS = [
    "SELECT repeat('a', 2000) FROM range(900000)",
    "SELECT repeat('a', 100000) AS a, repeat('b', 100000) AS b FROM range(900000)",
    "SELECT [range FOR _ IN range(1000)] FROM range(900000)",
    "SELECT * FROM items CROSS JOIN range(900000)",
    "SELECT lpad('', 2000, 'a') FROM range(900000)",
    "SELECT printf('%2000d', 1) FROM range(900000)",
    "SELECT map([1], [repeat('a', 2000)]) FROM range(900000)",
    "SELECT encode(repeat('a', 2000)) FROM range(900000)",
]


@pytest.mark.parametrize("sql", BOMBS)
def test_bytes_of_a_result_are_bounded(release: OpenRelease, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    monkeypatch.setattr(pairloom.search.sql.statement, "ANSWER", replace(ANSWER, bytes=2**24))
    with pytest.raises(ValueError, match=r"more than 16 MiB: select fewer columns, or add a LIMIT"):
        run_sql(release, sql)


def test_values_too_long_for_arrow_are_refused_in_one_line(release: OpenRelease) -> None:
    with pytest.raises(ValueError, match="Cannot create a string of size") as error:
        run_sql(release, "SELECT repeat('a', 20000000000)")
    assert "\n" not in str(error.value)


SLOW = [
    "SELECT count(similarity(image_vector, range::VARCHAR)) FROM items, range(100000000)",
    "SELECT count(embed_text(range::VARCHAR)) FROM range(100000000)",
    "SELECT count(euclidean_distance(image_vector, item_id || range)) FROM items, range(100000000)",
    "SELECT count(*) FROM range(100000000000) a, range(100000) b WHERE a.range % 7 = b.range % 11",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    "SELECT count(*) FROM repeat('x', 10000000000000)",
    "SELECT * FROM search((SELECT max(a.range * b.range)::VARCHAR FROM range(10000000) a, range(10000000) b))",
    "FROM " + ", ".join(f"search('text {number}', k := 40) s{number}" for number in range(60)) + " SELECT count(*)",
]


@pytest.mark.parametrize("sql", SLOW, ids=lambda sql: sql[:40])
def test_deadline_holds_in_our_own_functions_too(
    release: OpenRelease, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    """Texts take a tick of the clock each, so that no processor is quick enough."""
    now = [0.0]

    class Slow:
        dimension = release.record.dimension

        def embed_texts(self, texts: list[str]) -> object:
            now[0] += len(texts)
            return np.ones((len(texts), self.dimension), np.float32)

    slow = OpenRelease(release.folder, release.record)
    slow.__dict__["encoder"] = Slow()
    slow.__dict__["_exported"] = None
    started = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: started + now[0])
    monkeypatch.setattr(pairloom.search.sql.statement, "ANSWER", replace(ANSWER, seconds=1.0))
    with pytest.raises(ValueError, match="longer than 1 seconds"):
        run_sql(slow, sql)


DATES = {
    "DATE '290000-01-01'": "290000-01-01",
    "DATE '0044-01-01 (BC)'": "0044-01-01 (BC)",
    "'infinity'::DATE": "infinity",
    "'-infinity'::TIMESTAMP": "-infinity",
    "'infinity'::TIMESTAMPTZ": "infinity",
    "TIMESTAMP '290000-01-01 10:00:00'": "290000-01-01 10:00:00",
    "DATE '9999-12-31' + 1": "10000-01-01",
    "[DATE '290000-01-01']": "[290000-01-01]",
    "{'a': DATE '290000-01-01'}": "{'a': 290000-01-01}",
}


@pytest.mark.parametrize("value", DATES)
def test_dates_beyond_pythons_are_text(release: OpenRelease, value: str) -> None:
    [row] = json_rows(run_sql(release, f"SELECT {value} AS day, 1 AS one"))
    assert row == {"day": DATES[value], "one": 1}


@pytest.mark.parametrize(
    "nested", ["1" + "+1" * 900, "(" * 900 + "1" + ")" * 900, "1" + "+1" * 5000, "NOT " * 900 + "1"]
)
def test_deep_statements_are_refused_or_answered(release: OpenRelease, nested: str) -> None:
    try:
        assert len(run_sql(release, f"SELECT {nested}")) == 1
    except ValueError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said


CONDITIONS = [
    "item_id = repeat('a', 100000000)",
    "item_id = REPEAT ('a', 100000000)",
    "item_id = `repeat`('a', 100000000)",
    "item_id = lpad('a', 100000000, 'b')",
    "item_id = rpad('a', 100000000, 'b')",
    "item_id = replace(replace(item_id, 'a', 'aaaa'), 'a', 'aaaa')",
    "array_length(range(1, 100000000)) > 1",
    "array_length(generate_series(1, 100000000)) > 1",
    "item_id = array_to_string(array_repeat('a', 100000000), '')",
    "price > random()",
    "item_id = uuid()",
    "item_id = version()",
    "price = " + "+".join(["1"] * 2000),
    "item_id = " + "||".join(["'a'"] * 3000),
    "price" + "::int" * 3000 + " = 1",
    "tags" + "[1]" * 3000 + " = 'a'",
    "NOT " * 3000 + "price = 1",
    "(" * 3000 + "price = 1" + ")" * 3000,
    "lower(" * 3000 + "item_id" + ")" * 3000 + " = 'a'",
    "exists (SELECT 1)",
    "price > (SELECT 1)",
    "1=1; DROP TABLE items",
    "1=1) OR (1=1",
    "1=1 --",
    "seen > date '290000-01-01'",
    "seen > timestamp '2026-99-99'",
]


@pytest.mark.parametrize("where", CONDITIONS, ids=lambda where: where[:40])
def test_condition_that_makes_much_of_little_is_refused_in_one_short_line(release: OpenRelease, where: str) -> None:
    with pytest.raises(ValueError, match="is not a filter: ") as error:
        find(release, Query(text="red"), where=where)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1_500
    assert str(error.value).count("is not a filter") == 1


def test_long_conditions_of_the_usual_kind_are_answered(release: OpenRelease) -> None:
    many = ", ".join(f"'{number}'" for number in range(20_000))
    assert not find(release, Query(text="red"), where=f"item_id IN ({many})").hits
    either = " OR ".join(f"price = {number}" for number in range(500))
    assert len(find(release, Query(text="red"), k=100, where=either).hits) == sum(
        at % 7 > 0 for at in range(len(NAMES))
    )


def test_condition_that_takes_too_long_is_left_behind(release: OpenRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()

    def never(*_: object, **__: object) -> pa.Table:
        return os.read(read, 1)

    monkeypatch.setattr(pairloom.search.nearest, "nearest", never)
    monkeypatch.setattr(pairloom.search.nearest, "MAX_SECONDS", 0.01)
    with pytest.raises(ValueError, match=r"is not a filter: it took longer than 0\.01 seconds"):
        pairloom.search.query.nearest_rows(
            release, np.ones(16, np.float32), k=1, where="price = 1", columns=["item_id"]
        )
    os.write(write, b"x")


def test_in_time_hands_over_results_and_errors() -> None:
    assert in_time(lambda: 5, 60) == 5
    with pytest.raises(KeyError, match="gone"):
        in_time(lambda: {"here": 1}["gone"], 60)


SOURCE_WHERES = [
    "a IN (SELECT content FROM read_text('.tmp/secret.csv'))",
    "(SELECT count(*) FROM glob('.tmp/*')) > 0",
    "(SELECT count(*) FROM '.tmp/secret.csv') > 0",
    "a = getenv('HOME')",
    "true; COPY (SELECT 1) TO '.tmp/stolen.csv'",
    "true) TO '.tmp/stolen.csv' --",
    "a = (SELECT repeat('a', 20000000000))",
]


@pytest.mark.parametrize("where", SOURCE_WHERES)
def test_where_of_a_source_reaches_nothing_but_its_row(secret: Path, where: str) -> None:
    with pytest.raises(ValueError, match="cannot be asked") as error:
        RowFilter(where, [{"a": "x"}], {}, as_text=False).judge([{"a": "x"}])
    assert "hidden" not in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in secret.parent.iterdir()] == ["secret.csv"]


def test_where_of_a_source_ends_by_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairloom.storage.sources.row_filter, "MAX_SECONDS", 0.2)
    where = "(SELECT count(*) FROM range(100000000000) x, range(100000) y WHERE x.range % 7 = y.range % 11) > 0"
    with pytest.raises(ValueError, match=r"it took longer than 0\.2 seconds"):
        RowFilter(where, [{"a": "x"}], {}, as_text=False).judge([{"a": "x"}])
