"""Sources: each kind read, every bad row told apart from its neighbours, no way out of the source's own folder."""

import gzip
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from pairloom.storage.sources.columns import ColumnsConfig, KeptColumn
from pairloom.storage.sources.config import CsvSource, FolderSource, JsonlSource, SourceConfig, TsvSource
from pairloom.storage.sources.raw_row import MAX_LINE
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import RejectedRow, SourceRow, UnreadableSourceError

DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "shop"
    found.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (found / name).write_bytes(name.encode())
    return found


def jsonl(folder: Path, lines: Sequence[object]) -> JsonlSource:
    write_lines(folder / "captions.jsonl", lines)
    return JsonlSource(path=folder / "captions.jsonl")


def write_lines(path: Path, lines: Sequence[object]) -> None:
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(encoded))


def csv(folder: Path, content: bytes) -> CsvSource:
    path = folder / "captions.csv"
    path.write_bytes(content)
    return CsvSource(path=path)


def outcomes(source: SourceConfig, columns: ColumnsConfig | None = None) -> list[str]:
    """First text of each row read, reason code of each rejected."""
    rows = read_source(source, columns or ColumnsConfig())
    return [row.texts[0] if isinstance(row, SourceRow) else row.reason for row in rows]


def only_row(source: SourceConfig, columns: ColumnsConfig) -> SourceRow:
    (row,) = read_source(source, columns)
    assert isinstance(row, SourceRow), row
    return row


def test_a_row_holds_what_its_columns_say(folder: Path) -> None:
    line = {"sku": 7, "image": "a.png", "title": " Red shoe ", "also": ["shoe", "", None, "Red shoe"], "kind": "shoe"}
    columns = ColumnsConfig(
        id="sku",
        texts=["title", "also"],
        group="kind",
        split="part",
        keep={"price": "float64", "origin": {"column": "source", "type": "string"}},
    )
    row = only_row(jsonl(folder, [line | {"part": "Validation", "price": 3, "source": "web"}]), columns)
    assert row.item_id == "7"
    assert row.image.origin == folder / "a.png"
    assert row.image_path == "a.png"
    assert row.texts == ("Red shoe", "shoe")
    assert (row.group, row.split) == ("shoe", "val")
    assert row.metadata == {"price": 3.0, "origin": "web"}
    assert (row.source, row.number) == ("shop/captions", 1)


def test_one_bad_json_line_costs_only_itself(folder: Path) -> None:
    good = {"image": "a.png", "text": "good"}
    lines: list[object] = [
        b"\xef\xbb\xbf" + json.dumps(good).encode() + b"\r",
        b"",
        b'{"image": "a.png", "text": "caf\xe9"}',
        b'{"image": "a.png", "text": "half',
        b"[1, 2]",
        b"[" * 100_000,
        b'{"image": "a.png", "text": "\\ud83d"}',
        b'{"image": "a.png", "text": ' + b"9" * 5_000 + b"}",
        b'{"image": "a.png", "text": "' + b"x" * (2 * MAX_LINE) + b'"}',
        {"image": {"path": "a.png"}, "text": "nested"},
        {"image": "a.png", "text": [["nested"]]},
        {"text": "no image"},
        b'{"image": "a.png", "text": NaN}',
        {"image": "a.png", "text": " \n"},
        good,
    ]
    source = jsonl(folder, lines)
    found = outcomes(source)
    assert found == ["good", *["malformed-row"] * 9, "image-missing", "text-empty", "text-empty", "good"]
    assert [row.number for row in read_source(source, ColumnsConfig())] == [1, *range(3, 16)]


def test_one_bad_csv_row_costs_only_itself(folder: Path) -> None:
    content = (
        b"\xef\xbb\xbfimage,text,\r\n"
        b"a.png,good,1\r\n"
        b"a.png,too few\r\n"
        b"a.png,too,many,cells\r\n"
        b'b.png,"open quote,1\r\n'
        b"b.png,after,1\r\n"
        b'b.png,"two\nlines, and a comma",1\r\n'
        b"\r\n"
        b"c.png,caf\xe9,1\r\n"
        b'c.png,5" nail,1\r\n'
        b"c.png," + b"x" * 300_000 + b",1\r\n"
        b'c.png,"never closed,1\r\n'
        b"c.png,last,1"
    )
    found = [text[:20] for text in outcomes(csv(folder, content))]
    bad = "malformed-row"
    assert found == [*("good", bad, bad, bad, "after", "two\nlines, and a com", bad, '5" nail', "x" * 20, bad, "last")]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_any_line_ending_ends_a_line(folder: Path, ending: bytes) -> None:
    assert outcomes(csv(folder, ending.join([b"image,text", b"a.png,one", b"b.png,two"]))) == ["one", "two"]


def test_an_unclosed_quote_is_recovered_from_in_a_long_file(folder: Path) -> None:
    lines = [b"image,text", b'a.png,"open', *[b"a.png,good"] * 3_000]
    assert Counter(outcomes(csv(folder, b"\n".join(lines)))) == {"malformed-row": 1, "good": 3_000}


