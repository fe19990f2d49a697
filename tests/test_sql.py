"""SQL over a release: its tables and functions, its refusals, its JSON, its files."""

import base64
import csv
import gc
import io
import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from released_pipeline import HOSTILE, NAMES, picture, publish

import pairloom.models.mining.cells
import pairloom.search.alike
import pairloom.search.sql.alike
import pairloom.search.sql.statement
from pairloom.search.alike import image_vectors
from pairloom.search.query import Query
from pairloom.search.query import search as find
from pairloom.search.release import OpenRelease
from pairloom.search.sql import Attached, json_rows, run_sql
from pairloom.search.sql.export import export_sql
from pairloom.search.sql.limits import ANSWER
from pairloom.search.sql.rows import with_pictures
from pairloom.search.sql.session import MAX_IDLE
from pairloom.search.sql.tables import TABLES


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
        ("SELECT * FROM search((SELECT 'red'), k := 5)", 5),
        ("SELECT * FROM search('red' || ' ' || lower('APPLE'), k := 2 * 3 + 1)", 7),
        ("SELECT * FROM search(text := 'red', k := (SELECT count(*) FROM search('fig', k := 4)))", 4),
        ("SELECT * FROM search('red', where := 'group = ' || $$'fig'$$, k := 46)", 8),
        ("SELECT * FROM search('red', k := 46, where := $$seen >= '2026-11-28'$$)", 1),
        ("SELECT * FROM search((SELECT avg(text_vector) FILTER (WHERE group = 'fig') FROM items), k := 3)", 3),
        ("SELECT * FROM search_like('red fig', k := 5)", 5),
        ("SELECT a.item_id FROM search('red', k := 46) a JOIN search_like('red fig', k := 46) b USING (item_id)", 45),
        ("SELECT * FROM search_image((SELECT thumbnail FROM items WHERE item_id = 'red fig'), k := 4)", 4),
        ("SELECT * FROM search('wörter (', k := 2) /* ) */ AS ü -- )", 2),
        ("DESCRIBE SELECT * FROM search('red')", 18),
        ("SELECT group FROM items GROUP BY group", 11),
        ("SELECT * FROM outliers(k := 3)", 3),
        ("SELECT * FROM near_duplicates(-1)", 46 * 45 // 2),
        ("SELECT * FROM near_duplicates(-1, where := 'group = ''fig''')", 8 * 7 // 2),
        ("FROM items_at(1)", 46),
        ("SELECT release, rows FROM releases WHERE asked", 1),
        ("FROM metrics", 0),
        ("FROM pairs", 0),
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
        "SELECT * FROM search('red', k := 2.5)",
        "SELECT * FROM search('red', k := items.width)",
        "SELECT * FROM search(repeat('a', 200000))",
        "SELECT * FROM search([1, 2])",
        "SELECT * FROM search((SELECT [0.0 FOR _ IN range(16)]))",
        "SELECT * FROM search_like('nobody')",
        "SELECT * FROM near_duplicates(2)",
        "SELECT * FROM near_duplicates(where := 'nope = 1')",
        "SELECT * FROM outliers(k := 0)",
        "SELECT * FROM outliers('many')",
        "SELECT * FROM items_at(7)",
        "SELECT embed_image('abc'::BLOB)",
        "EXPLAIN COPY items TO '{folder}/stolen.csv'",
        "EXPLAIN ANALYZE DELETE FROM items",
        "EXPLAIN EXPLAIN SELECT 1",
        "PIVOT items ON split",
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


@pytest.mark.parametrize(
    ("sql", "read", "passed_by"),
    [
        ("SELECT item_id FROM items WHERE subgroup = 'Apple'", ["\"subgroup\" = 'Apple'", "item_id"], ["image_vector"]),
        ("SELECT count(*) FROM items WHERE price < 5", ['"price" < 5.0', "Projections: _rowid"], ["item_id"]),
        ("SELECT max(price) FROM items WHERE seen > '2026-11-02'", ['"seen" > TIMESTAMPTZ', "price"], ["item_id"]),
        (
            "SELECT count(*) FROM items_at(1) WHERE group IN ('fig', 'plum')",
            ["\"group\" IN ('fig', 'plum')"],
            ["texts"],
        ),
    ],
)
def test_only_the_columns_and_rows_asked_for_are_read(
    release: OpenRelease, sql: str, read: list[str], passed_by: list[str]
) -> None:
    [row] = json_rows(run_sql(release, f"EXPLAIN {sql}"))
    plan = " ".join(line.strip("│ ") for line in row["explain_value"].splitlines())
    assert all(each in plan for each in read), plan
    assert not any(each in plan for each in passed_by), plan


def test_row_ids_are_read_for_counting_and_never_shown(release: OpenRelease) -> None:
    [row] = json_rows(run_sql(release, "SELECT count(*) AS n FROM items WHERE price >= 0 AND price < 7"))
    assert row["n"] == 6
    assert "_rowid" not in run_sql(release, "FROM items").column_names
    with pytest.raises(ValueError, match="_rowid"):
        run_sql(release, "SELECT _rowid FROM items")


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("SELEC 1", "line 1, column 1"),
        ("SELECT 'ü', nope FROM items", "line 1, column 13"),
        ("SELECT group,\n  nope FROM items", "line 2, column 3"),
        ("SELECT score, nope FROM search('red', k := 1)", "line 1, column 15"),
        ("SELECT avg(image_vector), nope FROM items", "line 1, column 27"),
        ("SELECT 1 FROM search('a', k := 1) a, search('b', k := 1) b WHERE a.nope", "line 1, column 66"),
        ("EXPLAIN SELECT nope FROM items", "line 1, column 16"),
        ("SELECT * FROM items, search('red', k := 0)", "line 1, column 22"),
        ("SELECT * FROM search('red', k := 1 / 'a')", "line 1, column 15"),
        ("SELECT item_id::INT FROM items", "line 1, column 15"),
        ("SELECT similarity(image_vector, 5) FROM items", None),
    ],
)
def test_an_error_names_its_place_in_what_was_written(release: OpenRelease, sql: str, place: str | None) -> None:
    with pytest.raises(ValueError, match=r"\S") as error:
        run_sql(release, sql)
    said = str(error.value).partition(" (the table is")[0]
    assert said.endswith(f" at {place}") if place else " at line" not in said


