"""Search by text, image, item and their sums, against a plain loop over all vectors."""

import io
from dataclasses import replace
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from released_pipeline import COLOURS, HOSTILE, MODEL_ID, NAMES, item_rows, picture, publish

from pairloom.models.evaluation.similarity import MEASURES
from pairloom.search.query import Query, item_vector, query_vector, search
from pairloom.search.release import OpenRelease
from pairloom.storage.table.vectors import VectorTable


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    folder = tmp_path_factory.mktemp("pipeline")
    publish(folder)
    return OpenRelease.open(folder)


def slowly(release: OpenRelease, query: Query) -> list[str]:
    rows = release.dataset.to_table().to_pylist()
    vector = query_vector(release, query)
    scored = [(-round(float(np.dot(vector, row["image_vector"])), 6), row["item_id"]) for row in rows]
    return [item_id for _, item_id in sorted(scored)]


@pytest.mark.parametrize(
    "query",
    [
        Query(text="red apple"),
        Query(text="red apple", plus=("green pear",), minus=("fig",)),
        Query(like="red apple", minus=("apple",)),
        Query(plus=("red", "apple")),
        Query(like="red apple", plus=("fig",), minus=("apple",), text_weight=2.5),
        *(Query(text=hostile) for hostile in HOSTILE),
    ],
)
def test_search_matches_a_plain_loop(release: OpenRelease, query: Query) -> None:
    expected = [each for each in slowly(release, query) if each != query.like][:10]
    assert [hit.item_id for hit in search(release, query, k=10).hits] == expected


def test_image_finds_its_own_item(release: OpenRelease, tmp_path: Path) -> None:
    path = tmp_path / "query.png"
    path.write_bytes(picture(7))
    assert search(release, Query(image=path), k=1).hits[0].item_id == NAMES[7]
    hit = search(release, Query(image=Image.open(io.BytesIO(picture(7)))), k=1).hits[0]
    assert hit.item_id == NAMES[7]
    assert hit.score == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("item_id", ["red apple", *HOSTILE])
def test_like_finds_others_but_not_the_item_itself(release: OpenRelease, item_id: str) -> None:
    ids = [hit.item_id for hit in search(release, Query(like=item_id), k=100).hits]
    assert sorted(ids) == sorted(set(NAMES) - {item_id})


def test_composition_is_vector_arithmetic(release: OpenRelease) -> None:
    red, apple, fig = release.encoder.embed_texts(["red", "apple", "fig"])
    total = red + apple - fig
    found = query_vector(release, Query(text="red", plus=("apple",), minus=("fig",)))
    assert np.allclose(found, total / np.linalg.norm(total), atol=1e-6)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def test_text_weight_counts_texts_beside_the_item_or_image(release: OpenRelease) -> None:
    pear, fig = release.encoder.embed_texts(["pear", "fig"])
    item, image = item_vector(release, NAMES[0]), Image.open(io.BytesIO(picture(0)))
    total = item + 2.5 * (pear - fig)
    for given in (Query(like=NAMES[0]), Query(image=image)):
        query = replace(given, plus=("pear",), minus=("fig",), text_weight=2.5)
        assert np.allclose(query_vector(release, query), total / np.linalg.norm(total), atol=1e-5)
    only_texts = Query(text="pear", minus=("fig",), text_weight=2.5)
    assert np.allclose(
        query_vector(release, only_texts), query_vector(release, replace(only_texts, text_weight=1)), atol=1e-6
    )
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be above 0"):
            query_vector(release, Query(text="pear", text_weight=wrong))


def test_item_asked_with_is_left_out_of_the_hits_and_an_image_is_not(release: OpenRelease) -> None:
    composed = Query(like=NAMES[0], plus=("pear",))
    assert NAMES[0] not in [hit.item_id for hit in search(release, composed, k=100).hits]
    same = Query(image=Image.open(io.BytesIO(picture(0))), plus=("pear",))
    assert NAMES[0] in [hit.item_id for hit in search(release, same, k=100).hits]


def test_every_metric_finds_the_same_hits_with_scores_of_its_own(release: OpenRelease) -> None:
    query = Query(text="red apple")
    by_metric = {metric: search(release, query, k=46, metric=metric).hits for metric in MEASURES}
    ids = [[hit.item_id for hit in hits] for hits in by_metric.values()]
    assert ids[0] == ids[1] == ids[2]
    vector = query_vector(release, query)
    for hit, distant in zip(by_metric["inner_product"], by_metric["euclidean"], strict=True):
        item = item_vector(release, hit.item_id)
        assert hit.score == pytest.approx(float(vector @ item), abs=2e-6)
        assert distant.score == pytest.approx(float(np.linalg.norm(vector - item)), abs=2e-6)
    scores = [hit.score for hit in by_metric["euclidean"]]
    assert scores == sorted(scores)
    assert search(release, query, where="price < 0", metric="euclidean").hits == []


def test_json_holds_the_documented_keys_only(release: OpenRelease) -> None:
    document = search(release, Query(text="red apple"), k=46).to_json()
    assert list(document) == ["release", "model_id", "unmet_words", "hits"]
    assert document["release"] == 1
    assert document["model_id"] == MODEL_ID
    hit = next(each for each in document["hits"] if each["item_id"] == "red apple")
    assert list(hit) == ["item_id", "score", "texts", "path", "subgroup", "price", "seen", "tags"]
    assert hit["price"] is None  # NaN, which JSON hasn't
    assert hit["seen"] == "2026-11-01T00:00:00+00:00"
    assert hit["tags"] == ["tag", "red apple"]


