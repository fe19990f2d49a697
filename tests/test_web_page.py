"""The search page in a real browser: typed into, clicked, dropped on, gone back from, shared, looked at by rules."""

import base64
import contextlib
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from conftest import free_port
from released_pipeline import HOSTILE, NAMES, picture, publish

from pairloom.search.index import Index
from pairloom.search.map import ReleaseMap
from pairloom.search.map_page import map_page
from pairloom.search.release import OpenRelease
from pairloom.search.web import uploads
from pairloom.search.web.app import create_app
from pairloom.search.web.config import WebConfig
from pairloom.search.web.service import Service
from pairloom.storage.releases import Cutoff, release_log
from pairloom.storage.table.upkeep import TableUpkeep

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

VIEWS = [
    "/",
    "/?text=fig",
    "/map",
    "/compare",
    "/nights",
    "/quarantine",
    "/report",
    "/sql",
    "/sql?statement=SELECT%20x",
    "/api/docs",
    "/items/red%20apple",
]

PATIENCE = 240
"""Seconds that are waited for anything: longer than any machine takes, shorter than a test may hang."""

NAMELESS = """() => [...document.querySelectorAll("button, a[href], input, select, canvas, img")].filter((each) => {
  if (each.closest("[hidden]") || !each.checkVisibility()) return false;
  if (each.tagName === "IMG") return !each.hasAttribute("alt");
  const named = each.getAttribute("aria-label") || each.title || each.textContent.trim()
    || [...(each.labels || [])].map((label) => label.textContent.trim()).join("");
  return !named;
}).map((each) => each.outerHTML.slice(0, 200))"""

FAINT = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("body *")].filter((each) =>
    [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
      && each.checkVisibility({ opacityProperty: true }) && !each.closest("svg, .hidden, .unfit"));
  return texts.map((each) => {
    const [one, other] = [light(parse(getComputedStyle(each).color)), light(behind(each))].sort((a, b) => b - a);
    return [(one + 0.05) / (other + 0.05), each.outerHTML.slice(0, 120)];
  }).filter(([contrast]) => contrast < 4.5);
}"""

DROP = """([kind, content]) => {
  const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
    : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a service over a pipeline, in a thread."""
    port = free_port()
    app = create_app(Service(folder, WebConfig(port=port, seconds=PATIENCE)))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "fruits"
    publish(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, serving(folder) as address:
        patch.setattr(uploads, "SECONDS", float(PATIENCE))
        yield address


@contextlib.contextmanager
def looking(browser: Any, **options: Any) -> Iterator[Any]:
    """A context of the browser that waits patiently."""
    with contextlib.closing(browser.new_context(reduced_motion="reduce", **options)) as context:
        context.set_default_timeout(1_000 * PATIENCE)
        yield context


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page of its own, which may say nothing in the console and ask nobody but the service."""
    said: list[str] = []
    with looking(browser, viewport={"width": 1280, "height": 900}, base_url=address) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if of_ours(message) else None)
        page.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else said.append(asked.url))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        yield page
    assert said == []


def of_ours(message: Any) -> bool:
    """Whether the browser complains of the page, and not of an answer that is meant to be an error."""
    return bool(message.type == "error" and not message.text.startswith("Failed to load resource"))


def titles(page: Any) -> list[str]:
    found: list[str] = page.locator(".grid .text").all_inner_texts()
    return found


def found(folder: Path, text: str, count: int) -> list[str]:
    return [hit.item_id for hit in Index(OpenRelease.open(folder)).search(text, k=count).hits]


def settled(page: Any, first: str) -> None:
    """The answer whose first hit is `first` is shown."""
    page.wait_for_function("(first) => document.querySelector('.grid .text')?.innerText === first", arg=first)


def shown(page: Any, expected: list[str]) -> None:
    """These hits are shown, and no others."""
    page.wait_for_function(
        """(expected) => JSON.stringify([...document.querySelectorAll(".grid .text")].map((each) => each.innerText))
          === JSON.stringify(expected)""",
        arg=expected,
    )


def test_what_is_typed_is_found_shared_and_gone_back_from(page: Any, folder: Path, address: str) -> None:
    page.goto("/")
    page.get_by_label("What to look for").press_sequentially("white fig")
    expected = found(folder, "white fig", 36)
    page.wait_for_url(f"{address}/?text=white+fig")
    shown(page, expected)
    page.wait_for_function("() => document.title === 'white fig · Pairloom'")
    assert re.search(r"release 1 · model tiny0001 · \d+ ms", page.get_by_role("status").first.inner_text())
    other = page.context.new_page()
    other.goto(page.url)
    shown(other, expected)
    other.close()
    page.go_back()
    page.wait_for_function("() => document.querySelector('h1').innerText.startsWith('Everything')")
    assert page.get_by_label("What to look for").input_value() == ""