def test_an_average_of_vectors_is_their_mean(release: OpenRelease) -> None:
    sql = """SELECT group, avg(image_vector) AS a, avg_vector(text_vector) AS b, avg(DISTINCT width) AS c,
             avg(image_vector) FILTER (WHERE width > 16) AS none,
             similarity(avg(image_vector), avg(image_vector)) AS one
             FROM items WHERE group = 'fig' GROUP BY group"""
    [row] = json_rows(run_sql(release, sql))
    figs = json_rows(run_sql(release, "FROM items WHERE group = 'fig'"))
    for name, vector in (("a", "image_vector"), ("b", "text_vector")):
        np.testing.assert_allclose(row[name], np.mean([fig[vector] for fig in figs], axis=0), atol=1e-6)
    assert (row["c"], row["none"]) == (16, None)
    assert row["one"] == pytest.approx(1)


def test_an_image_is_embedded_from_its_bytes_and_from_a_file_that_the_caller_allows(
    release: OpenRelease, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "picture.png").write_bytes(picture(3))
    attached, name = Attached(images=tmp_path), "below/picture.png"
    bytes_ = f"from_hex('{picture(3).hex()}')"
    [row] = json_rows(
        run_sql(release, f"SELECT similarity(embed_image('{name}'), embed_image({bytes_})) AS s", attached)
    )
    assert row["s"] == pytest.approx(1, abs=1e-5)
    found = run_sql(release, f"SELECT item_id, score FROM search_image('{name}', k := 3)", attached)  # noqa: S608
    hits = find(release, Query(image=tmp_path / name), k=3).hits
    assert json_rows(found) == [{"item_id": hit.item_id, "score": hit.score} for hit in hits]


