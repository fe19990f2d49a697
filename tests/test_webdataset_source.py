"""Tar shards as a source: what the webdataset library and img2dataset wrote, and archives that mean harm."""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset
from pictures import image_bytes, outcomes, picture, pictures, read_rows, rejections

from pairloom.storage.images.location import FileSlice
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import WebDatasetSource
from pairloom.storage.sources.raw_row import MAX_LINE
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import SourceRow
from pairloom.storage.sources.webdataset import webdataset_rows

SECRET = picture(200)


def member(name: str, content: bytes = b"", **fields: Any) -> bytes:
    """One member as tarfile writes it, with some header fields of one's own."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + padded(content)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def sample(key: str, number: int, text: str = "") -> bytes:
    return member(f"{key}.png", picture(number)) + member(f"{key}.txt", (text or key).encode())


END = bytes(1024)


def archive(path: Path, *members: bytes, end: bytes = END) -> WebDatasetSource:
    path.write_bytes(b"".join(members) + end)
    return WebDatasetSource(path=path)


def patched(header: bytes, at: int, value: bytes) -> bytes:
    """A header with other bytes and a sum that fits them."""
    block = bytearray(header[:512])
    block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + header[512:]


def pax(*records: tuple[bytes, bytes], length: bytes | None = None, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An additional header."""
    content = b""
    for key, value in records:
        size = len(key) + len(value) + 3
        while size != len(str(size)) + len(key) + len(value) + 3:
            size = len(str(size)) + len(key) + len(value) + 3
        content += (length or str(size).encode()) + b" " + key + b"=" + value + b"\n"
    return member("./PaxHeaders/x", content, type=kind)


def test_what_the_webdataset_library_writes_is_read_row_for_row(tmp_path: Path) -> None:
    contents = pictures(25)
    with webdataset.ShardWriter(str(tmp_path / "shard-%03d.tar"), maxcount=10, verbose=0) as writer:
        for number, content in enumerate(contents):
            suffix = "jpg" if content.startswith(b"\xff\xd8") else "png"
            named = {"__key__": f"folder/{number:04d}", suffix: content, "cls": number % 3}
            writer.write({**named, "txt": f"caption {number} é", "json": {"price": number / 2, "tags": ["a", "b"]}})
    columns = ColumnsConfig(id="__key__", keep={"cls": "int64", "price": "float64", "tags": "list<string>"})
    rows = read_rows(WebDatasetSource(path=tmp_path), columns)
    assert [image_bytes(row) for row in rows] == contents
    for number, row in enumerate(rows):
        assert row.item_id == f"folder/{number:04d}"
        assert row.texts == (f"caption {number} é",)
        assert row.metadata == {"cls": number % 3, "price": number / 2, "tags": ["a", "b"]}
        assert row.number == number + 1
        assert isinstance(row.image.origin, FileSlice)
        assert row.image.length == len(contents[number])
    assert rows[10].image_path.startswith("shard-001.tar/folder/0010.")
    theirs = list(webdataset.WebDataset(str(tmp_path / "shard-001.tar"), shardshuffle=False))
    assert [row.item_id for row in rows[10:20]] == [each["__key__"] for each in theirs]
    filtered = WebDatasetSource(path=tmp_path, where="cls = 1 AND price > 10")
    assert [row for row in outcomes(filtered, columns) if row != "where"] == ["caption 22 é"]


def test_what_img2dataset_writes_is_read_row_for_row(tmp_path: Path) -> None:
    """As img2dataset 1.47.0's WebDatasetSampleWriter does: failed downloads stand in the sibling table alone."""
    contents = pictures(6)
    with webdataset.TarWriter(str(tmp_path / "00000.tar")) as writer:
        for number, content in enumerate(contents):
            told = {"url": f"http://example.com/{number}", "key": f"{number:09d}", "status": "success", "width": 8}
            named = {"__key__": f"{number:09d}", "jpg": content, "txt": f"caption {number}"}
            writer.write({**named, "json": json.dumps({**told, "caption": f"caption {number}"}, indent=4)})
    (tmp_path / "00000.parquet").write_bytes(b"no tar")
    (tmp_path / "00000_stats.json").write_text("{}")
    rows = read_rows(WebDatasetSource(path=tmp_path), ColumnsConfig(id="key", keep={"url": "string"}))
    assert [image_bytes(row) for row in rows] == contents
    assert [row.item_id for row in rows] == [f"{number:09d}" for number in range(6)]
    assert rows[5].metadata == {"url": "http://example.com/5"}
    assert [row.texts for row in rows] == [(f"caption {number}",) for number in range(6)]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_form_of_long_names_is_read(tmp_path: Path, form: int) -> None:
    names = [f"{'folder' * 15}/{'x' * 60}{number}" for number in range(3)]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        tar.addfile(tarfile.TarInfo("./"))
        for number, name in enumerate(names):
            for suffix, content in (("PNG", picture(number)), ("txt", f"text {number}".encode())):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    rows = read_rows(WebDatasetSource(path=tmp_path / "a.tar"), ColumnsConfig(id="__key__"))
    assert [(row.item_id, image_bytes(row)) for row in rows] == [(names[each], picture(each)) for each in range(3)]


