"""The contact sheet: whole, escaped, self-contained; the picture: small."""

import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image
from released_pipeline import HOSTILE, picture

from pairloom.search.query import Hit, SearchResult
from pairloom.search.sheet import Pair, contact_picture, contact_sheet, data_uri, pair_picture
from pairloom.storage.images.stored_image import thumbnail

ATTACKS = [*HOSTILE, "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><b>", "&amp;", "‮evil"]


def result(texts: list[str], count: int = 3) -> SearchResult:
    hits = [
        Hit(
            item_id=f"{texts[0]}{at}",
            score=0.5 - at / 10,
            texts=texts,
            path=f"/pictures/{texts[0]}{at}.png",
            metadata={},
            thumbnail=thumbnail(picture(at)),
        )
        for at in range(count)
    ]
    return SearchResult(release=12, model_id="abc123", title="a title", hits=hits)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_sheet_shows_query_release_model_scores_and_texts() -> None:
    page = contact_sheet([("red shoe", result(["a red shoe", "footwear"])), ("nothing", result(["x"], 0))])
    tags = Tags()
    tags.feed(page)
    for shown in ("red shoe", "release 12, model abc123", "0.500", "a red shoe", "footwear", "Nothing found."):
        assert shown in tags.text
    assert tags.seen.count("img") == 3


def test_sheet_escapes_hostile_captions() -> None:
    page = contact_sheet([(attack, result([attack, attack])) for attack in ATTACKS], title=ATTACKS[-4])
    tags = Tags()
    tags.feed(page)
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "h1", "div", "section", "h2", "ol", "li"}
    assert set(tags.seen) <= allowed | {"img", "span", "details", "summary", "bdi", "p"}
    assert tags.seen.count("img") == 3 * len(ATTACKS)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    for attack in ATTACKS[:-1]:
        assert attack in tags.text


def test_sheet_loads_nothing_from_elsewhere() -> None:
    page = contact_sheet([("q", result(["x"]))])
    assert re.findall(r'(?:src|href)="(?!data:image/webp;base64,)', page) == []
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_picture_is_small_however_much_it_shows() -> None:
    noise = np.random.default_rng(0)
    hits = []
    for at in range(20):
        out = io.BytesIO()
        Image.fromarray(noise.integers(0, 255, (96, 96, 3), np.uint8)).save(out, "PNG")
        hits.append(
            Hit(item_id=str(at), score=0, texts=["t"], path=None, metadata={}, thumbnail=thumbnail(out.getvalue()))
        )
    loud = SearchResult(release=1, model_id="m", title="t", hits=hits)
    content = contact_picture([(attack, loud) for attack in ATTACKS * 2], columns=12, rows=8, max_bytes=100_000)
    assert len(content) <= 100_000
    assert Image.open(io.BytesIO(content)).width == 12 * 104 + 8
    assert data_uri(content).startswith("data:image/webp;base64,")


def test_picture_of_nothing_is_a_picture() -> None:
    assert Image.open(io.BytesIO(contact_picture([]))).size[0] > 0
    assert Image.open(io.BytesIO(contact_picture([("q" * 500, result(["x"], 0))]))).size[0] > 0


def test_pairs_stand_side_by_side_and_fit_the_size_asked_for() -> None:
    red, blue = Image.new("RGB", (96, 48), "red"), Image.new("RGB", (40, 96), "blue")
    with Image.open(io.BytesIO(pair_picture([Pair("title", (red, blue), ("a", "b"))] * 5))) as opened:
        sheet = opened.convert("RGB")
    first, second = sheet.getpixel((8 + 48, 8 + 16 + 48)), sheet.getpixel((8 + 104 + 48, 8 + 16 + 48))
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert first[0] > 200 > first[2]
    assert second[2] > 200 > second[0]
    noise = [Image.fromarray(np.random.default_rng(seed).integers(0, 255, (96, 96, 3), np.uint8)) for seed in (0, 1)]
    many = [Pair(attack, (noise[0], noise[1]), (attack, attack)) for attack in ATTACKS * 4]
    assert len(pair_picture(many, max_bytes=20_000)) <= 20_000