def test_an_image_path_may_not_leave_the_base(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "out").symlink_to(tmp_path)
    (folder / "inner.png").symlink_to(folder / "a.png")
    outside = [
        "../secret.png",
        str(tmp_path / "secret.png"),
        "/etc/passwd",
        "link.png",
        "out/secret.png",
        "..",
        "../no.png",
    ]
    inside = ["a.png", "./b.png", "../shop/c.png", "inner.png", str(folder / "a.png")]
    source = jsonl(folder, [{"image": path, "text": "good"} for path in outside + inside])
    assert outcomes(source) == ["image-outside-base"] * len(outside) + ["good"] * len(inside)


def test_an_image_that_is_not_there_is_reported(folder: Path) -> None:
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "sub").mkdir()
    paths = ["no.png", "sub", "loop", "x" * 5_000, "https://example.org/a.png", "a.png/b.png"]
    source = jsonl(folder, [{"image": path, "text": "t"} for path in paths])
    assert outcomes(source) == ["image-not-found"] * len(paths)
    assert outcomes(jsonl(folder, [{"image": "a\0.png", "text": "t"}])) == ["malformed-row"]


def test_metadata_is_typed_or_null_or_the_row_quarantined(folder: Path) -> None:
    columns = ColumnsConfig(
        keep={"i": "int64", "f": "float64", "b": "bool", "t": "timestamp", "l": "list<string>", "s": "string"}
    )
    row: dict[str, object] = {"image": "a.png", "text": "t"}
    good: dict[str, object] = {
        "i": 3.0,
        "f": "2.5",
        "b": "yes",
        "t": "2026-01-02T03:04:05+01:00",
        "l": ["x", 1],
        "s": 5,
    }
    empty: dict[str, object] = dict.fromkeys(good)
    bad: list[dict[str, object]] = [
        {"i": 3.5},
        {"i": 2**63},
        {"i": True},
        {"i": "1_000"},
        {"f": "x"},
        {"f": "1,5"},
        {"f": "١٢"},
        {"b": 2},
        {"t": 5},
        {"t": "soon"},
        {"l": "[1"},
    ]
    source = jsonl(folder, [row | good, row | empty, *(row | each for each in bad)])
    bad_cells: Counter[str] = Counter()
    for each in read_source(source, columns, bad_cells=bad_cells):
        assert isinstance(each, SourceRow)
        assert each.number == 1 or not any(each.metadata.values())
    assert bad_cells == {"i": 4, "f": 3, "b": 1, "t": 2, "l": 1}
    rows = list(read_source(source, columns, on_bad_cell="quarantine"))
    assert isinstance(rows[0], SourceRow)
    assert rows[0].metadata == {
        "i": 3,
        "f": 2.5,
        "b": True,
        "t": datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC),
        "l": ["x", "1"],
        "s": "5",
    }
    assert isinstance(rows[1], SourceRow)
    assert set(rows[1].metadata.values()) == {None}
    rejected = [each for each in rows[2:] if isinstance(each, RejectedRow)]
    assert [each.reason for each in rejected] == ["metadata-type"] * len(bad)
    assert rejected[0].message == "i: 3.5 in column i is no int64"


def test_csv_metadata_is_typed_from_text(folder: Path) -> None:
    source = csv(folder, b'image,text,i,l,f\na.png,t,12,"[""x"", ""y""]",\n')
    row = only_row(source, ColumnsConfig(keep={"i": "int64", "l": "list<string>", "f": "float64"}))
    assert row.metadata == {"i": 12, "l": ["x", "y"], "f": None}


def test_unknown_splits_and_missing_ids_are_quarantined(folder: Path) -> None:
    lines = [
        {"image": "a.png", "text": "t", "id": "1", "split": "holdout"},
        {"image": "a.png", "text": "t", "id": "", "split": "train"},
        {"image": "a.png", "text": "no split", "id": "3"},
    ]
    assert outcomes(jsonl(folder, lines), ColumnsConfig(id="id", split="split")) == [
        "split-unknown",
        "id-missing",
        "no split",
    ]


def test_a_fingerprint_changes_with_the_row_or_its_image_only(folder: Path) -> None:
    line = {"image": "a.png", "text": "t", "unused": 1}
    columns = ColumnsConfig()
    first = only_row(jsonl(folder, [line]), columns).fingerprint
    assert only_row(jsonl(folder, [line | {"unused": 2}]), columns).fingerprint == first
    assert only_row(jsonl(folder, [line | {"text": "u"}]), columns).fingerprint != first
    kept = [only_row(jsonl(folder, [line]), ColumnsConfig(keep={"unused": kind})) for kind in ("int64", "string")]
    assert len({first, *(row.fingerprint for row in kept)}) == 3
    os.utime(folder / "a.png", ns=(1, 1))
    assert only_row(jsonl(folder, [line]), columns).fingerprint != first


