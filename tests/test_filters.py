"""Filters written by strangers: exact, prefiltered, refused in one line."""

import pytest
from released_pipeline import HOSTILE, NAMES, publish

from pairloom.search.filters import lance_filter
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    folder = tmp_path_factory.mktemp("pipeline")
    publish(folder)
    return OpenRelease.open(folder)


def found(release: OpenRelease, where: str, k: int = 100) -> set[str]:
    return {hit.item_id for hit in search(release, Query(text="red"), k=k, where=where).hits}


def test_filter_is_applied_before_the_search(release: OpenRelease) -> None:
    figs = {name for name in NAMES if name.endswith(" fig")}
    assert found(release, "subgroup = 'Fig'", k=len(figs)) == figs


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("subgroup IN ('Apple', 'Pear')", 16),
        ("subgroup LIKE 'App%' AND price > 5", 7),
        ("NOT (subgroup = 'Apple') AND subgroup != 'Pear'", 30),
        ("`group` = 'apple'", 8),
        ("\"group\" = 'apple'", 8),
        ("array_has(tags, 'red fig')", 1),
        ("seen >= timestamp '2026-11-28 00:00:00'", 1),
        ("seen >= '2026-11-28'", 1),
        ("seen >= '2026-11-28 00:00' AND seen < '2026-11-28T02:00:00+02:00'", 0),
        ("'2026-11-28' <= \"seen\"", 1),
        ("`seen` NOT BETWEEN '2026-11-01' AND '2026-11-27'", 1),
        ("seen BETWEEN timestamp '2026-11-28' AND '2026-11-30'", 1),
        ("seen IN ('2026-11-28', '2026-11-28T01:00:00+01:00')", 1),
        ("seen = timestamptz '2026-11-28 00:00:00+00'", 1),
        ("seen < timestamp with time zone '2026-11-02' AND subgroup != '2026-11-02'", 2),
        ("group = 'apple'", 8),
        ("price BETWEEN 1 AND 3", 3),
        ("(subgroup = 'Apple') OR (subgroup = 'Pear')", 16),
        ("lower(subgroup) = 'apple'", 8),
        ("item_id = 'nothing; -- of /* the kind'", 0),
    ],
)
def test_conditions_of_many_kinds_work(release: OpenRelease, where: str, count: int) -> None:
    assert len(found(release, where)) == count


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_values_match_exactly(release: OpenRelease, hostile: str) -> None:
    literal = hostile.replace("'", "''")
    assert found(release, f"item_id = '{literal}'") == {hostile}


@pytest.mark.parametrize(
    "where",
    [
        "",
        "   ",
        "subgroup = 'Apple",
        "subgroup = 'Apple' LIMIT 3",
        "subgroup = 'Apple' ORDER BY price",
        "subgroup = 'Apple'; DROP TABLE items",
        "1=1) OR (1=1",
        "1=1) --",
        "1=1 -- comment",
        "1=1 /* comment */",
        "(1=1",
        "nope = 1",
        "subgroup = 3",
        "price",
        "price > 'x'",
        "price > '2026-11-02'",
        "seen > 'yesterday'",
        "subgroup IN (SELECT 1)",
        "count(*) > 1",
        "read_csv('/etc/passwd') = 1",
        "item_id = 'a' UNION SELECT 1",
        "\n\n\x00",
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(release: OpenRelease, where: str) -> None:
    with pytest.raises(ValueError, match="is not a filter: ") as error:
        search(release, Query(text="red"), where=where)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(repr(where))
    assert message.endswith("thumbnail, subgroup, price, seen, tags")


def test_times_beside_other_columns_stay_texts() -> None:
    where = "name = '2026-11-02' AND seen > '2026-11-02' OR name IN ('2026-11-02') AND name BETWEEN '2026' AND '2027'"
    timed = where.replace("seen > '2026-11-02'", "seen > timestamp '2026-11-02 00:00:00.000000'")
    assert lance_filter(where, ["name", "seen"], ["seen"]) == f"({timed})"


def test_quoted_column_becomes_a_column_and_a_quoted_value_stays_a_value() -> None:
    columns = ["group", "price"]
    assert lance_filter('"group" = \'"group"\'', columns) == "(`group` = '\"group\"')"
    assert lance_filter('price > 3 AND x = "red"', columns) == '(price > 3 AND x = "red")'