def test_words_are_added_taken_and_let_go(page: Any) -> None:
    page.goto("/?text=fig")
    page.get_by_role("button", name="− less of", exact=True).click()
    page.wait_for_function("() => document.activeElement.matches('form.chip input')")
    page.keyboard.type("green")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?text=fig&minus=green")
    page.wait_for_function("() => document.querySelector('h1').innerText === 'fig − green'")
    page.get_by_label("What to look for").fill("+red")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?text=fig&plus=red&minus=green")
    page.get_by_role("button", name="Take away: green").click()
    page.wait_for_url("**/?text=fig&plus=red")


def test_more_like_this_and_a_filter_and_back(page: Any) -> None:
    page.goto("/?text=fig")
    page.locator(".hit").first.hover()
    first = titles(page)[0]
    page.get_by_role("link", name=f"More like {first}", exact=True).click()
    page.wait_for_url("**/?like=*")
    page.get_by_role("button", name="Take away: the item").wait_for()
    page.wait_for_function("(first) => document.querySelector('.grid .text').innerText !== first", arg=first)
    page.get_by_role("checkbox", name="Pear 8", exact=True).check()
    page.wait_for_url("**f.subgroup=Pear")
    pears = {name for name in NAMES if name.endswith("pear")} - {first}
    page.wait_for_function("(count) => document.querySelectorAll('.hit').length === count", arg=len(pears))
    assert {*titles(page)} == pears
    page.get_by_role("status").filter(has_text="8 of 46 items").wait_for()
    page.go_back()
    page.go_back()
    settled(page, first)


def test_a_picture_that_is_given_finds_itself(page: Any) -> None:
    page.goto("/")
    page.locator(".hit").first.wait_for()
    for at, kind in enumerate(("drop", "paste", "choose"), start=7):
        if kind == "choose":
            file = {"name": "chosen.png", "mimeType": "image/png", "buffer": picture(at)}
            page.get_by_label("Search with a picture").set_input_files(file)
        else:
            page.evaluate(DROP, [kind, base64.b64encode(picture(at)).decode()])
        settled(page, NAMES[at])
        assert "?image=" in page.url
        page.get_by_role("button", name="Take away: your picture").wait_for()


def test_a_statement_is_written_its_error_marked_its_rows_shown_and_taken(page: Any) -> None:
    page.goto("/sql")
    box = page.get_by_label("A statement")
    box.fill("SELECT item_id,\n  no_such FROM items")
    box.press("Control+Enter")
    page.get_by_role("alert").filter(has_text="no_such").wait_for()
    assert page.locator(".place mark").inner_text() == "no_such"
    page.wait_for_function("() => document.querySelector('textarea').selectionStart === 18")
    box.fill("SELECT item_id, '<img src=x onerror=alert(1)>' AS hostile FROM items ORDER BY item_id")
    page.get_by_role("button", name="Run").click()
    page.get_by_role("status").filter(has_text=f"{len(NAMES)} rows").wait_for()
    assert page.locator("tbody tr td:nth-child(2)").all_inner_texts() == sorted(NAMES)
    assert page.locator("tbody img").count() == len(NAMES)
    with page.expect_download() as taken:
        page.get_by_role("link", name="CSV").click()
    lines = Path(taken.value.path()).read_text(encoding="utf-8").splitlines()
    assert (lines[0], len(lines)) == ("item_id,hostile", len(NAMES) + 1)
    page.go_back()
    page.get_by_role("alert").wait_for()


def test_words_are_looked_for_too_where_that_is_switched_on(page: Any, folder: Path) -> None:
    page.goto("/?text=qwertyuiop%20fig")
    page.get_by_role("switch", name="Words too").check()
    page.wait_for_url("**/?text=qwertyuiop+fig&hybrid=true")
    hits = Index(OpenRelease.open(folder)).search("qwertyuiop fig", k=36, hybrid=True).hits
    shown(page, [hit.item_id for hit in hits])
    assert page.get_by_role("switch", name="Re-rank").count() == 0


def test_keys_lead_through_the_page(page: Any) -> None:
    page.goto("/?text=fig")
    page.locator(".hit").first.wait_for()
    page.locator("body").press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.place") == "2"
    second = titles(page)[1]
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name=second).wait_for()
    page.get_by_text("/pictures/").wait_for()
    page.go_back()
    page.locator(".hit").first.wait_for()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()