def test_files_that_the_caller_attaches_are_tables(release: OpenRelease, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item_id;since;n\nred fig;2026-01-02;3\n")
    pq.write_table(pa.table({"item_id": ["red fig", "red pear"], "m": [1, 2]}), tmp_path / "b.parquet")
    attached = Attached({"stock": tmp_path / "a.csv", "more": tmp_path / "b.parquet"})
    sql = "SELECT item_id, n + m AS s, since FROM items JOIN stock USING (item_id) JOIN more USING (item_id)"
    assert json_rows(run_sql(release, sql, attached)) == [{"item_id": "red fig", "s": 4, "since": "2026-01-02"}]


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("items", "a.csv", "there is a table items"),
        ("a b", "a.csv", "no table can be called"),
        ("a", "absent.csv", "no such file"),
        ("a", "a.xlsx", "ends in .csv, .tsv or .parquet"),
        ("a", "bad.parquet", "can't be read"),
        ("a", "bad.csv", "can't be read"),
    ],
)
def test_what_can_not_be_attached_is_refused_in_one_line(
    release: OpenRelease, tmp_path: Path, name: str, file: str, said: str
) -> None:
    for each in ("a.csv", "a.xlsx", "bad.parquet"):
        (tmp_path / each).write_text("x\n1\n")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(ValueError, match=said) as error:
        run_sql(release, "SELECT 1", Attached({name: tmp_path / file}))
    assert "\n" not in str(error.value)


def test_near_duplicates_and_outliers_agree_with_a_self_join(release: OpenRelease) -> None:
    pairs = """SELECT a.item_id, b.item_id AS other_id, similarity(a.image_vector, b.image_vector) AS score
               FROM items a JOIN items b ON a.item_id < b.item_id WHERE score >= 0.98"""
    expected = {(row["item_id"], row["other_id"]): row["score"] for row in json_rows(run_sql(release, pairs))}
    found = json_rows(run_sql(release, "FROM near_duplicates(0.98)"))
    assert {(row["item_id"], row["other_id"]): row["score"] for row in found} == pytest.approx(expected, abs=1e-5)
    assert max(row["score"] for row in found) <= 1
    nearest = """SELECT item_id, avg(score) AS score FROM
                 (SELECT a.item_id, similarity(a.image_vector, b.image_vector) AS score
                  FROM items a JOIN items b ON a.item_id <> b.item_id
                  QUALIFY row_number() OVER (PARTITION BY a.item_id ORDER BY score DESC) <= 4)
                 GROUP BY item_id ORDER BY score LIMIT 6"""
    outliers = json_rows(run_sql(release, "FROM outliers(k := 6, neighbours := 4)"))
    assert [row["item_id"] for row in outliers] == [row["item_id"] for row in json_rows(run_sql(release, nearest))]