def test_a_folder_is_read_with_its_sidecars(tmp_path: Path) -> None:
    base = tmp_path / "photos"
    (base / "birds").mkdir(parents=True)
    (base / ".hidden").mkdir()
    for name in ("b.JPG", "birds/owl.webp", "birds/bad.png", "alone.png", "notes.pdf", ".hidden/x.png", "b.png"):
        (base / name).write_bytes(b"x")
    (base / "b.txt").write_text("best\n\nsecond \r\nbest\n")
    (base / "birds/owl.txt").write_bytes("\ufeffan owl".encode())
    (base / "birds/bad.txt").write_bytes(b"caf\xe9")
    source = TypeAdapter(SourceConfig).validate_python({"kind": "folder", "path": base})
    rows = list(read_source(source, ColumnsConfig(texts=["whatever"], group="folder")))
    read = {row.image_path: (row.texts, row.group) for row in rows if isinstance(row, SourceRow)}
    both = ("best", "second")
    assert read == {"b.JPG": (both, None), "b.png": (both, None), "birds/owl.webp": (("an owl",), "birds")}
    assert [row.reason for row in rows if isinstance(row, RejectedRow)] == [
        *("ignored-file", "text-empty", "not-an-image", "malformed-row")
    ]
    (empty,) = [row.message for row in rows if isinstance(row, RejectedRow) and row.reason == "text-empty"]
    assert empty == "no text in alone.txt, expected beside the image"
    assert rows[0].source == f"{tmp_path.name}/photos"
    owls = outcomes(FolderSource(path=base, where="folder = 'birds' and name like 'o%'"))
    assert Counter(owls) == {"where": 3, "malformed-row": 1, "an owl": 1, "ignored-file": 1, "not-an-image": 1}


def test_names_that_are_not_utf8_cost_only_their_rows(tmp_path: Path) -> None:
    (tmp_path / "good.png").touch()
    (tmp_path / "good.txt").write_text("good")
    for name in (b"caf\xe9.png", b"na\xefve.png"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve.txt")).write_bytes(b"\xff")
    source = FolderSource(path=tmp_path, where="folder = ''")
    assert Counter(outcomes(source)) == {"malformed-row": 2, "good": 1}
    for row in read_source(source, ColumnsConfig()):
        assert row.image_path is None or row.image_path.encode()
        assert isinstance(row, SourceRow) or row.message.encode()


def test_where_of_a_source_without_rows_filters_nothing(folder: Path) -> None:
    assert outcomes(jsonl(folder, []).model_copy(update={"where": "size > 1"})) == []
    assert outcomes(jsonl(folder, [b"{"]).model_copy(update={"where": "size > 1"})) == ["malformed-row"]


def test_where_filters_alike_in_every_batch(folder: Path) -> None:
    lines: list[dict[str, object]] = [
        {"image": "a.png", "text": str(n), "n": n if n % 2 else n + 0.5, "tags": ["x"]} for n in range(2_500)
    ]
    lines[3]["n"] = None
    source = jsonl(folder, [*lines, b"{broken"])
    kept = outcomes(source.model_copy(update={"where": "n >= 1000 and list_contains(tags, 'x')"}))
    assert kept == ["where"] * 1_000 + [str(n) for n in range(1_000, 2_500)] + ["malformed-row"]
    filtered = next(read_source(source.model_copy(update={"where": "n > 1"}), ColumnsConfig()))
    assert isinstance(filtered, RejectedRow)
    assert (filtered.outcome, filtered.reason, filtered.message) == ("filtered", "where", "where: n > 1 is not true")


def test_where_compares_numbers_in_csv_as_numbers_and_codes_as_text(folder: Path) -> None:
    source = csv(folder, b"image,text,price,code\na.png,cheap,0.5,007\na.png,dear,10,070\na.png,free,,1\n")
    assert outcomes(source.model_copy(update={"where": "price > 9.5 or code = '007'"})) == ["cheap", "dear", "where"]


@pytest.mark.parametrize(
    "where",
    [
        "size = ",
        "sise = 'L'",
        "size > 1; select 1",
        "size > 'x', 1",
        "count(*) > 1",
        "exists (select * from read_text('{path}'))",
        "exists (select * from '{path}')",
        "exists (select * from glob('/*'))",
        "size = 'many'",
    ],
)
def test_a_where_that_cannot_be_asked_is_one_line(folder: Path, where: str) -> None:
    source = jsonl(folder, [{"image": "a.png", "text": "t", "size": 4}])
    where = where.replace("{path}", str(source.path))
    with pytest.raises(ValueError, match="shop/captions") as raised:
        list(read_source(source.model_copy(update={"where": where}), ColumnsConfig()))
    message = str(raised.value)
    assert f"captions: where: {where!r}" in message
    assert message.endswith("(its columns are image, text, size)")
    assert "\n" not in message


def test_where_refuses_columns_that_differ_in_case_only(folder: Path) -> None:
    source = jsonl(folder, [{"image": "a.png", "text": "t", "n": 1, "N": 2}])
    assert outcomes(source) == ["t"]
    with pytest.raises(ValueError, match="upper and lower case only"):
        read_source(source.model_copy(update={"where": "N = 2"}), ColumnsConfig())


def test_a_missing_source_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no caption file .*gone\.jsonl; correct `path`"):
        read_source(JsonlSource(path=tmp_path / "gone.jsonl"), ColumnsConfig())
    with pytest.raises(ValueError, match=r"no folder .*gone; correct `path`"):
        read_source(FolderSource(path=tmp_path / "gone"), ColumnsConfig())
    (tmp_path / "here.csv").write_text("image,text\n")
    with pytest.raises(ValueError, match=r"no folder .*gone; correct `base`"):
        read_source(CsvSource(path=tmp_path / "here.csv", base=tmp_path / "gone"), ColumnsConfig())


def test_a_column_that_no_row_has_is_a_config_error(folder: Path) -> None:
    late = {"image": "a.png", "text": "t", "caption": "late"}
    source = jsonl(folder, [{"image": "a.png", "text": "t"}] * 5 + [late])
    assert outcomes(source, ColumnsConfig(texts=["caption", "text"])) == ["t"] * 5 + ["late"]
    with pytest.raises(ValueError, match=r"column captions that `columns.texts` names: did you mean caption\?"):
        read_source(source, ColumnsConfig(texts=["captions"]))
    with pytest.raises(
        ValueError, match=r"shop/captions: no row has the column zzz that `columns.keep` names: It has image"
    ):
        read_source(source, ColumnsConfig(keep={"zzz": "string"}))
    assert outcomes(jsonl(folder, [b"{broken"])) == ["malformed-row"]
    assert outcomes(jsonl(folder, [])) == []


def test_a_header_that_names_a_column_twice_is_a_config_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"captions\.csv names text more than once"):
        read_source(csv(folder, b"image,text,text\n"), ColumnsConfig())


