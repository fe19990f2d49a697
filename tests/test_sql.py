"""SQL over a release: its functions, its refusals, its JSON."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from released_pipeline import HOSTILE, NAMES, publish

import pairloom.search.sql.statement
from pairloom.search.query import Query
from pairloom.search.query import search as find
from pairloom.search.release import OpenRelease
from pairloom.search.sql import json_rows, run_sql
from pairloom.search.sql.limits import ANSWER


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    folder = tmp_path_factory.mktemp("pipeline")
    publish(folder)
    return OpenRelease.open(folder)


def test_items_are_filtered_and_grouped(release: OpenRelease) -> None:
    sql = """SELECT subgroup, count(*) AS n FROM items
             WHERE subgroup IN ('Apple', 'Pear') AND seen > '2026-11-02' GROUP BY subgroup ORDER BY subgroup"""
    assert json_rows(run_sql(release, sql)) == [{"subgroup": "Apple", "n": 7}, {"subgroup": "Pear", "n": 7}]


def test_dates_without_a_zone_are_utc_wherever_the_machine_stands(release: OpenRelease) -> None:
    [row] = json_rows(run_sql(release, "SELECT epoch('2026-11-02'::timestamptz) AS seconds"))
    assert row["seconds"] == datetime(2026, 11, 2, tzinfo=UTC).timestamp()


def test_search_is_a_table_and_agrees_with_the_command(release: OpenRelease) -> None:
    rows = json_rows(run_sql(release, "SELECT item_id, score FROM search('red apple', k := 5)"))
    hits = find(release, Query(text="red apple"), k=5).hits
    assert rows == [{"item_id": hit.item_id, "score": hit.score} for hit in hits]


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT * FROM search('red apple', k := 46) WHERE subgroup = 'Apple'", 8),
        ("SELECT * FROM search('red apple')", 10),
        ("SELECT * FROM Search('red apple', 3)", 3),
        ("SELECT * FROM search('red', k => 3) AS a", 3),
        ("SELECT search.item_id FROM search('red', k := 3)", 3),
        ("SELECT a.item_id FROM search('red', k := 46) a JOIN search('apple', k := 46) b USING (item_id)", 46),
        ("WITH found AS (FROM search('red', k := 4)) SELECT item_id FROM found", 4),
        ("SELECT item_id FROM items WHERE item_id IN (SELECT item_id FROM search('red', k := 2))", 2),
        ("SELECT item_id FROM search('red', k := 46, \"where\" := 'subgroup = ''Fig''')", 8),
        ("(SELECT item_id FROM search('red', k := 1)) UNION ALL (SELECT item_id FROM search('red', k := 1))", 2),
        ("SELECT t.x FROM search('red', k := 2) AS t(x)", 2),
    ],
)
def test_search_stands_wherever_a_table_may(release: OpenRelease, sql: str, count: int) -> None:
    assert len(run_sql(release, sql)) == count


def test_similarity_is_the_cosine_of_vector_and_text(release: OpenRelease) -> None:
    sql = "SELECT item_id, similarity(image_vector, 'red apple') AS s FROM items ORDER BY s DESC LIMIT 5"
    rows = json_rows(run_sql(release, sql))
    hits = find(release, Query(text="red apple"), k=5).hits
    assert [row["item_id"] for row in rows] == [hit.item_id for hit in hits]
    assert [row["s"] for row in rows] == pytest.approx([hit.score for hit in hits], abs=1e-5)


def test_every_measure_takes_a_text_or_another_vector(release: OpenRelease) -> None:
    rows = json_rows(
        run_sql(
            release,
            """SELECT image_vector, text_vector, similarity(image_vector, 'red') AS cosine_of_text,
               inner_product(image_vector, 'red') AS product_of_text, similarity(image_vector, text_vector) AS cosine,
               euclidean_distance(image_vector, 'red') AS distance_of_text,
               inner_product(image_vector, text_vector) AS product,
               euclidean_distance(image_vector, text_vector) AS distance FROM items""",
        )
    )
    red_D = release.encoder.embed_texts(["red"])[0]
    for row in rows:
        image_D = np.array(row["image_vector"])
        for suffix, other_D in (("_of_text", red_D), ("", np.array(row["text_vector"]))):
            assert row[f"cosine{suffix}"] == pytest.approx(float(image_D @ other_D), abs=1e-5)
            assert row[f"product{suffix}"] == pytest.approx(float(image_D @ other_D), abs=1e-5)
            assert row[f"distance{suffix}"] == pytest.approx(float(np.linalg.norm(image_D - other_D)), abs=1e-5)


def test_every_measure_ranks_normalised_vectors_alike(release: OpenRelease) -> None:
    orders = ("similarity(image_vector, 'fig') DESC", "inner_product(image_vector, 'fig') DESC")
    ranked = [
        json_rows(run_sql(release, f"SELECT item_id FROM items ORDER BY {order}"))  # noqa: S608
        for order in (*orders, "euclidean_distance(image_vector, 'fig')")
    ]
    assert ranked[0] == ranked[1] == ranked[2]
    twice = "SELECT similarity([2 * x FOR x IN image_vector]::FLOAT[16], image_vector) AS s FROM items"
    assert {round(row["s"], 5) for row in json_rows(run_sql(release, twice))} == {1.0}


def test_similarity_takes_a_column_of_texts_and_nulls(release: OpenRelease) -> None:
    own = json_rows(run_sql(release, "SELECT similarity(text_vector, item_id) AS s FROM items"))
    assert [row["s"] for row in own] == pytest.approx([1.0] * len(NAMES), abs=1e-4)
    sql = """SELECT similarity(image_vector, NULL) AS a, similarity(NULL, 'red') AS b,
             similarity(image_vector, CASE WHEN subgroup = 'Fig' THEN 'red' END) AS c FROM items"""
    rows = json_rows(run_sql(release, sql))
    assert {row["a"] for row in rows} == {row["b"] for row in rows} == {None}
    assert sum(row["c"] is not None for row in rows) == 8


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_are_only_texts(release: OpenRelease, hostile: str) -> None:
    literal = hostile.replace("'", "''")
    sql = f"SELECT item_id, similarity(image_vector, '{literal}') AS s FROM search('{literal}', k := 1)"  # noqa: S608
    [row] = json_rows(run_sql(release, sql))
    assert row["item_id"] == find(release, Query(text=hostile), k=1).hits[0].item_id


def test_each_text_is_encoded_once(release: OpenRelease) -> None:
    encoded: list[str] = []

    class Counting:
        dimension = release.record.dimension

        def embed_texts(self, texts: list[str]) -> object:
            encoded.extend(texts)
            return np.zeros((len(texts), self.dimension), np.float32)

    counted = OpenRelease(release.folder, release.record)
    counted.__dict__["encoder"] = Counting()
    run_sql(counted, "SELECT similarity(image_vector, 'red') FROM items CROSS JOIN range(5000)")
    assert encoded == ["red"]
    encoded.clear()
    run_sql(counted, "SELECT similarity(image_vector, subgroup) FROM items CROSS JOIN range(200)")
    assert sorted(encoded) == sorted(set(encoded))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM read_parquet('http://example.com/x.parquet')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM query('COPY items TO ''/tmp/x''')",
        "SELECT * FROM NAMES",
        "SELECT * FROM release",
        "COPY items TO '{folder}/stolen.csv'",
        "COPY (SELECT 1) TO '{folder}/stolen.csv'",
        "EXPORT DATABASE '{folder}/stolen'",
        "ATTACH '{folder}/stolen.db'",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW items",
        "DELETE FROM items",
        "INSERT INTO items VALUES (1)",
        "WITH a AS (DELETE FROM items RETURNING 1) SELECT * FROM a",
        "SET memory_limit = '1TB'",
        "PRAGMA database_list",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW items",
        "SELEC",
        "",
        ";",
        "SELECT nope FROM items",
        "SELECT * FROM nope",
        "SELECT similarity(item_id, 'red') FROM items",
        "SELECT similarity(image_vector, 5) FROM items",
        "SELECT inner_product(image_vector, [1, 2]) FROM items",
        "SELECT * FROM search('red'",
        "SELECT * FROM search()",
        "SELECT * FROM search(5)",
        "SELECT * FROM search('red', 'apple')",
        "SELECT * FROM search('red', k := 0)",
        "SELECT * FROM search('red', k := -3)",
        "SELECT * FROM search('red', 3, k := 3)",
        "SELECT * FROM search('red', limit_ := 3)",
        "SELECT * FROM items, search(items.item_id)",
        "SELECT * FROM search('red', \"where\" := '1=1) --')",
        "SELECT search('red')",
    ],
)
def test_statement_that_does_more_or_less_than_select_is_refused_in_one_line(
    release: OpenRelease, tmp_path: Path, sql: str
) -> None:
    with pytest.raises(ValueError, match=r"\S") as error:
        run_sql(release, sql.replace("{folder}", str(tmp_path)))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_error_says_what_exists(release: OpenRelease) -> None:
    with pytest.raises(ValueError, match=r"Table with name nope does not exist.*the table is `items`; search\('text'"):
        run_sql(release, "SELECT * FROM nope")


def test_rows_become_json(release: OpenRelease) -> None:
    sql = """SELECT *, 1.50 AS money, sum(width) OVER () AS total, {'a': 'nan'::DOUBLE} AS s, DATE '2026-01-02' AS day,
             INTERVAL 1 DAY AS span, MAP {'k': 1} AS m, item_id FROM items LIMIT 1"""
    [row] = json.loads(json.dumps(json_rows(run_sql(release, sql)), allow_nan=False))
    assert row["item_id_1"] == row["item_id"]
    assert len(row["image_vector"]) == 16
    assert isinstance(row["thumbnail"], str)
    assert row["total"] == 16 * len(NAMES)
    assert (row["money"], row["s"], row["day"]) == (1.5, {"a": None}, "2026-01-02")
    assert row["seen"].startswith("2026-11-")


def test_result_and_time_are_bounded(release: OpenRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="more than 1000000 rows: add a LIMIT"):
        run_sql(release, "SELECT * FROM range(100000000000)")
    monkeypatch.setattr(pairloom.search.sql.statement, "ANSWER", replace(ANSWER, seconds=0.2))
    with pytest.raises(ValueError, match=r"longer than 0\.2 seconds"):
        run_sql(release, "SELECT count(*) FROM range(100000000000) a, range(100000) b WHERE a.range % 7 = b.range % 11")


def test_only_the_columns_and_rows_asked_for_are_read(release: OpenRelease) -> None:
    import duckdb

    connection = duckdb.connect()
    connection.register("items", release.dataset)
    [(_, plan)] = connection.execute("EXPLAIN SELECT item_id FROM items WHERE subgroup = 'Apple'").fetchall()
    connection.close()
    assert "Filters: \"subgroup\" = 'Apple'" in plan
    assert "image_vector" not in plan


def test_description_and_plain_from_work(release: OpenRelease) -> None:
    described = json_rows(run_sql(release, "DESCRIBE items"))
    assert {"column_name": "subgroup", "column_type": "VARCHAR"}.items() <= described[12].items()
    assert len(run_sql(release, "FROM items; -- all of them")) == len(NAMES)
