import contextlib
import json
import threading
from pathlib import Path

import pytest

from pairloom.storage.files import DamagedError, FileDigest, make_writable, put_if_absent, written_aside
from pairloom.storage.records import Record, RecordLog, StaleWriterError


class Note(Record, frozen=True):
    text: str


def log(folder: Path) -> RecordLog[Note]:
    return RecordLog(folder, "note", Note)


def note(number: int, text: str = "", **files: FileDigest) -> Note:
    return Note(number=number, files=files, text=text)


def test_current_is_the_highest_record(tmp_path: Path) -> None:
    notes = log(tmp_path)
    assert notes.current() is None
    notes.publish(note(1, "a"))
    notes.publish(note(2, "b"))
    assert notes.current() == note(2, "b")
    assert [each.number for each in notes.newest_first()] == [2, 1]


def test_a_number_is_published_once_however_many_try(tmp_path: Path) -> None:
    notes, won = log(tmp_path), []
    barrier = threading.Barrier(8)

    def publish(text: str) -> None:
        barrier.wait()
        try:
            notes.publish(note(1, text))
            won.append(text)
        except StaleWriterError:
            pass

    threads = [threading.Thread(target=publish, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert notes.read(1).text == won[0]
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["000001.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"number": 2}', b"\xff\xfe"])
def test_a_damaged_record_is_skipped_and_its_number_is_not_reused(tmp_path: Path, content: bytes) -> None:
    notes = log(tmp_path)
    notes.publish(note(1, "whole"))
    (tmp_path / "notes" / "000002.json").write_bytes(content)
    assert notes.current() == note(1, "whole")
    assert notes.next_number() == 3
    with pytest.raises(DamagedError, match="damaged"):
        notes.read(2)


def test_a_record_whose_text_was_edited_is_refused(tmp_path: Path) -> None:
    notes = log(tmp_path)
    notes.publish(note(1, "true"))
    path = tmp_path / "notes" / "000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text": "false"}))
    with pytest.raises(DamagedError, match="does not match its digest"):
        notes.read(1)


def test_a_record_that_names_a_missing_or_cut_file_is_not_whole(tmp_path: Path) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(b"twelve bytes")
    notes = log(tmp_path)
    notes.publish(note(1, "", **{"data.bin": FileDigest.of(data)}))
    assert notes.read(1).number == 1
    data.write_bytes(b"twelve")
    with pytest.raises(DamagedError, match="6 bytes"):
        notes.read(1)
    data.unlink()
    assert notes.current() is None


def test_a_record_outlives_a_field_that_is_added_to_its_kind(tmp_path: Path) -> None:
    log(tmp_path).publish(note(1))

    class LongerNote(Note, frozen=True):
        author: str = "nobody"

    longer = RecordLog(tmp_path, "note", LongerNote)
    assert longer.read(1).author == "nobody"
    longer.publish(LongerNote(number=2, files={}, text="", author="somebody"))
    assert longer.read(2).author == "somebody"


def test_reading_an_unknown_number_names_those_there_are(tmp_path: Path) -> None:
    notes = log(tmp_path)
    notes.publish(note(1))
    with pytest.raises(ValueError, match="no note 7: there are 1"):
        notes.read(7)


def test_a_file_written_aside_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with contextlib.suppress(RuntimeError), written_aside(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with written_aside(path) as aside:
        aside.write_text("whole")
    assert path.read_text() == "whole"


def test_put_if_absent_never_overwrites(tmp_path: Path) -> None:
    assert put_if_absent(tmp_path / "file", b"first")
    assert not put_if_absent(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"can't write below .*file/root.*--root"):
        make_writable(tmp_path / "file" / "root")