def test_a_reserved_name_can_be_kept_under_another() -> None:
    with pytest.raises(ValidationError, match=r"my_source: \{column: source, type: string\}"):
        ColumnsConfig(keep={"source": "string"})


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the development bundle")
def test_real_captions_are_read_whole() -> None:
    source = JsonlSource(path=DATA / "grocery/captions.jsonl", base=DATA, where="split = 'val'")
    columns = ColumnsConfig(id="image_id", texts=["texts", "keywords"], group="concept_id", split="split")
    rows = list(read_source(source, columns))
    assert len(rows) == 2_936
    assert {row.split if isinstance(row, SourceRow) else row.reason for row in rows} == {"val", "where"}


def test_a_pattern_or_a_list_names_files_each_with_its_own_images(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "deep"
    other.mkdir(parents=True)
    (other / "z.png").touch()
    write_lines(folder / "one.jsonl", [{"image": "a.png", "text": "one"}])
    write_lines(folder / "two.jsonl", [{"image": "b.png", "text": "two"}, b"{broken"])
    write_lines(other / "three.jsonl", [{"image": "z.png", "text": "three"}])
    write_lines(folder / "._two.jsonl", [b"\0"])
    (folder / "folder.jsonl").mkdir()
    every = JsonlSource(path=tmp_path / "**" / "*.jsonl")
    assert every.files == (other / "three.jsonl", folder / "one.jsonl", folder / "two.jsonl")
    assert outcomes(every) == ["three", "one", "two", "malformed-row"]
    chosen = JsonlSource(path=(folder / "t*.jsonl", folder / "one.jsonl", folder / "two.jsonl"))
    rows = list(read_source(chosen, ColumnsConfig()))
    assert [(row.source, row.file, row.number) for row in rows] == [
        ("shop/t* and 2 more", "two.jsonl", 1),
        ("shop/t* and 2 more", "two.jsonl", 2),
        ("shop/t* and 2 more", "one.jsonl", 1),
    ]
    pictures = list(read_source(FolderSource(path=tmp_path / "*"), ColumnsConfig()))
    empty = [(row.file, row.image_path) for row in pictures if isinstance(row, RejectedRow) and row.image_path]
    assert empty == [("other", "deep/z.png"), ("shop", "a.png"), ("shop", "b.png"), ("shop", "c.png")]


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    odd = tmp_path / "photos [2024]*"
    odd.mkdir()
    for name in ("a[1].jsonl", "a1.jsonl"):
        write_lines(odd / name, [{"image": "x.png", "text": name}])
    assert JsonlSource(path=odd / "a[1].jsonl").files == (odd / "a[1].jsonl",)
    assert JsonlSource(path=odd / "a*.jsonl").files == (odd / "a1.jsonl", odd / "a[1].jsonl")
    with pytest.raises(ValueError, match=r"source .*nothing matches .*b\*\.jsonl; correct `path`"):
        read_source(JsonlSource(path=(odd / "a1.jsonl", odd / "b*.jsonl")), ColumnsConfig())


def test_columns_of_a_source_stand_over_those_of_the_pipeline(folder: Path) -> None:
    pipeline = ColumnsConfig(id="sku", texts=["title"], group="kind", keep={"price": "float64", "maker": "string"})
    shop = jsonl(folder, [{"sku": "1", "image": "a.png", "title": "t", "kind": "k", "price": 2, "maker": "m"}])
    line = {"sku": "1", "photo": "a.png", "title": "t", "cost": 3}
    own = ColumnsConfig(image="photo", group=None, keep={"price": KeptColumn(column="cost", type="float64")})
    other = jsonl(folder, [line]).model_copy(update={"columns": own})
    row = only_row(other, pipeline)
    assert (row.item_id, row.group, row.metadata) == ("1", None, {"price": 3.0, "maker": None})
    shop = jsonl(folder, [{"sku": "1", "image": "a.png", "title": "t", "kind": "k", "price": 2, "maker": "m"}])
    assert only_row(shop, pipeline).metadata == {"price": 2.0, "maker": "m"}
    without = shop.model_copy(update={"columns": ColumnsConfig(keep={"price": None})})
    assert only_row(without, pipeline).metadata == {"price": None, "maker": "m"}
    (folder / "a.txt").write_text("a shoe")
    pictures = FolderSource(path=folder, where="name = 'a'", columns=ColumnsConfig(id="name", group=None))
    assert [row.item_id for row in read_source(pictures, pipeline) if isinstance(row, SourceRow)] == ["a"]
    with pytest.raises(ValueError, match=r"say so on this source: `columns: \{id: null\}`"):
        read_source(FolderSource(path=folder), pipeline)
    wrong = own.model_copy(update={"keep": {"price": KeptColumn(column="cots", type="float64")}})
    other = jsonl(folder, [line]).model_copy(update={"columns": wrong})
    with pytest.raises(
        ValueError, match=r"the column cots that `columns.keep` names: did you mean cost\?.*price: null"
    ):
        read_source(other, pipeline)


def test_columns_of_a_source_say_the_same_after_a_way_through_json() -> None:
    adapter = TypeAdapter[SourceConfig](SourceConfig)
    source = JsonlSource(path=Path("a.jsonl"), columns=ColumnsConfig(id=None, keep={"price": None}))
    back = adapter.validate_json(adapter.dump_json(source))
    pipeline = ColumnsConfig(id="sku", group="kind", keep={"price": "int64"})
    assert back.columns_over(pipeline) == source.columns_over(pipeline)
    assert back.columns_over(pipeline).model_dump() == {"id": None, "group": "kind", "keep": {"price": None}}


def test_a_quote_left_open_never_takes_rows_along(folder: Path) -> None:
    lines = ["image\ttext", 'a.png\t"Untitled, 1972', "b.png\tone", "c.png\ttwo", 'a.png\tmonitor 19"', "b.png\tlast"]
    path = folder / "captions.tsv"
    path.write_text("\n".join(lines))
    rows = list(read_source(TsvSource(path=path), ColumnsConfig()))
    said = [row.texts[0] if isinstance(row, SourceRow) else row.message for row in rows]
    assert said[1:] == ["one", "two", 'monitor 19"', "last"]
    assert "closed in line 5" in said[0]
    assert "say `quote: none`" in said[0]
    taken = ['"Untitled, 1972', "one", "two", 'monitor 19"', "last"]
    assert outcomes(TsvSource(path=path, quote="none")) == taken


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b'image,text\na.png,"see\nred, and blue"\nb.png,"5 ""\n"\n', ["see\nred, and blue", '5 "']),
        (b'text,image,n\n"open,a.png,1\nnext,b.png,2\nnail 5",c.png,3\n', ["malformed-row", "next", 'nail 5"']),
        (b'image,text\n"a.png","open, too\n"b.png","next"\n"c.png","third"\n', ["malformed-row", "next", "third"]),
        (b"image,text\na.png,'one, two'\n", ["malformed-row"]),
    ],
)
def test_texts_of_several_lines_are_told_from_quotes_left_open(folder: Path, content: bytes, texts: list[str]) -> None:
    assert outcomes(csv(folder, content)) == texts