def test_the_image_column_may_name_one_of_several_images(tmp_path: Path) -> None:
    members = [member("a.jpg", picture(1)), member("a.seg.png", picture(2)), member("a.txt", b"a")]
    source = archive(tmp_path / "a.tar", *members)
    assert image_bytes(*read_rows(source)) == picture(1)
    assert image_bytes(*read_rows(source, ColumnsConfig(image="seg.png"))) == picture(2)


def test_a_sample_without_an_image_may_name_one(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(picture(3))
    source = archive(
        tmp_path / "a.tar",
        member("a.json", b'{"image": "b.png", "text": "a"}'),
        member("b.txt", b"no image"),
        member("b.npy", b"array"),
    )
    assert outcomes(source) == ["a", "image-missing"]
    assert "none of the members of b is an image: txt, npy" in rejections(source)[0].message


def test_bad_texts_cost_their_own_samples(tmp_path: Path) -> None:
    bad = [
        member("a.json", b"{"),
        member("b.txt", b"caf\xe9"),
        member("c.json", b"[" * 100_000),
        member("d.json", b'{"a": "\\ud83d"}'),
        member("e.txt", b"x" * (MAX_LINE + 1)),
        member("f.png", picture(1)) + member("f.PNG", picture(2)) + member("f.txt", b"twice"),
        b"".join(member(f"g.{number}", b"") for number in range(300)),
    ]
    good = [sample(f"good{number}", number) for number in range(len(bad))]
    members = [each for pair in zip(bad, good, strict=True) for each in pair]
    source = archive(tmp_path / "a.tar", *members)
    expected = [each for number in range(len(bad)) for each in ("malformed-row", f"good{number}")]
    assert outcomes(source) == expected


def test_a_byte_order_mark_and_lists_are_read(tmp_path: Path) -> None:
    members = [member("a.png", picture(1)), member("a.txt", "\ufeffa".encode()), member("a.json", b"[1, NaN]")]
    (row,) = webdataset_rows(archive(tmp_path / "a.tar", *members).paths[0], "image")
    assert row.values() == {"text": "a", "json": [1, None], "__key__": "a", "image": "a.tar/a.png"}


def test_hidden_files_and_notes_are_no_samples(tmp_path: Path) -> None:
    members = [member("._a.png", b"x"), member("README", b"x"), member("__meta__/a.png", b"x"), sample("d/a", 1)]
    assert outcomes(archive(tmp_path / "a.tar", *members, member("d/._a.txt", b"x"))) == ["d/a"]


# What does harm, by what becomes of the samples a (good), x (harmful) and b (good).
HARMFUL: dict[str, Callable[[Path], bytes]] = {
    "absolute name": lambda outside: member(f"{outside}/x.png", picture(1)) + member(f"{outside}/x.txt", b"x"),
    "parent": lambda _: member("../x.png", picture(1)) + member("../x.txt", b"x"),
    "parent inside": lambda _: member("d/../../x.png", picture(1)),
    "symbolic link outside": lambda outside: member("x.png", type=tarfile.SYMTYPE, linkname=f"{outside}/secret.png"),
    "symbolic link to a parent": lambda _: member("x.png", type=tarfile.SYMTYPE, linkname="../outside/secret.png"),
    "symbolic link to a member": lambda _: member("x.png", type=tarfile.SYMTYPE, linkname="a.png"),
    "hard link outside": lambda outside: member("x.png", type=tarfile.LNKTYPE, linkname=f"{outside}/secret.png"),
    "hard link to a member": lambda _: member("x.png", type=tarfile.LNKTYPE, linkname="a.png"),
    "text that is a link": lambda outside: (
        member("x.png", picture(1)) + member("x.txt", type=tarfile.SYMTYPE, linkname=f"{outside}/secret.txt")
    ),
    "link that claims bytes": lambda outside: patched(
        member("x.png", type=tarfile.SYMTYPE, linkname=f"{outside}/secret.png"), 124, b"00000077777\0"
    ),
    "character device": lambda _: member("x.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block device": lambda _: member("x.png", type=tarfile.BLKTYPE),
    "pipe": lambda _: member("x.png", type=tarfile.FIFOTYPE),
    "unknown kind": lambda _: member("x.png", picture(1), type=b"Z"),
    "old sparse file": lambda _: patched(member("x.png", picture(1)), 156, b"S"),
    "old sparse file with more": lambda _: (
        patched(patched(member("x.png", picture(1)), 156, b"S"), 482, b"\1")[:512] + bytes(512) + padded(picture(1))
    ),
    "sparse file": lambda _: pax((b"GNU.sparse.realsize", b"99999999999")) + member("x.png", picture(1)),
    "added size beyond the file": lambda _: pax((b"size", b"9" * 15)) + member("x.png", picture(1)),
    "added negative size": lambda _: pax((b"size", b"-512")) + member("x.png", picture(1)),
    "added size that is no number": lambda _: pax((b"size", b"1_0")) + member("x.png", picture(1)),
    "record that claims more than there is": lambda _: (
        pax((b"path", b"x.png"), length=b"99999") + member("x.png", picture(1))
    ),
    "record of no length": lambda _: pax((b"path", b"x.png"), length=b"0") + member("x.png", picture(1)),
    "added header beyond the file": lambda _: patched(pax((b"a", b"b")), 124, b"77777777777\0") + member("x.png", b""),
    "added header of 2 MiB": lambda _: pax((b"a", b"b" * 2**21)) + member("x.png", picture(1)),
    "size beyond the file": lambda _: patched(member("x.png", picture(1)), 124, b"77777777777\0"),
    "size of 2 ** 88": lambda _: patched(member("x.png", picture(1)), 124, b"\x80\x7f" + b"\xff" * 10),
    "negative size": lambda _: patched(member("x.png", picture(1)), 124, b"\xff" * 11 + b"\x00"),
    "size with a sign": lambda _: patched(member("x.png", picture(1)), 124, b"-0000001000\0"),
    "long name of 100 KB": lambda _: (
        member("././@LongLink", b"x" * 100_000 + b".png\0", type=tarfile.GNUTYPE_LONGNAME) + member("x.png", picture(1))
    ),
    "long name that leads out": lambda _: (
        member("././@LongLink", b"../../x.png\0", type=tarfile.GNUTYPE_LONGNAME) + member("x.png", picture(1))
    ),
    "added name that leads out": lambda _: pax((b"path", b"../../x.png")) + member("x.png", picture(1)),
    "name with NUL": lambda _: pax((b"path", b"x\0y.png")) + member("x.png", picture(1)),
    "name with a newline": lambda _: member("x\ny.png", picture(1)) + member("x\ny.txt", b"x"),
    "name with an escape": lambda _: member("x\x1b[2Jy.png", picture(1)),
    "name that is not UTF-8": lambda _: member("x\udcff.png", picture(1)),
    "name twice": lambda _: member("x.png", picture(1)) + member("x.png", picture(2)) + member("x.txt", b"x"),
    "damaged header": lambda _: bytes(100) + member("x.png", picture(1))[100:],
    "damaged sum": lambda _: b"y" + member("x.png", picture(1))[1:],
}


@pytest.mark.parametrize("harm", HARMFUL)
def test_a_harmful_member_reaches_nothing_and_costs_its_own_sample(tmp_path: Path, harm: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(SECRET)
    (outside / "secret.txt").write_text("secret")
    (tmp_path / "shards").mkdir()
    source = archive(tmp_path / "shards" / "a.tar", sample("a", 1), HARMFUL[harm](outside), sample("b", 2))
    before = sorted(tmp_path.rglob("*"))
    rows = list(read_source(source, ColumnsConfig()))
    good = [row for row in rows if isinstance(row, SourceRow)]
    assert [row.texts for row in good] == [("a",), ("b",)]
    assert len(rows) == 3
    for row in good:
        part = row.image.origin
        assert isinstance(part, FileSlice)
        assert part.path == source.paths[0]
        assert 0 <= part.offset <= part.offset + part.length <= source.paths[0].stat().st_size
    assert [image_bytes(row) for row in good] == [picture(1), picture(2)]
    assert [row.reason for row in rejections(source)] == ["malformed-row"]
    assert rejections(source)[0].message.isprintable()
    assert sorted(tmp_path.rglob("*")) == before, "nothing is extracted"


@pytest.mark.parametrize(
    ("cut", "lost"),
    [
        (100, ["malformed-row"]),
        (512, ["malformed-row"]),
        (1024, ["text-empty"]),
        (1324, ["malformed-row", "text-empty"]),
    ],
)
def test_a_truncated_archive_keeps_what_is_whole(tmp_path: Path, cut: int, lost: list[str]) -> None:
    whole = sample("a", 1) + sample("b", 2)
    source = archive(tmp_path / "a.tar", whole + sample("c", 3)[:cut], end=b"")
    assert sorted(outcomes(source)) == ["a", "b", *lost]


def test_an_archive_may_lack_its_end(tmp_path: Path) -> None:
    assert outcomes(archive(tmp_path / "a.tar", sample("a", 1), end=b"")) == ["a"]


def test_archives_that_were_joined_and_zeroed_headers_are_told(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.tar", sample("a", 1), END, sample("b", 2))
    assert sorted(outcomes(source)) == ["a", "b", "malformed-row"]
    assert "seems to end at byte 2048: 1024 bytes behind" in rejections(source)[0].message
    source = archive(tmp_path / "a.tar", sample("a", 1), bytes(512) + sample("b", 2)[512:], sample("c", 3))
    assert sorted(outcomes(source)) == ["a", "c", "image-missing", "malformed-row"]
    source = archive(tmp_path / "a.tar", sample("a", 1), END, b"notes")
    assert sorted(outcomes(source)) == ["a", "malformed-row"]


def compressed(content: bytes) -> bytes:
    return gzip.compress(content)


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.png", content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.tar.gz", compressed(sample("a", 1) + END), "it is compressed with gzip"),
        ("a.tar", compressed(sample("a", 1) + END), "it is compressed with gzip"),
        ("a.tgz", b"BZh91AY", "it is compressed with bzip2"),
        ("a.tar", zipped(picture(1)), "it is no tar archive"),
        ("a.tar", b"", "it is empty"),
        ("a.tar", picture(1), "it is no tar archive"),
        ("a.tar", os.urandom(5_000), "it is no tar archive"),
    ],
)
def test_a_file_that_is_no_tar_is_one_line(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"source .*: .*{name} can't be read: {problem}[^\n]*$"):
        outcomes(WebDatasetSource(path=tmp_path / name))
    archive(tmp_path / "b.tar", sample("b", 2))
    source = WebDatasetSource(path=tmp_path)
    assert outcomes(source) == ["malformed-row", "b"]
    assert rejections(source)[0].message.startswith(f"{name}: {problem}")
    with pytest.raises(ValueError, match="there is no tar shard"):
        outcomes(WebDatasetSource(path=tmp_path / "nothing"))


COUNT_ROWS = """
import sys, tracemalloc
from pathlib import Path
from pairloom.storage.sources.webdataset import webdataset_rows
tracemalloc.start()
count = sum(1 for _ in webdataset_rows(Path(sys.argv[1]), "image"))
print(count, tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_members_or_claims(tmp_path: Path) -> None:
    header, text = member("000000.png"), padded(b"x")
    with (tmp_path / "a.tar").open("wb") as file:
        for number in range(30_000):
            file.write(patched(header, 0, b"%06d" % number))
        # A name of almost the whole file, and one of 8 GiB.
        file.write(patched(member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME), 124, b"00077777777\0"))
        file.write(text * 200)
    # In a process of its own: threads that other tests have left here use memory as well.
    done = subprocess.run([sys.executable, "-c", COUNT_ROWS, str(tmp_path / "a.tar")], capture_output=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert 30_000 <= count <= 30_002
    assert peak < 8 * 2**20


def test_a_shard_with_another_content_has_other_images(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.tar", sample("a", 1), sample("b", 2))
    first = read_rows(source)
    again = read_rows(source)
    assert [row.fingerprint for row in first] == [row.fingerprint for row in again]
    archive(tmp_path / "a.tar", sample("a", 1), sample("b", 2, "longer"), sample("c", 3))
    assert {row.fingerprint for row in first}.isdisjoint(row.fingerprint for row in read_rows(source))


def test_sums_of_signed_bytes_are_accepted(tmp_path: Path) -> None:
    block = bytearray(member("x.png", picture(1))[:512])
    block[0:6] = "é.png".encode()
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(struct.unpack("512b", block))
    source = archive(tmp_path / "a.tar", bytes(block) + padded(picture(1)), member("é.txt", b"a"))
    assert [image_bytes(row) for row in read_rows(source)] == [picture(1)]
