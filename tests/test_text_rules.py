"""Which texts are none, and what becomes of a row whose texts are refused."""

import json
from pathlib import Path

import pytest

from pairloom.storage.reasons import Reason
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import JsonlSource
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import RejectedRow, SourceRow
from pairloom.storage.sources.text_rules import TextRules

ALL = TextRules(refuse=("file_name", "address", "no_letters", "control_characters"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\x00\x07", Reason.TEXT_CONTROL_CHARACTERS),
        ("\u200b\ufeff\u2060", Reason.TEXT_CONTROL_CHARACTERS),
        ("2024-05-01 12:30", Reason.TEXT_NO_LETTERS),
        ("*** – ***", Reason.TEXT_NO_LETTERS),
        ("١٢٣", Reason.TEXT_NO_LETTERS),
        ("€ 12.50", Reason.TEXT_NO_LETTERS),
        ("👟", None),
        ("3 shoes", None),
        ("https://example.org/a?b=c", Reason.TEXT_ADDRESS),
        ("WWW.example.org", Reason.TEXT_ADDRESS),
        ("someone@mail.example.org", Reason.TEXT_ADDRESS),
        ("see https://example.org", None),
        ("me @ home", None),
        ("holiday 3.JPG", Reason.TEXT_FILE_NAME),
        ("photos/2024/a.heic", Reason.TEXT_FILE_NAME),
        ("IMG_2041", Reason.TEXT_FILE_NAME),
        ("DSC00012", Reason.TEXT_FILE_NAME),
        ("img of a dog", None),
        ("a .jpg of a dog", None),
        (f"{'a long tale, ' * 30}and its picture.jpg", None),
        ("狗", None),
    ],
)
def test_texts_that_say_nothing_are_told_apart(text: str, reason: Reason | None) -> None:
    assert ALL.refusal(text) is reason


@pytest.mark.parametrize("text", ["123", "https://example.org", "IMG_2041.jpg", "a"])
def test_by_default_only_what_nobody_sees_is_refused(text: str) -> None:
    assert TextRules().refusal(text) is None
    assert TextRules().refusal("\u200b") is Reason.TEXT_CONTROL_CHARACTERS
    assert TextRules(refuse=()).refusal("\u200b") is None


@pytest.mark.parametrize(
    ("limits", "short", "fits", "long"),
    [
        ({"min_characters": 2, "max_characters": 4}, "a", ["ab", "abcd"], "abcde"),
        ({"min_words": 2, "max_words": 3}, "one", ["one two", "one  two\nthree"], "a b c d"),
    ],
)
def test_lengths_count_from_their_limits_on(limits: dict[str, int], short: str, fits: list[str], long: str) -> None:
    rules = TextRules.model_validate(limits)
    assert rules.refusal(short) is Reason.TEXT_TOO_SHORT
    assert rules.refusal(long) is Reason.TEXT_TOO_LONG
    assert [rules.refusal(text) for text in fits] == [None, None]


def test_an_evil_text_costs_no_more_than_its_length() -> None:
    # Each would take minutes where an expression tries all ways to part it.
    for evil in ("a@" + "a." * 500_000, "IMG" + "_-" * 500_000, "." * 1_000_000 + "jp", "http://" + "a" * 1_000_000):
        ALL.refusal(evil)


def test_a_refused_text_is_left_out_and_a_row_without_any_is_filtered(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    texts = [["IMG_2041.jpg", "a dog"], ["IMG_2041.jpg", "123"], [" "], ["x" * 1_000 + ".png"]]
    lines = [json.dumps({"image": "a.png", "text": each}) for each in texts]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    source = JsonlSource(path=tmp_path / "captions.jsonl")
    first, second, third, fourth = read_source(source, ColumnsConfig(), ALL)
    assert isinstance(first, SourceRow)
    assert first.texts == ("a dog",)
    assert isinstance(second, RejectedRow)
    assert (second.reason, second.outcome) == (Reason.TEXT_FILE_NAME, "filtered")
    assert second.message == "'IMG_2041.jpg' is refused as text-file-name, and 1 more"
    assert isinstance(third, RejectedRow)
    assert (third.reason, third.outcome) == (Reason.TEXT_EMPTY, "quarantined")
    assert isinstance(fourth, SourceRow)
