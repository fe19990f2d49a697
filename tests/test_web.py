"""The JSON API of `pairloom web`: answers of one release, pictures by reference, facets, items, and what is refused."""

import io
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from released_pipeline import HOSTILE, MODEL_ID, NAMES, picture, publish
from starlette.testclient import TestClient

from pairloom.search.embedding import open_picture
from pairloom.search.index import Index
from pairloom.search.release import OpenRelease
from pairloom.search.sql import json_rows, run_sql
from pairloom.search.web import uploads
from pairloom.search.web.app import create_app
from pairloom.search.web.batching import TextBatches
from pairloom.search.web.config import WebConfig
from pairloom.search.web.service import Service
from pairloom.search.web.serving import with_token
from pairloom.search.web.uploads import Uploads
from pairloom.storage.images.decoding import open_query_image
from pairloom.storage.releases import release_log


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with one release; tests only read it."""
    folder = tmp_path_factory.mktemp("web") / "fruits"
    publish(folder)
    return folder


def started(folder: Path, **changes: Any) -> TestClient:
    """A client of a service over a pipeline."""
    app = create_app(Service(folder, WebConfig(seconds=240, **changes)))
    return TestClient(app, "http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch, started(folder) as client:
        patch.setattr(uploads, "SECONDS", 240.0)
        yield client


def png(side: int = 16, seed: int = 0) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def ids(answer: Any) -> list[str]:
    return [hit["item_id"] for hit in answer.json()["hits"]]


def test_an_answer_is_that_of_the_index_and_names_its_release_and_model(client: TestClient, folder: Path) -> None:
    answer = client.get("/api/search", params={"text": "a red apple", "k": 20})
    assert answer.status_code == 200
    expected = Index(OpenRelease.open(folder)).search("a red apple", k=20).hits
    assert ids(answer) == [hit.item_id for hit in expected]
    assert [hit["score"] for hit in answer.json()["hits"]] == [hit.score for hit in expected]
    assert (answer.json()["release"], answer.json()["model_id"]) == (1, MODEL_ID)


def test_pages_of_an_answer_put_together_are_the_whole_ranking(client: TestClient, folder: Path) -> None:
    expected = [hit.item_id for hit in Index(OpenRelease.open(folder)).search("green pear", k=len(NAMES)).hits]
    found: list[str] = []
    more = True
    while more:
        page = client.get("/api/search", params={"text": "green pear", "offset": len(found), "k": 7})
        found, more = found + ids(page), page.json()["more"]
    assert found == expected


def test_texts_are_added_and_taken_and_an_item_is_not_like_itself(client: TestClient) -> None:
    plain = client.get("/api/search", params={"text": "apple"})
    mixed = client.get("/api/search", params={"text": "apple", "plus": ["red", "fig"], "minus": "green"})
    assert mixed.json()["title"] == "apple + red + fig − green"
    assert [hit["score"] for hit in mixed.json()["hits"]] != [hit["score"] for hit in plain.json()["hits"]]
    like = client.get("/api/search", params={"like": "red apple", "k": 60})
    assert sorted(ids(like)) == sorted(set(NAMES) - {"red apple"})


@pytest.mark.parametrize("text", ["fig brown", "DROP TABLE", "qwertyuiop fig"])
def test_pages_of_a_hybrid_answer_are_those_of_the_index(client: TestClient, folder: Path, text: str) -> None:
    expected = Index(OpenRelease.open(folder)).search(text, k=len(NAMES), hybrid=True).hits
    pages = [client.get("/api/search", params={"text": text, "hybrid": True, "k": 25, "offset": at}) for at in (0, 25)]
    assert [item for page in pages for item in ids(page)] == [hit.item_id for hit in expected]
    assert pages[0].json()["release"] == 1


def test_what_cannot_be_asked_so_is_refused(client: TestClient) -> None:
    wordless = client.get("/api/search", params={"like": "red apple", "hybrid": True})
    assert (wordless.status_code, "give a text" in wordless.json()["error"]) == (400, True)
    without = client.get("/api/search", params={"text": "fig", "rerank": True})
    assert (without.status_code, "no cross-encoder" in without.json()["error"]) == (400, True)
    assert client.get("/api/release").json()["reranks"] is False


def test_a_statement_gives_rows_with_pictures_and_all_of_them_as_a_file(client: TestClient, folder: Path) -> None:
    statement = "SELECT item_id, price, texts FROM items WHERE subgroup = 'Fig' ORDER BY item_id"
    expected = json_rows(run_sql(OpenRelease.open(folder), statement))
    answer = client.get("/api/sql", params={"statement": statement, "limit": 3}).json()
    assert (answer["rows"], answer["more"], answer["release"]) == (expected[:3], True, 1)
    assert [column["name"] for column in answer["columns"]] == ["item_id", "price", "texts"]
    assert client.get(answer["pictures"][0]).headers["content-type"] == "image/webp"
    whole = client.get("/api/sql", params={"statement": statement}).json()
    assert (whole["rows"], whole["more"]) == (expected, False)
    files = {
        each: client.get("/api/sql/file", params={"statement": statement, "format": each})
        for each in ("csv", "json", "parquet")
    }
    assert files["json"].json() == expected
    assert files["json"].headers["content-disposition"] == 'attachment; filename="fruits-release-1.json"'
    assert pq.read_table(io.BytesIO(files["parquet"].content))["item_id"].to_pylist() == [
        row["item_id"] for row in expected
    ]
    lines = files["csv"].text.splitlines()
    assert (lines[0], len(lines)) == ("item_id,price,texts", len(expected) + 1)
    scored = client.get("/api/sql", params={"statement": "SELECT item_id FROM search('a red apple', k := 4)"}).json()
    found = ids(client.get("/api/search", params={"text": "a red apple", "k": 4}))
    assert [row["item_id"] for row in scored["rows"]] == found


def test_a_wrong_statement_is_told_with_its_place(client: TestClient) -> None:
    for path in ("/api/sql", "/api/sql/file"):
        answer = client.get(path, params={"statement": "SELECT item_id,\n  'ü', no_such FROM items"})
        assert answer.status_code == 400
        assert (answer.json()["line"], answer.json()["column"]) == (2, 8)


def test_without_a_question_everything_comes_in_pages(client: TestClient) -> None:
    first, second = (client.get("/api/search", params={"offset": at, "k": 30}) for at in (0, 30))
    assert sorted(ids(first) + ids(second)) == sorted(NAMES)
    assert (first.json()["more"], second.json()["more"]) == (True, False)


@pytest.mark.parametrize(
    ("chosen", "holds"),
    [
        ({"f.subgroup": "Apple"}, lambda name: name.endswith("apple")),
        ({"f.subgroup": ["Apple", "Fig"]}, lambda name: name.split()[-1] in ("apple", "fig")),
        ({"f.subgroup": "Fig", "f.split": "val"}, lambda name: name.endswith("fig") and NAMES.index(name) % 3 == 0),
        ({"f.price": "3..9"}, lambda name: 3 <= NAMES.index(name) <= 9 and NAMES.index(name) % 7),
        ({"f.price": "40.."}, lambda name: NAMES.index(name) >= 40 and NAMES.index(name) % 7),
        ({"f.tags": HOSTILE[0]}, lambda name: name == HOSTILE[0]),
        ({"f.seen": "2026-11-03..2026-11-05"}, lambda name: NAMES.index(name) % 28 in (2, 3, 4)),
        (
            {"where": "price < 5 AND subgroup = 'Pear'"},
            lambda name: name.endswith("pear") and 0 < NAMES.index(name) < 5,
        ),
    ],
)
def test_filters_keep_what_they_say_and_the_facets_count_as_much(
    client: TestClient, chosen: dict[str, Any], holds: Callable[[str], bool]
) -> None:
    expected = sorted(filter(holds, NAMES))
    assert expected
    assert sorted(ids(client.get("/api/search", params={"text": "fruit", "k": 60, **chosen}))) == expected
    assert sorted(ids(client.get("/api/search", params={"k": 60, **chosen}))) == expected
    assert client.get("/api/facets", params=chosen).json()["items"] == len(expected)


def test_a_facet_counts_what_the_other_filters_leave(client: TestClient) -> None:
    facets = {
        facet["column"]: facet
        for facet in client.get("/api/facets", params={"f.subgroup": "Apple", "f.split": "val"}).json()["facets"]
    }
    fruits = {each["value"]: each["items"] for each in facets["subgroup"]["values"]}
    assert fruits["Pear"] == sum(name.endswith("pear") for at, name in enumerate(NAMES) if at % 3 == 0)
    splits = {each["value"]: each["items"] for each in facets["split"]["values"]}
    assert splits == {"train": 5, "val": 3}
    assert sum(each["items"] for each in facets["price"]["bins"]) == sum(
        name.endswith("apple") for at, name in enumerate(NAMES) if at % 3 == 0 and at % 7
    )


@pytest.mark.parametrize("value", HOSTILE)
def test_a_chosen_value_is_text_and_never_a_condition(client: TestClient, value: str) -> None:
    assert ids(client.get("/api/search", params={"f.tags": value})) == [value]
    assert ids(client.get("/api/search", params={"f.subgroup": f"{value}' OR 'a' = 'a"})) == []


def test_a_picture_by_reference_is_a_webp_of_the_size_asked_for(client: TestClient) -> None:
    (hit,) = client.get("/api/search", params={"text": "fig", "k": 1}).json()["hits"]
    shown = client.get(hit["picture"], params={"size": 48})
    assert shown.headers["content-type"] == "image/webp"
    assert "immutable" in shown.headers["cache-control"]
    assert max(Image.open(io.BytesIO(shown.content)).size) <= 48
    assert client.get(hit["picture"].replace("/1-", "/1-0")).status_code == 404
    assert client.get("/pictures/1-aaaaaaaaaaaa/0.webp").status_code == 404
    assert client.get(hit["picture"].rpartition("/")[0] + "/999999999.webp").status_code == 404


def test_an_uploaded_picture_finds_itself_and_can_be_asked_with_again(client: TestClient) -> None:
    taken = client.post("/api/images", content=picture(3), headers={"Content-Type": "image/png"})
    assert taken.status_code == 201
    assert ids(client.get("/api/search", params={"image": taken.json()["image"], "k": 1})) == [NAMES[3]]
    assert client.get(taken.json()["picture"]).headers["content-type"] == "image/webp"


def test_an_uploaded_picture_is_cut_to_its_content_once(folder: Path) -> None:
    framed = Image.new("RGB", (90, 90), "white")
    framed.paste(Image.new("RGB", (30, 20), "white"), (30, 35))
    framed.paste(Image.open(io.BytesIO(picture(5))).resize((12, 12), Image.Resampling.NEAREST), (36, 39))
    out = io.BytesIO()
    framed.save(out, "PNG")
    opened = OpenRelease.open(folder)
    once = open_query_image(framed, opened.as_ingested.model_copy(update={"trim": True}))
    uploaded = Uploads(Service(folder, WebConfig()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "SECONDS", 240.0)
        patch.setattr(OpenRelease, "as_ingested", opened.as_ingested.model_copy(update={"trim": True}))
        taken = uploaded.take(out.getvalue())
        asked = open_picture(opened, uploaded.picture(taken.image))
    assert (taken.width, taken.height) == once.size != framed.size
    assert np.array_equal(np.asarray(asked), np.asarray(once))


def test_an_item_is_shown_with_what_is_known_of_it(client: TestClient) -> None:
    item = client.get("/api/items/red apple").json()
    assert item["texts"] == ["red apple", "a picture of red apple"]
    assert item["origin"]["path"] == "/pictures/0.png"
    assert item["made"] | {"release": 1, "model_id": MODEL_ID} == item["made"]
    assert client.get(f"/api/items/{HOSTILE[4]}").json()["item_id"] == HOSTILE[4]
    assert client.get("/api/items/no such item").status_code == 404


def test_a_newer_release_is_served_without_a_restart_and_the_older_one_on_demand(tmp_path: Path) -> None:
    folder = tmp_path / "fruits"
    publish(folder, names=NAMES[:20])
    with started(folder, refresh_seconds=0.01) as client:
        assert client.get("/health").json()["release"] == 1
        publish(folder, number=2)
        until = threading.Event()
        while client.get("/health").json()["release"] == 1:
            until.wait(0.02)
        assert len(ids(client.get("/api/search", params={"k": 60}))) == len(NAMES)
        assert sorted(ids(client.get("/api/search", params={"k": 60, "release": 1}))) == sorted(NAMES[:20])
        compared = client.get("/api/compare", params={"before": 1, "after": 2, "text": "a fig"}).json()
        assert compared["overlap"] < 1
        assert len(compared["before"]["answer"]["hits"]) == 12
        nights = client.get("/api/nights").json()["nights"]
        assert [night["release"] for night in nights] == [2, 1]


def test_texts_asked_at_once_are_encoded_together_and_each_once() -> None:
    asked: list[list[str]] = []
    begun, go_on = threading.Event(), threading.Event()

    def embed(texts: Sequence[str]) -> Any:
        asked.append(list(texts))
        if len(asked) == 1:
            begun.set()
            go_on.wait()
        return np.array([[len(text)] for text in texts], np.float32)

    batches = TextBatches(embed, most=4)
    found: dict[str, Any] = {}
    threads = [threading.Thread(target=lambda text=text: found.update({text: batches([text])})) for text in "abcdefg"]
    threads[0].start()
    begun.wait()
    for thread in threads[1:]:
        thread.start()
    while len(batches._waiting) < 6:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join()
    assert [len(each) for each in asked] == [1, 4, 2]
    assert sorted(text for each in asked for text in each) == list("abcdefg")
    assert batches(["a", "b"]).shape == (2, 1)
    assert len(asked) == 3


def test_the_api_describes_itself_and_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()
    assert {"/api/search", "/api/facets", "/api/items/{item_id}", "/api/sql", "/api/sql/file"} <= described[
        "paths"
    ].keys()
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404
    assert client.get("/static/app.js").headers["content-type"].startswith("text/javascript")


def test_the_page_names_all_modules_that_its_first_view_needs(client: TestClient) -> None:
    named = re.findall(r'(?:modulepreload" href|script type="module" src)="(/static/[^"]+)"', client.get("/").text)
    needed, waiting = set[str](), ["/static/app.js"]
    while waiting:
        if (module := waiting.pop()) not in needed:
            needed.add(module)
            waiting += re.findall(r'^import .* from "([^"]+)";', client.get(module).text, re.MULTILINE)
    assert sorted(named) == sorted(needed)


def test_a_pipeline_without_a_release_is_unavailable_and_becomes_available(tmp_path: Path) -> None:
    folder = tmp_path / "fruits"
    folder.mkdir()
    with started(folder, refresh_seconds=0.01) as client:
        for path in ("/health", "/api/search?text=a", "/api/release", "/api/facets", "/api/nights"):
            answer = client.get(path)
            assert answer.status_code == 503, path
            assert "no release yet" in answer.json()["error"]
        assert client.get("/").status_code == 200
        publish(folder, names=NAMES[:8])
        assert client.get("/health").json()["release"] == 1


def test_a_release_whose_model_was_swapped_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "fruits"
    publish(folder, names=NAMES[:8])
    weights = folder / "models" / MODEL_ID / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with started(folder) as client:
        answer = client.get("/api/search", params={"text": "fig"})
    assert answer.status_code == 503
    assert "open_clip_model.safetensors" in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_others_than_this_machine_need_the_token(folder: Path) -> None:
    config = with_token(WebConfig(host="0.0.0.0"))
    assert config.token is not None
    assert config.rate is not None
    app = create_app(Service(folder, config))
    with TestClient(app, "http://example.org", follow_redirects=False) as client:
        assert client.get("/health").status_code == 200
        for path in (
            "/",
            "/api/search?text=a",
            "/api/openapi.json",
            "/static/app.js",
            "/pictures/1-a/0.webp",
            "/metrics",
        ):
            assert client.get(path).status_code == 401, path
            assert client.get(path, headers={"Authorization": "Bearer " + "x" * 32}).status_code == 401
            assert client.get(path, headers={"Cookie": f"pairloom={config.token}"}).status_code == 401
        form = client.get("/map?x=%22%3E%3Cb&token=wrong", headers={"Accept": "text/html"})
        assert form.status_code == 401
        assert 'name="x" value="&quot;&gt;&lt;b"' in form.text
        assert "This is another one" in form.text
        assert client.get("/static/style.css").status_code == 200
        asked = client.get("/api/release", headers={"Authorization": f"Bearer {config.token}"})
        assert asked.status_code == 200
        opened = client.get("/map", params={"token": config.token, "x": "1"})
        assert (opened.status_code, opened.headers["location"]) == (303, "/map?x=1")
        assert "httponly" in opened.headers["set-cookie"].lower()
        assert config.token not in opened.headers["set-cookie"]
        assert client.get("/map").status_code == 200
        client.cookies.clear()
        elsewhere = client.get("http://example.org//evil.example/", params={"token": config.token})
        assert elsewhere.headers["location"] == "/evil.example/"


def test_a_release_of_a_given_number_stays(tmp_path: Path) -> None:
    folder = tmp_path / "fruits"
    publish(folder, names=NAMES[:8])
    publish(folder, names=NAMES[:9], number=2)
    with TestClient(create_app(Service(folder, WebConfig(), number=1)), "http://localhost") as client:
        assert client.get("/health").json()["release"] == 1
        assert len(ids(client.get("/api/search"))) == 8
    assert release_log(folder).numbers()