def test_equal_scores_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:5])
    release = OpenRelease.open(tmp_path)
    rows = release.dataset.to_table()
    same = [f"same {at:03d}" for at in range(40)]
    table = VectorTable(tmp_path / "vectors" / f"{MODEL_ID}.lance")
    for item_id in reversed(same):
        row = rows.slice(0, 1).set_column(0, "item_id", [[item_id]])
        table.upsert(row)
    release = OpenRelease(tmp_path, release.record.model_copy(update={"table_version": table.version}))
    hits = search(release, Query(text="anything like the first"), k=46).hits
    ids = [hit.item_id for hit in hits if hit.item_id.startswith("same") or hit.item_id == NAMES[0]]
    assert ids == sorted([NAMES[0], *same])
    first = search(release, Query(image=Image.open(io.BytesIO(picture(0)))), k=5).hits
    assert [hit.item_id for hit in first] == sorted([NAMES[0], *same])[:5]


def test_copies_that_differ_in_their_last_bits_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    publish(tmp_path, names=NAMES[:5])
    release = OpenRelease.open(tmp_path)
    rows, random = release.dataset.to_table(), np.random.default_rng(0)
    table = VectorTable(tmp_path / "vectors" / f"{MODEL_ID}.lance")
    copies = {name: [f"{name} {at}" for at in range(8)] for name in rows["item_id"].to_pylist()}
    at = rows.schema.get_field_index("image_vector")
    for number in range(8):
        vector_ND = np.stack(rows["image_vector"].to_numpy())
        noisy_ND = (vector_ND + 3e-8 * random.standard_normal(vector_ND.shape)).astype(np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(noisy_ND.ravel()), noisy_ND.shape[1])
        ids = [copies[name][number] for name in rows["item_id"].to_pylist()]
        table.upsert(rows.set_column(at, "image_vector", vectors).set_column(0, "item_id", [ids]))
    release = OpenRelease(tmp_path, release.record.model_copy(update={"table_version": table.version}))
    for text in ("red", "a pear", "green fig", "plum", "black lemon", "apple"):
        hits = search(release, Query(text=text), k=45).hits
        for name, own in copies.items():
            ids = [hit.item_id for hit in hits if hit.item_id in {name, *own}]
            assert ids == sorted([name, *own])
            assert len({hit.score for hit in hits if hit.item_id in ids}) == 1


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (Query(), "nothing to search for"),
        (Query(minus=("red",)), "nothing to search for"),
        (Query(text="  "), "an empty text"),
        (Query(text="red", plus=("",)), "an empty text"),
        (Query(text="red", minus=("red",)), "cancel out"),
        (Query(like="no such item"), "release 1 has no item 'no such item'"),
        (Query(image=Path("/no/such/file.png")), "/no/such/file.png"),
    ],
)
def test_query_that_cannot_be_answered_is_refused_in_one_line(
    release: OpenRelease, query: Query, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        search(release, query)
    assert "\n" not in str(error.value)


def test_file_that_is_no_image_is_refused(release: OpenRelease, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.png"):
        search(release, Query(image=path))


def test_k_is_bounded(release: OpenRelease) -> None:
    for k in (0, -1, 10_001):
        with pytest.raises(ValueError, match=f"k is {k}"):
            search(release, Query(text="red"), k=k)
    assert len(search(release, Query(text="red"), k=10_000).hits) == len(NAMES)


def test_title_says_the_query_in_words() -> None:
    query = Query(text="shoe", image=Path("/a/b.png"), like="i7", plus=("red",), minus=("cheap",))
    assert query.title == "shoe + b.png + like i7 + red − cheap"


def test_item_vector_matches_the_model(release: OpenRelease) -> None:
    [vector] = release.encoder.embed_images([Image.open(io.BytesIO(picture(3))).convert("RGB")])
    assert np.allclose(item_vector(release, NAMES[3]), vector, atol=1e-5)


def test_plain_lancedb_and_open_clip_find_the_same_ten(release: OpenRelease) -> None:
    table = lancedb.connect(str(release.folder / "vectors")).open_table(MODEL_ID)
    for text in ("red apple", *COLOURS[:2]):
        plain = table.search(text).distance_type("cosine").limit(10).to_list()
        ours = search(release, Query(text=text), k=10).hits
        assert [row["item_id"] for row in plain] == [hit.item_id for hit in ours]
        assert [1 - row["_distance"] for row in plain] == pytest.approx([hit.score for hit in ours], abs=1e-5)
    image = Image.open(io.BytesIO(picture(5))).convert("RGB")
    assert table.search(image).distance_type("cosine").limit(1).to_list()[0]["item_id"] == NAMES[5]


def test_rows_of_the_fixture_are_what_the_table_holds(release: OpenRelease) -> None:
    expected = item_rows(release.encoder, NAMES).sort_by("item_id")
    found = release.dataset.to_table().sort_by("item_id")
    assert found["texts"].to_pylist() == expected["texts"].to_pylist()
    assert found["item_id"].to_pylist() == expected["item_id"].to_pylist()
