"""`index.search` in Python: what a query may be made of, what hits may be asked for, and what comes back."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from released_pipeline import HOSTILE, KEEP, MODEL_ID, NAMES, picture, publish
from test_sheet import Tags

import pairloom
from pairloom.search.combination import Item, Weighted, direction, named, parsed
from pairloom.search.index import Index
from pairloom.search.query import Query, item_vector, query_vector
from pairloom.storage.table.vectors import VectorTable


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("pipeline")
    publish(folder)
    return pairloom.open(folder)


def opened(number: int) -> Image.Image:
    return Image.open(io.BytesIO(picture(number)))


def ids(found: Any) -> list[str]:
    return [hit.item_id for hit in found.hits]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2:red shoe", Weighted("red shoe", 2)),
        ("0.5: red", Weighted("red", 0.5)),
        ("2:two\nlines", Weighted("two\nlines", 2)),
        *((plain, plain) for plain in ("16:9 monitor", "12:30", "red: shoe", "2:", "2: ", ":x", "-1:red", "1e3:red")),
    ],
)
def test_a_weight_is_a_number_and_a_colon_before_a_text(text: str, expected: object) -> None:
    assert parsed(text) == expected


def test_a_sum_of_weighted_texts_images_and_items_is_vector_arithmetic(index: Index, tmp_path: Path) -> None:
    file = tmp_path / "query.png"
    file.write_bytes(picture(7))
    red, fig = index.embed_texts(["red", "fig"])
    first, second = index.encoder.embed_images([opened(7).convert("RGB"), opened(3).convert("RGB")])
    item = item_vector(index.current, NAMES[5])
    total = 2 * red - 0.5 * fig + first + 3 * second + 1.5 * item
    wanted = index.search(vector=total, where=f"item_id != '{NAMES[5]}'", k=100)
    found = index.search(
        text="2:red",
        image=[file, Weighted(opened(3), 3)],
        plus=Weighted(Item(NAMES[5]), 1.5),
        minus="0.5:fig",
        k=100,
    )
    assert ids(found) == ids(wanted)
    np.testing.assert_allclose([h.score for h in found.hits], [h.score for h in wanted.hits], atol=2e-6)
    assert found.title == "query.png + 2 × red + 3 × an image + 1.5 × like black apple − 0.5 × fig".replace(
        "black apple", NAMES[5]
    )


def test_a_plain_text_first_is_the_same_as_by_name_and_as_a_query(index: Index) -> None:
    asked: list[dict[str, Any]] = [{"query": "red apple"}, {"text": "red apple"}, {"query": Query("red apple")}]
    first, named_so, whole = (index.search(k=3, **each).to_json() for each in asked)
    assert first == named_so == whole
    image = index.search(image=opened(7), k=3)
    assert ids(image)[0] == NAMES[7]
    assert ids(index.search(like=NAMES[7], k=45)) == ids(index.search(plus=[Item(NAMES[7])], k=45))


def test_items_that_a_query_is_made_of_are_not_hits(index: Index) -> None:
    found = ids(index.search(plus=[Item(NAMES[0]), Item(NAMES[1])], minus=Item(NAMES[2]), k=100))
    assert sorted(found) == sorted(set(NAMES) - {*NAMES[:3]})
    assert len(found) == len(NAMES) - 3


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({}, "nothing to search for"),
        ({"query": "red", "text": "blue"}, "two texts"),
        ({"query": Query("red"), "plus": "blue"}, "either it or parts"),
        ({"text": "red", "plus": Weighted("blue", 0)}, "must be above 0"),
        ({"text": "red", "plus": Weighted("blue", float("nan"))}, "must be above 0"),
        ({"image": Item("x")}, "an image is a file"),
        ({"plus": Item("no such")}, "has no item 'no such'"),
        ({"vector": [1.0, 2.0]}, r"must be 16 finite numbers, not all 0; its shape is \(2,\)"),
        ({"vector": np.zeros(16)}, "must be 16 finite numbers"),
        ({"vector": np.full(16, np.nan)}, "must be 16 finite numbers"),
        ({"text": "red", "k": 0}, "k is 0"),
        ({"text": "red", "offset": -1}, "offset is -1"),
        ({"text": "red", "offset": 9_995}, "offset is 9995, must be from 0 to 9990"),
        ({"text": "red", "diversity": 1.5}, "diversity is 1.5"),
        ({"text": "red", "target": "sound"}, "target is 'sound'"),
        ({"text": "red", "columns": ["price", "prise"]}, "no column 'prise'; columns are item_id"),
        ({"text": "red", "rerank": True}, "cross-encoder"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(index: Index, asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        index.search(**asked)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{}, {"diversity": 0.5}, {"target": "text"}, {"collapse_duplicates": True}])
def test_pages_have_no_hit_in_common_and_leave_none_out(index: Index, options: dict[str, Any]) -> None:
    whole = ids(index.search("red apple", k=46, **options))
    pages = [index.search("red apple", k=7, offset=offset, **options) for offset in range(0, 49, 7)]
    assert [item for page in pages for item in ids(page)] == whole
    assert sorted(whole) == sorted(NAMES)
    assert pages[1].to_arrow()["rank"].to_pylist() == list(range(8, 15))


def test_target_text_compares_with_the_items_texts(index: Index) -> None:
    rows = index.dataset.to_table(columns=["item_id", "text_vector"]).to_pylist()
    for query in (Query("red apple"), Query(image=opened(3)), Query("red", plus=("fig",))):
        vector = query_vector(index.current, query)
        scored = [(-round(float(np.dot(vector, row["text_vector"])), 6), row["item_id"]) for row in rows]
        assert ids(index.search(query, k=46, target="text")) == [item for _, item in sorted(scored)]
    own = index.search("red apple", target="text", k=1).hits[0]
    assert own.item_id == "red apple"
    assert own.score == pytest.approx(1, abs=1e-5)
    only = index.search("red apple", target="text", where="price > 20", metric="euclidean", k=100)
    assert len(only.hits) == index.dataset.count_rows("price > 20")
    assert [hit.score for hit in only.hits] == sorted(hit.score for hit in only.hits)


def test_columns_choose_what_hits_bring(index: Index) -> None:
    found = index.search("red apple", columns=["split", "price", "image_vector"], k=2)
    assert [list(hit.metadata) for hit in found.hits] == [["split", "price", "image_vector"]] * 2
    assert [list(hit.metadata) for hit in index.search("red apple", columns=[], k=2).hits] == [[], []]
    both = index.search("red apple", columns=["texts", "item_id", "thumbnail"], k=2)
    assert [hit.metadata["texts"] for hit in both.hits] == [hit.texts for hit in both.hits]
    assert both.to_arrow().column_names == ["rank", "item_id", "score", "texts", "path", "thumbnail"]


def test_diverse_hits_begin_with_the_nearest_and_lie_further_apart(index: Index) -> None:
    def spread(found: Any) -> float:
        vector_ND = np.stack([item_vector(index.current, item) for item in ids(found)])
        return float((vector_ND @ vector_ND.T)[np.triu_indices(len(vector_ND), 1)].mean())

    plain, diverse = (index.search("red apple", k=8, diversity=diversity) for diversity in (0, 0.7))
    assert ids(plain)[0] == ids(diverse)[0]
    assert spread(diverse) < spread(plain)


def test_copies_of_a_picture_are_folded_into_the_nearest(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:12])
    release = pairloom.open(tmp_path).current
    rows = release.dataset.to_table()
    table = VectorTable(tmp_path / "vectors" / f"{MODEL_ID}.lance")
    copies = [f"copy {at:02d}" for at in range(30)]
    for copy in copies:
        table.upsert(rows.slice(0, 1).set_column(0, "item_id", [[copy]]))
    index = Index(type(release)(tmp_path, release.record.model_copy(update={"table_version": table.version})))
    assert len(set(ids(index.search(image=opened(0), k=5))) & {*copies, NAMES[0]}) == 5
    found = index.search(image=opened(0), k=5, collapse_duplicates=True)
    assert len(found.hits) == 5
    first = found.hits[0]
    assert sorted([first.item_id, *(first.collapsed or [])]) == sorted([NAMES[0], *copies])
    assert [hit.collapsed for hit in found.hits[1:]] == [[]] * 4
    assert len(index.search(image=opened(0), k=50, collapse_duplicates=True).hits) == 12
    assert found.to_json()["hits"][0]["collapsed"] == first.collapsed


def test_many_queries_find_what_each_finds_alone(index: Index) -> None:
    queries: list[Query | str] = [
        "red apple",
        "2:red",
        Query(like=NAMES[4]),
        Query("pear", minus=("fig",)),
        Query(image=opened(3)),
        *HOSTILE,
    ]
    queries += [Query("red", plus=(opened(9), Item(NAMES[2])))]
    every: list[dict[str, Any]] = [
        {},
        {"where": "price < 20"},
        {"target": "text"},
        {"metric": "euclidean"},
        {"columns": ["split"]},
    ]
    for options in every:
        together = index.search_many(queries, k=7, **options)
        for found, query in zip(together, queries, strict=True):
            alone = index.search(query, k=7, **options)
            assert ids(found) == ids(alone)
            assert (found.title, found.release, found.where) == (alone.title, alone.release, alone.where)
            assert str([hit.metadata for hit in found.hits]) == str([hit.metadata for hit in alone.hits])
            assert [h.score for h in found.hits] == pytest.approx([h.score for h in alone.hits], abs=2e-6)
    assert index.search_many([]) == []
    with pytest.raises(ValueError, match="empty text"):
        index.search_many(["red", " "])


def test_ties_come_in_the_order_of_ids_in_a_batch_as_well(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:5])
    release = pairloom.open(tmp_path).current
    rows = release.dataset.to_table()
    table = VectorTable(tmp_path / "vectors" / f"{MODEL_ID}.lance")
    for at in reversed(range(60)):
        table.upsert(rows.slice(0, 1).set_column(0, "item_id", [[f"same {at:03d}"]]))
    index = Index(type(release)(tmp_path, release.record.model_copy(update={"table_version": table.version})))
    query = Query(image=opened(0))
    [found] = index.search_many([query], k=5)
    assert ids(found) == ids(index.search(query, k=5)) == sorted([NAMES[0], *(f"same {at:03d}" for at in range(5))])[:5]


def test_results_become_tables_lists_and_frames_with_the_types_of_the_release(index: Index) -> None:
    found = index.search("red apple", k=5, where="subgroup = 'Pear'")
    table = found.to_arrow()
    assert table.column_names == ["rank", "item_id", "score", "texts", "path", *KEEP, "thumbnail"]
    assert table.select(list(KEEP)).schema == index.dataset.schema.empty_table().select(list(KEEP)).schema
    assert table["item_id"].to_pylist() == ids(found) == [row["item_id"] for row in found.to_list()]
    nothing = index.search("red apple", where="price < 0")
    assert nothing.to_arrow().schema == table.schema
    frame = found.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert frame["seen"].dt.tz is not None
    assert set(frame["subgroup"]) == {"Pear"}


def test_what_sql_gives_becomes_the_same(index: Index, tmp_path: Path) -> None:
    (tmp_path / "stock.csv").write_text("item_id,stock\nnone,3\n", encoding="utf-8")
    found = index.sql("SELECT count(*) AS n FROM stock", attach={"stock": str(tmp_path / "stock.csv")})
    assert found.to_list() == [{"n": 1}]
    assert found.to_pandas()["n"].tolist() == found.to_arrow()["n"].to_pylist() == [1]
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    ((length,),) = index.sql("SELECT len(embed_image('red.png'))", image_folder=str(tmp_path)).rows.to_pandas().values
    assert length == index.record.dimension


def test_a_notebook_shows_a_frame_that_runs_nothing_and_other_places_show_lines(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    found = index.search("\x1b[31m<script>red", k=46)
    tags = Tags()
    tags.feed(found._repr_html_())
    assert tags.seen == ["iframe"]
    attributes = dict(tags.attributes)
    assert attributes["sandbox"] == ""
    inner = Tags()
    inner.feed(attributes["srcdoc"] or "")
    assert "script" not in inner.seen
    assert inner.seen.count("img") == 46
    found.show()
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "red apple" in shown
    assert len(shown.splitlines()) == 47


def test_the_table_is_plain_lancedb_at_the_version_of_the_release(index: Index) -> None:
    table = index.table
    assert type(table).__module__.startswith("lancedb")
    assert table.version == index.record.table_version
    nearest = table.search(index.embed_texts(["red apple"])[0]).distance_type("cosine").limit(5).to_arrow()
    assert nearest["item_id"].to_pylist() == ids(index.search("red apple", k=5))


def test_parts_are_named_in_words() -> None:
    assert [named(part) for part in ("red", Path("/a/b.png"), Item("i7"), Weighted(opened(0), 1.5))] == [
        "red",
        "b.png",
        "like i7",
        "1.5 × an image",
    ]
    assert direction([1, -1], [np.ones(3, np.float32)] * 2) is None