def test_near_duplicates_and_outliers_of_many_items_are_the_same(
    release: OpenRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = ["FROM near_duplicates(0.9)", "FROM near_duplicates(0.9, where := 'price < 20')"]
    statements += ["FROM outliers(k := 5, neighbours := 3)"]
    expected = [_scored(release, each) for each in statements]
    monkeypatch.setattr(pairloom.search.alike, "EXACT", 5)
    monkeypatch.setattr(pairloom.search.alike, "IN_MEMORY", 0)
    # As many cells as the items have: all pairs are compared.
    monkeypatch.setattr(pairloom.models.mining.cells, "PAIR_CELLS", 50)
    for statement, scores in zip(statements, expected, strict=True):
        assert scores
        assert _scored(release, statement) == pytest.approx(scores, abs=2e-6)


def _scored(release: OpenRelease, statement: str) -> dict[tuple[str, str | None], float]:
    rows = json_rows(run_sql(release, statement))
    return {(row["item_id"], row.get("other_id")): row["score"] for row in rows}


def test_vectors_come_in_the_order_of_their_ids(release: OpenRelease) -> None:
    rows = json_rows(run_sql(release, "SELECT item_id, image_vector FROM items WHERE price < 20 ORDER BY item_id"))
    with image_vectors(release, "price < 20", lambda _: None) as found:
        assert found.ids.to_pylist() == [row["item_id"] for row in rows]
        vectors = np.array([row["image_vector"] for row in rows], np.float32)
        np.testing.assert_array_equal(found.vector_ND, vectors)


def test_too_many_near_duplicates_are_refused(release: OpenRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairloom.search.sql.alike, "ANSWER", replace(ANSWER, rows=100))
    with pytest.raises(ValueError, match="more than 100 pairs are that similar: raise the threshold, which is -1"):
        run_sql(release, "FROM near_duplicates(-1)")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_rows_are_written_to_a_file_as_its_name_says(release: OpenRelease, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    sql = """SELECT item_id, texts, price, seen, thumbnail, '=1+1' AS formula, DATE '290000-01-01' AS far
             FROM items ORDER BY item_id"""
    assert export_sql(release, sql, path) == len(NAMES)
    expected = json_rows(run_sql(release, sql))
    match suffix:
        case ".csv":
            with path.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            assert {row["formula"] for row in rows} == {"'=1+1"}
            assert [row["item_id"] for row in rows] == [row["item_id"] for row in expected]
            assert [json.loads(row["texts"]) for row in rows] == [row["texts"] for row in expected]
        case ".parquet":
            assert json_rows(pq.read_table(path)) == expected
        case ".json":
            assert json.loads(path.read_text(encoding="utf-8")) == expected
        case _:
            assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == expected


def test_a_statement_that_fails_leaves_no_file(release: OpenRelease, tmp_path: Path) -> None:
    for sql, name in (
        ("SELECT item_id::INT FROM items", "a.csv"),
        ("SELECT 1", "a.xlsx"),
        ("SELECT INTERVAL 1 DAY AS a", "a.parquet"),
    ):
        with pytest.raises(ValueError, match=r"\S") as error:
            export_sql(release, sql, tmp_path / name)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_each_item_has_an_address_for_its_picture(release: OpenRelease) -> None:
    rows = run_sql(release, "SELECT item_id FROM items UNION ALL SELECT 'nobody' ORDER BY item_id")
    for row in json_rows(with_pictures(release, rows)):
        if row["item_id"] == "nobody":
            assert row["picture"] is None
        else:
            kind, _, content = row["picture"].partition(";base64,")
            assert kind == "data:image/webp"
            assert Image.open(io.BytesIO(base64.b64decode(content))).size == (16, 16)
    counted = run_sql(release, "SELECT count(*) AS n FROM items")
    assert with_pictures(release, counted) is counted


def test_description_and_plain_from_work(release: OpenRelease) -> None:
    described = json_rows(run_sql(release, "DESCRIBE items"))
    assert {"column_name": "subgroup", "column_type": "VARCHAR"}.items() <= described[12].items()
    assert len(run_sql(release, "FROM items; -- all of them")) == len(NAMES)


def test_only_texts_are_encoded_as_texts(release: OpenRelease) -> None:
    encoded: list[str] = []

    class Counting:
        dimension = release.record.dimension

        def embed_texts(self, texts: list[str]) -> object:
            encoded.extend(texts)
            return np.ones((len(texts), self.dimension), np.float32)

    counted = OpenRelease(release.folder, release.record)
    counted.__dict__["encoder"] = Counting()
    vector = f"{[1.0] * 16}::FLOAT[16]"
    for other, texts in ((vector, []), ("NULL", []), ("embed_text('red')", ["red"]), ("image_vector", [])):
        encoded.clear()
        run_sql(counted, f"SELECT similarity(image_vector, {other}) FROM items")  # noqa: S608
        assert encoded == texts


def test_a_statement_leaves_nothing_to_the_next(release: OpenRelease, tmp_path: Path) -> None:
    asked = OpenRelease(release.folder, release.record)
    (tmp_path / "a.csv").write_text("x\n1\n")
    sql = "SELECT count(*) FROM search_like('red fig'), mine, items_at(1), items, releases"
    run_sql(asked, sql, Attached({"mine": tmp_path / "a.csv"}))
    [database] = asked.idle_databases
    assert database.session is None
    assert [row["name"] for row in json_rows(run_sql(asked, "SHOW TABLES")) if row["name"] not in TABLES] == []
    assert asked.idle_databases == [database]
    for name in ("mine", '"search_like 0"', '"items_at 1"'):
        with pytest.raises(ValueError, match="does not exist"):
            run_sql(asked, f"FROM {name}")
    assert asked.idle_databases == []


def test_threads_ask_one_release_at_once(release: OpenRelease) -> None:
    asked = OpenRelease(release.folder, release.record)

    def count(number: int) -> int:
        sql = f"SELECT count(*) AS n FROM search_like('red fig', k := {number})"  # noqa: S608
        [row] = json_rows(run_sql(asked, sql))
        return int(row["n"])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(count, range(1, 25))) == list(range(1, 25))
    assert 1 <= len(asked.idle_databases) <= MAX_IDLE


def test_a_release_that_is_let_go_is_freed_with_its_databases(release: OpenRelease) -> None:
    asked = OpenRelease(release.folder, release.record)
    run_sql(asked, "SELECT similarity(image_vector, image_vector) FROM items")
    gone = weakref.ref(asked)
    del asked
    gc.collect()
    assert gone() is None
