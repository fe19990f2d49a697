"""Attacks by text: captions, names and values that a page, a card, a terminal or a reader of JSON would obey."""

import html.parser
import io
import json
import re
import sys
import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
import typer
from rich.console import Console

import pairloom.flows.show.console
from pairloom.flows.cli.answers import errors_in_one_line, print_json
from pairloom.flows.outcome import Night
from pairloom.flows.show.console import show_hits, show_night, show_rows
from pairloom.flows.show.line import Line
from pairloom.flows.show.markdown import table
from pairloom.flows.show.report import markdown
from pairloom.search.query import Hit, SearchResult
from pairloom.search.sheet import contact_sheet
from pairloom.storage.escaping import html_text, json_text, markdown_text, plain, plain_lines
from pairloom.tasks.evaluation.card import model_card
from pairloom.tasks.pipeline import Pipeline

HTML = [
    "<script>alert(1)</script>",
    "<iframe src=javascript:alert(1)>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</title><script>alert(1)</script>",
    "</style><style>*{display:none}</style>",
    "<!--",
    "]]>",
    "&lt;script&gt;",
    "&#60;b&#62;",
    "<\x00script>alert(1)</script>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "</bdi></div><form action=//evil.example>",
]
MARKDOWN = [
    "[click](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "<https://evil.example>",
    "https://evil.example",
    "www.evil.example",
    "`code`",
    "| a | b |",
    "# heading",
    "- list",
    "1. list",
    "> quote",
    "***",
    "---",
    "~~struck~~",
    "*em* _em_ **strong**",
    "\\",
    "a\n\n# heading",
    "a\r\n| cell | cell |",
    "$$x$$",
    "[^1]: note",
    "&amp;",
]
TERMINAL = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b[2J\x1b[H",
    "\x1b[1A\x1b[2Kreleased",
    "\x9b31mred",
    "\x9d0;title\x9c",
    "\x07\x08\x7f",
    "a\rb",
    "a\nerror: b",
    "a\u2028b\u2029c\x85d",
    "\u202egnp.exe",
    "\u2066\u2067\u2068a\u2069",
    "\u200e\u200f\u061c",
    "a\u200bb\u2060c\ufeffd",
    "\U000e0041\U000e0042",
    "\x00",
    "[red]markup[/red]",
    "[link=https://evil.example]x[/link]",
    "[/]",
]
TEXTS = HTML + MARKDOWN + TERMINAL


class Tags(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(sorted(name for name, _ in attributes))))


def hits(text: str) -> SearchResult:
    own = {"m": text, text: [text]}
    hit = Hit(item_id=text, score=1.0, texts=[text, text], path=text, metadata=own, thumbnail=b"", collapsed=[text])
    return SearchResult(release=1, model_id="m", title=text, hits=[hit], where=text, offset=3)


def night(text: str) -> Night:
    return Night(
        pipeline="shapes",
        outcome="held",
        release=1,
        model_id="m",
        reason=text,
        rows={"seen": 1},
        metrics={f"text_to_image_recall@10/sub={text}": 0.5, "text_to_image_recall@10": 0.5},
        comparisons=(text,),
        seconds={"ingest": 1.0},
    )


def unseen(text: str) -> list[str]:
    """Characters that have no place in what is shown."""
    return [
        char
        for char in text
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        or char in "\u200b\u200e\u200f\u061c\u2060\ufeff\U000e0041"
    ]


def test_every_character_that_a_terminal_could_obey_is_shown() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for shown in (plain(every), html_text(every), markdown_text(every), json_text(every)):
        assert not unseen(shown)
    assert plain("a\tb\nc \x1b[0m \u202e \U000e0041") == "a b c \\x1b[0m \\u202e \\U000e0041"
    # Joiners make families, flags and Persian.
    for kept in ("👩\u200d👩\u200d👧", "می\u200cخواهم", "🏳️\u200d🌈", "e\u0301", "日本"):
        assert plain(kept) == kept
    assert plain_lines("a\x07\nb") == "a\\x07\nb"


@pytest.mark.parametrize("text", TEXTS)
def test_page_shows_it_and_is_made_of_nothing_more(text: str) -> None:
    page, innocent = (contact_sheet([(each, hits(each))], title=each) for each in (text, "innocent"))
    assert Tags(page).found == Tags(innocent).found
    assert not unseen(page.replace("\n", ""))
    assert html.unescape(html_text(text)) == plain(text)
    assert page.count("\n") == innocent.count("\n")


@pytest.mark.parametrize("text", TEXTS)
def test_report_shows_it_and_is_made_of_nothing_more(text: str) -> None:
    report, innocent = markdown(night(text), []), markdown(night("innocent"), [])
    assert report.count("\n") == innocent.count("\n")
    assert not unseen(report.replace("\n", ""))
    assert not re.search(r"(?<!\\)[<`\[\]*_~!$]", report.replace("model `m`", ""))
    lines = table("t", ["c"], [[text, text]])
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line} == {3}


@pytest.mark.parametrize("text", TEXTS)
def test_card_shows_it_and_is_made_of_nothing_more(text: str) -> None:
    def card(value: str) -> str:
        pipeline = Pipeline.model_validate(
            {
                "name": "shapes",
                "root": "/nowhere",
                "sources": [{"kind": "folder", "path": "x"}],
                "columns": {"keep": {"kind": "string"}},
                "model": {"second_image_tower": {"column": "kind", "values": [value]}},
            }
        )
        facts: dict[str, Any] = {"model_id": "m", "snapshot": 1, "steps": 1, "samples": 1, "seconds": 1, "parent": None}
        metrics = {f"text_to_image_recall@10/sub={value}": 0.5}
        return model_card(pipeline, facts | {"metrics": metrics, "intervals": {}, "floor": None}, plain=True)

    found, innocent = card(text), card("innocent")
    assert found.count("\n") == innocent.count("\n")
    assert not unseen(found.replace("\n", ""))
    assert Tags(found).found == []
    line = next(line for line in found.splitlines() if "recall" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 4


@pytest.mark.parametrize("text", TEXTS)
def test_terminal_gets_nothing_to_obey_but_our_own_colours(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=400, legacy_windows=False)
    monkeypatch.setattr(pairloom.flows.show.console, "out", console)
    show_hits(hits(text))
    show_night(night(text))
    show_rows([{"name": text, text: 1, "many": [text], "nested": {text: text}}])
    console.print(Line.assemble((text, "bold"), text))
    assert not unseen(re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).replace("\n", ""))
    assert "\x1b[31m" not in stream.getvalue()


@pytest.mark.parametrize("text", TEXTS)
def test_errors_and_warnings_hold_nothing_to_obey(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), errors_in_one_line():
        raise ValueError(text)
    assert not unseen(capsys.readouterr().err.replace("\n", ""))


@pytest.mark.parametrize("text", [*TEXTS, "\ud800", "a\udcffb", "\U0010ffff", '"', "\\", "/", "\u2028"])
def test_json_is_one_valid_line_that_gives_the_text_back(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": text, text: [text, float("nan"), float("inf")], "at": datetime(2026, 1, 1, tzinfo=UTC)})
    printed = capsys.readouterr().out
    printed.encode()
    assert printed.count("\n") == 1
    assert not unseen(printed.removesuffix("\n"))
    found = json.loads(printed, parse_constant=lambda constant: pytest.fail(constant))
    assert (found["text"], found[text]) == (text, [text, None, None])