def test_scrolling_brings_everything_and_each_once(page: Any) -> None:
    page.goto("/?text=apple")
    page.locator(".hit").first.wait_for()
    page.mouse.wheel(0, 20_000)
    page.get_by_text("That was all.").wait_for()
    assert sorted(titles(page)) == sorted(NAMES)


def test_hostile_texts_are_shown_as_they_are(page: Any) -> None:
    for text in HOSTILE:
        page.goto(f"/items/{escaped(text)}")
        page.get_by_role("heading", level=1, name=text, exact=True).wait_for()
    assert page.locator("script").count() == 2


def escaped(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def test_every_view_is_named_legible_and_fits_a_phone(browser: Any, address: str) -> None:
    with looking(browser, viewport={"width": 390, "height": 844}, base_url=address) as context:
        page = context.new_page()
        for view in VIEWS:
            page.goto(view)
            page.wait_for_load_state("networkidle")
            page.locator("main h1").first.wait_for()
            assert page.evaluate(NAMELESS) == [], view
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate(FAINT) == [], (view, scheme)


def test_what_is_chosen_on_the_map_becomes_a_query(page: Any) -> None:
    page.goto("/map")
    canvas = page.get_by_role("application")
    canvas.wait_for()
    page.wait_for_function("() => document.querySelector('canvas').width > 300")
    canvas.press("+")
    canvas.press("Enter")
    page.get_by_role("heading", name=re.compile(r"\d+ chosen")).wait_for()
    page.get_by_role("link", name="Search for more like these").click()
    page.wait_for_url("**/?like=*&like=*")
    page.get_by_role("heading", level=1, name=re.compile(r"like \d+ items")).wait_for()


def test_a_line_is_drawn_where_nothing_fits_any_more(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "fruits"
    record = publish(folder, names=NAMES[:20])
    hits = Index(OpenRelease.open(folder)).search("a fig", k=20).hits
    measured = {"corrected": False, "max_false_finds": 0.05, "queries": 200, "true_finds": 0.9, "false_finds": 0.04}
    cutoff = Cutoff(score=hits[4].score, **measured)
    changed = record.model_copy(update={"number": 2, "cutoffs": {"text_to_image": cutoff}, "hubness": False})
    TableUpkeep(folder / record.table).tag(2, record.table_version)
    release_log(folder).publish(changed)
    with serving(folder) as address, looking(browser, base_url=address) as context:
        own = context.new_page()
        own.goto("/?text=a%20fig")
        line = own.get_by_text("From here on probably nothing fits")
        line.wait_for()
        assert own.locator(".grid > li").nth(5).inner_text() == line.inner_text()
        assert "90 %" in own.locator(".cutoff").get_attribute("title")
        assert own.locator(".unfit").count() == 15


def test_filters_that_leave_nothing_say_so_and_can_be_taken_away(page: Any) -> None:
    page.goto("/?where=width%20%3D%209999")
    page.get_by_text("Nothing fits these filters.").wait_for()
    page.get_by_role("status").filter(has_text=f"0 of {len(NAMES)} items").wait_for()
    assert page.get_by_role("list", name="Parts of the query").inner_text().split() == ["width", "=", "9999", "×"]
    assert page.get_by_role("group", name="subgroup").get_by_text("None left").is_visible()
    assert page.get_by_role("group", name="subgroup").get_by_role("spinbutton").count() == 0
    page.get_by_role("button", name="Take them away").click()
    page.locator(".hit").first.wait_for()


def test_an_error_is_said_in_the_page(page: Any) -> None:
    page.goto("/?text=fig&where=nonsense%20%3D")
    page.get_by_role("alert").filter(has_text="is not a filter").wait_for()
    page.goto("/items/nothing")
    page.get_by_role("alert").filter(has_text="has no item").wait_for()


def test_the_exported_map_shows_what_is_pointed_at_and_loads_nothing(
    browser: Any, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "map.html"
    file.write_text(map_page(ReleaseMap(OpenRelease.open(folder))), encoding="utf-8")
    with looking(browser, viewport={"width": 900, "height": 700}) as context:
        own, asked = context.new_page(), list[str]()
        own.on("request", lambda request: asked.append(request.url))
        own.on("pageerror", lambda error: asked.append(str(error)))
        own.goto(file.as_uri())
        box = own.locator("#map").bounding_box()
        own.wait_for_function("() => document.getElementById('map').width > 300")
        for step in range(0, 400, 5):
            own.mouse.move(box["x"] + box["width"] / 2 + step, box["y"] + box["height"] / 2 + step % 60)
            if own.locator(".tip").is_visible():
                break
        assert own.locator(".tip span").inner_text() in NAMES
        assert [each for each in asked if not each.startswith(("data:", "file:"))] == []