def test_another_quote_and_gzip_are_read(folder: Path) -> None:
    path = folder / "captions.csv.gz"
    path.write_bytes(gzip.compress(b"image;text\na.png;'one; two'\n"))
    assert outcomes(CsvSource(path=path, delimiter=";", quote="'")) == ["one; two"]
    packed = folder / "captions.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"image": "a.png", "text": "t"}\n' * 3_000)[:-20])
    with pytest.raises(UnreadableSourceError, match="is a damaged gzip file"):
        outcomes(JsonlSource(path=packed))


def test_a_file_that_cannot_be_read_on_keeps_the_rows_before(folder: Path) -> None:
    texts = Random(0).sample(range(10**9), 5_000)
    lines = [json.dumps({"image": "a.png", "text": f"{text}"}) for text in texts]
    # The first MiB is looked at beforehand.
    lines[0] = json.dumps({"image": "a.png", "text": "long " * 2**18})
    (folder / "captions.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode())[:-20])
    rows = read_source(JsonlSource(path=folder / "captions.jsonl.gz"), ColumnsConfig())
    read: list[str] = []
    with pytest.raises(UnreadableSourceError, match="can't be read beyond line"):
        read.extend(row.texts[0] for row in rows if isinstance(row, SourceRow))
    assert len(read) > 4_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"image": "a.png", "text": "é"}\n'.encode("utf-16"), "looks like UTF-16: say `encoding: utf-16`"),
        ("a.jsonl", '{"image": "a.png"}\n'.encode("utf-16-be"), "say `encoding: utf-16-be`"),
        ("a.csv", ("image,text\n" + "a.png,café\n" * 20).encode("latin-1"), r"not UTF-8 .*`encoding: latin-1`"),
        ("a.csv", ("image,text\n" + "a.png,3 €\n" * 20).encode("cp1252"), r"not UTF-8 .*`encoding: cp1252`"),
        ("a.jsonl", b'[{"image": "a.png"},\n{"image": "b.png"}]', "one object a line; this is a JSON array"),
        ("a.jsonl", b'[\n  {"image": "a.png"}\n]', "one object a line; this is a JSON array"),
        ("a.jsonl", b'{\n  "image": "a.png"\n}', "one JSON document over many lines"),
        ("a.jsonl", b"PAR1....", "a Parquet file: say `kind: parquet`"),
        ("a.csv", b"PK\x03\x04....", "a zip archive or a workbook: unpack it, or save the sheet as CSV"),
        ("a.csv", gzip.compress(b"PAR1....", mtime=0), "a Parquet file"),
        ("a.csv", b"image;text\na.png;one\n", 'one column, .*: say `delimiter: ";"`'),
        ("a.csv", b"image\ttext\na.png\tone\n", "one column, .*: say `kind: tsv`"),
        ("a.csv", b",,\na.png,one,two\n", "must name the columns, and is empty"),
    ],
)
def test_a_file_of_another_kind_is_one_line_with_the_remedy(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    source = (JsonlSource if name.endswith("jsonl") else CsvSource)(path=folder / name)
    with pytest.raises(UnreadableSourceError, match=said) as raised:
        read_source(source, ColumnsConfig())
    assert "\n" not in str(raised.value)


def test_files_are_read_in_the_encoding_that_is_named(folder: Path) -> None:
    for encoding in ("utf-16", "utf-16-le", "latin-1", "cp1252", "utf_8", "shift_jis"):
        text = "カップ" if encoding == "shift_jis" else "café"
        (folder / "a.csv").write_bytes(f"image,text\r\na.png,{text}\r\n".encode(encoding))
        assert outcomes(CsvSource(path=folder / "a.csv", encoding=encoding)) == [text]
    cut = '{"image": "a.png", "text": "t"}\n{"image": "'.encode("utf-16") + b"x"
    (folder / "a.jsonl").write_bytes(cut)
    rows = read_source(JsonlSource(path=folder / "a.jsonl", encoding="utf-16"), ColumnsConfig())
    assert isinstance(next(rows), SourceRow)
    with pytest.raises(UnreadableSourceError, match="can't be read beyond line 1"):
        next(rows)
    with pytest.raises(ValidationError, match="no encoding of texts that Python knows"):
        JsonlSource(path=folder / "a.jsonl", encoding="base64")


def test_a_few_lines_in_another_encoding_cost_themselves_and_say_so(folder: Path) -> None:
    lines: list[object] = [{"image": "a.png", "text": "plain"}] * 50 + [b'{"image": "a.png", "text": "caf\xe9"}'] * 5
    rows = list(read_source(jsonl(folder, lines), ColumnsConfig()))
    bad = [row.message for row in rows if isinstance(row, RejectedRow)]
    assert len(bad) == 5
    assert "`encoding:`" in bad[0]


def reasons(source: SourceConfig, columns: ColumnsConfig | None = None) -> dict[str, tuple[str, str]]:
    """Outcome and reason of each rejected row by the first word of its message."""
    rows = read_source(source, columns or ColumnsConfig())
    return {row.message.split()[0]: (row.outcome, row.reason) for row in rows if isinstance(row, RejectedRow)}


def test_every_file_of_a_folder_is_accounted_for(tmp_path: Path) -> None:
    base, outside = tmp_path / "photos", tmp_path / "outside"
    for each in (base / "sub" / "deep", base / "__MACOSX", outside):
        each.mkdir(parents=True)
    (outside / "x.png").touch()
    pictures = ("a.jfif", "b.jpe", "c.DIB", "d.heic", "e.HEIF", "sub/f.j2k", "sub/deep/g.apng")
    others = (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a.png", "notes.pdf", "README", "clip.mp4")
    for name in (*pictures, *others, "lost.txt", "sub/lost.json"):
        (base / name).touch()
    for name in pictures:
        (base / name).with_suffix(".txt").write_text(name)
    (base / "sub" / "up").symlink_to(base)
    (base / "sub" / "circle").symlink_to(base / "sub" / "circle")
    (base / "away").symlink_to(outside)
    rows = list(read_source(FolderSource(path=base), ColumnsConfig()))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert [row.image_path for row in rows if isinstance(row, SourceRow)] == list(pictures)
    told = Counter((row.outcome, row.reason) for row in rows if isinstance(row, RejectedRow))
    assert told == {
        ("filtered", "ignored-file"): 4,
        ("filtered", "not-an-image"): 4,
        ("filtered", "folder-repeated"): 1,
        ("quarantined", "linked-folder"): 1,
        ("quarantined", "text-without-image"): 2,
    }


def test_linked_folders_are_followed_below_the_base_once(tmp_path: Path) -> None:
    base = tmp_path / "photos"
    for name in ("a", "b", ".store"):
        (base / name).mkdir(parents=True)
        (base / name / f"{name.strip('.')}.png").touch()
    (base / "kept").symlink_to(base / ".store")
    (base / "again").symlink_to(base / ".store")
    for name in ("a", "b"):
        for other in ("a", "b"):
            (base / name / f"to_{other}").symlink_to(base / other)
    rows = list(read_source(FolderSource(path=base, text_from="name"), ColumnsConfig()))
    read = [row.image_path for row in rows if isinstance(row, SourceRow)]
    assert read == ["a/a.png", "a/to_b/b.png", "again/store.png", "b/b.png", "b/to_a/a.png"]
    links = [row.message for row in rows if isinstance(row, RejectedRow) and row.reason == "folder-repeated"]
    assert links[0] == "kept: another link leads to the same folder"
    told = Counter(message.partition(": ")[2] for message in links)
    assert told == {"links to a folder that it stands in": 6, "another link leads to the same folder": 1}


def test_what_a_json_beside_an_image_says_is_texts_and_columns(tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "one": {"caption": "a shoe", "price": 3, "name": "other", "image": "x", "tags": ["x"]},
        "two": {"texts": ["red", "shoe"], "title": "Red shoe"},
        "three": ["no object"],
    }
    for name, value in said.items():
        (tmp_path / f"{name}.png").touch()
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    (tmp_path / "one.TXT").write_text("first\n")
    columns = ColumnsConfig(texts=["title"], keep={"price": "int64", "name": "string"})
    one, three, two = read_source(FolderSource(path=tmp_path, where="price = 3 or name = 'two'"), columns)
    assert isinstance(one, SourceRow)
    assert (one.texts, one.metadata) == (("first", "a shoe"), {"price": 3, "name": "one"})
    assert isinstance(two, SourceRow)
    assert two.texts == ("red", "shoe", "Red shoe")
    assert isinstance(three, RejectedRow)
    assert three.reason == "malformed-row"
    (tmp_path / "one.json").write_text(json.dumps(said["one"] | {"price": 4}))
    assert reasons(FolderSource(path=tmp_path, where="price = 3 or name = 'two'"), columns) == {
        "where:": ("filtered", "where"),
        "not": ("quarantined", "malformed-row"),
    }


def test_texts_can_come_from_the_names_of_images_or_of_their_folders(tmp_path: Path) -> None:
    (tmp_path / "ankle_boots" / "leather-boots").mkdir(parents=True)
    for name in ("top_level.png", "ankle_boots/red__ankle-boot 01.png", "ankle_boots/leather-boots/x.png"):
        (tmp_path / name).touch()
    (tmp_path / "top_level.txt").write_text("not asked for")
    assert outcomes(FolderSource(path=tmp_path, text_from="name")) == ["top level", "red ankle boot 01", "x"]
    assert outcomes(FolderSource(path=tmp_path, text_from="folder")) == ["text-empty", "ankle boots", "leather boots"]


def test_sidecars_are_found_however_their_names_write_accents_and_read_in_their_encoding(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "café.png")).touch()
    (tmp_path / unicodedata.normalize("NFC", "café.txt")).write_bytes("un café".encode("utf-16"))
    assert outcomes(FolderSource(path=tmp_path, encoding="utf-16")) == ["un café"]
    (row,) = read_source(FolderSource(path=tmp_path), ColumnsConfig())
    assert isinstance(row, RejectedRow)
    assert row.message.endswith("name its encoding, such as `encoding: utf-16`")


def test_cells_are_typed_as_pandas_and_spreadsheets_write_them(folder: Path) -> None:
    absent = ["", "nan", "NaN", "NA", "N/A", "null", "None", "-", "inf", "-inf", " ", "<NA>", "1e999"]
    lines = ["image,text,i,f,b,t,s"]
    lines += [f"a.png,t,{cell},{cell},{cell},{cell},{cell}" for cell in absent if cell != "1e999"] + [
        "a.png,t,,1e999,,,"
    ]
    bad_cells: Counter[str] = Counter()
    columns = ColumnsConfig(keep={"i": "int64", "f": "float64", "b": "bool", "t": "timestamp", "s": "string"})
    rows = list(read_source(csv(folder, "\n".join(lines).encode()), columns, bad_cells=bad_cells))
    assert not bad_cells
    for row, cell in zip(rows, absent, strict=True):
        assert isinstance(row, SourceRow)
        text = None if cell in ("", "1e999") else cell
        assert row.metadata == {"i": None, "f": None, "b": None, "t": None, "s": text}
    good = only_row(csv(folder, b"image,text,i,f,b,t,s\na.png,t,3.0,-.5,0.0,2026-01-02,1.0\n"), columns)
    assert good.metadata == {"i": 3, "f": -0.5, "b": False, "t": datetime(2026, 1, 2, tzinfo=UTC), "s": "1.0"}
    nested = {"image": "a.png", "text": "t", "s": {"a": ["é"]}, "l": [{"b": 1}], "i": 2.0, "b": 1.0, "t": "", "f": ""}
    columns = ColumnsConfig(keep={**columns.keep, "l": "list<string>"})
    assert only_row(jsonl(folder, [nested]), columns).metadata == {
        **{"i": 2, "f": None, "b": True, "t": None, "s": '{"a": ["é"]}', "l": ['{"b": 1}']}
    }


def test_one_odd_cell_costs_where_its_row_alone(folder: Path) -> None:
    lines = [
        "image,text,price",
        *(f"a.png,{n},{n}" for n in range(5)),
        "a.png,missing,N/A",
        "a.png,odd,dear",
        "a.png,9,9",
    ]
    source = csv(folder, "\n".join(lines).encode()).model_copy(update={"where": "price > 2"})
    assert outcomes(source) == ["where", "where", "where", "3", "4", "where", "where-undecided", "9"]
    (odd,) = [row for row in read_source(source, ColumnsConfig()) if row.number == 8]
    assert isinstance(odd, RejectedRow)
    assert odd.message == "where: price is 'dear', no int64"
    either = source.model_copy(update={"where": "price > 2 or text = 'odd'"})
    assert outcomes(either) == ["where", "where", "where", "3", "4", "where", "odd", "9"]
    other = source.model_copy(update={"where": "text <> '4'"})
    assert Counter(outcomes(other))["where-undecided"] == 0


def test_a_kept_columns_type_is_its_type_in_where(folder: Path) -> None:
    lines = [{"image": "a.png", "text": text, "cost": text} for text in ("dear", "cheap", "12", "1")]
    source = jsonl(folder, list(lines)).model_copy(update={"where": "cost > 2"})
    columns = ColumnsConfig(keep={"price": KeptColumn(column="cost", type="float64")})
    assert outcomes(source, columns) == ["where-undecided", "where-undecided", "12", "where"]
    with pytest.raises(UnreadableSourceError, match="cannot be asked"):
        read_source(source, ColumnsConfig())


def test_a_row_that_an_expression_has_no_answer_for_is_quarantined_alone(folder: Path) -> None:
    codes = ("x-1", "x-20", "nothing", None, "x-7")
    source = jsonl(folder, [{"image": "a.png", "text": str(code), "code": code} for code in codes])
    where = "CAST(split_part(code, '-', 2) AS INTEGER) > 5 -- the number"
    found = outcomes(source.model_copy(update={"where": where}))
    assert found == ["where", "x-20", "where-undecided", "where", "x-7"]
    nothing = source.model_copy(update={"where": "code > 5) or (true"})
    with pytest.raises(UnreadableSourceError, match="cannot be asked: Parser Error"):
        read_source(nothing, ColumnsConfig())


def test_images_are_found_however_their_names_are_written(folder: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (folder / decomposed).mkdir()
    for name in (f"{composed}.png", f"{decomposed}/{decomposed}.png", f"{decomposed}/{composed}.jpg"):
        (folder / name).touch()
    written = [
        f"{decomposed}.png",
        f"{composed}/{composed}.png",
        f"{decomposed}\\{decomposed}.jpg",
        "shop\\a.png",
        "a.png",
    ]
    rows = list(read_source(jsonl(folder, [{"image": path, "text": "t"} for path in written]), ColumnsConfig()))
    found = [row.image.origin if isinstance(row, SourceRow) else row.reason for row in rows]
    assert found == [
        folder / f"{composed}.png",
        folder / decomposed / f"{decomposed}.png",
        folder / decomposed / f"{composed}.jpg",
        "image-not-found",
        folder / "a.png",
    ]
    outside = jsonl(folder, [{"image": "..\\..\\etc\\passwd", "text": "t"}])
    assert outcomes(outside) == ["image-not-found"]
