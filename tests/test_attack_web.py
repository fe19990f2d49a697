"""Attacks on `pairloom web`: each gets the right status and one clear line, and nothing of our insides."""

import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from released_pipeline import NAMES, publish
from starlette.testclient import TestClient

from pairloom.search.sql.limits import Limits
from pairloom.search.web import answers, limits, ranking, statements
from pairloom.search.web.app import create_app
from pairloom.search.web.config import WebConfig
from pairloom.search.web.service import Service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "fruits"
    publish(folder, names=NAMES[:20])
    return folder


def started(folder: Path, **changes: Any) -> TestClient:
    app = create_app(Service(folder, WebConfig(**{"seconds": 240, **changes})))
    return TestClient(app, "http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with started(folder, max_upload=100_000) as client:
        yield client


def refused(answer: Any, *statuses: int) -> str:
    """The one line that a refusal says."""
    assert answer.status_code in statuses, answer.text
    said = answer.json()
    assert list(said) == ["error"]
    line: str = said["error"]
    assert line
    assert "\n" not in line
    assert "Traceback" not in line
    assert ".py" not in line
    assert len(line) <= 1_001
    return line


STATEMENTS = [
    "DROP TABLE items",
    "SELECT 1; SELECT 2",
    "COPY items TO '/tmp/taken.csv'",
    "ATTACH '/tmp/other.db'",
    "INSTALL httpfs",
    "SET memory_limit = '64GB'",
    "PRAGMA database_list",
    "CREATE TABLE taken AS SELECT * FROM items",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
    "SELECT getenv('HOME')",
    "SELECT * FROM search_image('/etc/passwd')",
    "SELECT embed_image('http://127.0.0.1:1/x.png')",
    "SELECT nothing FROM nowhere",
    "SELECT '<script>alert(1)</script>' FROM",
    "\0",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_hostile_statements_are_refused_in_one_line(client: TestClient, statement: str) -> None:
    for path in ("/api/sql", "/api/sql/file"):
        answer = client.get(path, params={"statement": statement})
        said = answer.json()
        assert answer.status_code == 400
        assert {*said} <= {"error", "line", "column"}
        assert "\n" not in said["error"]
        assert "Traceback" not in said["error"]
        assert "root:" not in answer.text


def test_a_statement_without_end_is_ended_and_one_too_large_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "ANSWER", Limits(rows=5_000, bytes=2**20))
    with started(folder, seconds=2.5) as client:
        endless = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"
        refused(client.get("/api/sql", params={"statement": endless}), 504)
    with started(folder) as client:
        many = "SELECT * FROM range(20_000)"
        assert "more than 5000 rows" in refused(client.get("/api/sql/file", params={"statement": many}), 400)
        shown = client.get("/api/sql", params={"statement": many, "limit": 7}).json()
        assert (len(shown["rows"]), shown["more"]) == (7, True)
        refused(client.get("/api/sql", params={"statement": "SELECT 1", "limit": 10_000}), 422)
        refused(client.get("/api/sql", params={"statement": "SELECT " + "1+" * 3_500 + "1"}), 414, 422)
        refused(client.get("/api/sql/file", params={"statement": "SELECT 1", "format": "exe"}), 422)


FILTERED = ["/api/search?text=fig", "/api/search", "/api/facets"]
WHERES = [
    "no_such_column = 1",
    "price <",
    "1 = 1; DROP TABLE items",
    "price > (SELECT 1)",
    "subgroup = 'a' -- ",
    "read_text('/etc/passwd') = ''",
    "repeat('a', 1000000000) = ''",
    "(" * 300 + "price" + ")" * 299,
    "price = 1" + " + 1" * 400,
    "\x00",
    "'",
]


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("path", FILTERED)
def test_a_condition_that_is_none_is_refused(client: TestClient, path: str, where: str) -> None:
    refused(client.get(path, params={"where": where}), 400)


QUESTIONS = [
    "f.no_such=1",
    "f.image_vector=1",
    "f.=1",
    "f.price=abc",
    "f.price=nan..",
    "f.price=1..inf",
    "f.width=1e400..",
    "f.seen=yesterday..",
    "f.seen=2026-11-01..' OR 1=1",
    "f.price=" + "9" * 3_000,
    "&".join(f"f.subgroup={at}" for at in range(50)),
    "text=%20&plus=%20",
    "minus=red",
    "text=fig&offset=10000",
    "text=fig&offset=-1",
    "text=fig&k=0",
    "text=fig&k=61",
    "text=fig&k=x",
    "text=" + "a" * 1_001,
    "&".join(f"plus={at}" for at in range(30)),
    "text=fig&release=0",
    "text=fig&release=99999999999999999999",
]


@pytest.mark.parametrize("query", QUESTIONS)
def test_a_question_that_is_none_is_refused(client: TestClient, query: str) -> None:
    refused(client.get(f"/api/search?{query}"), 400, 422)


ABSENT = [
    "/api/search?like=no%20such",
    "/api/search?image=0123",
    "/api/search?image=../../etc/passwd",
    "/api/search?text=a&release=77",
    "/api/items/no",
    "/api/items/..%2f..%2fetc%2fpasswd",
    "/api/nothing",
    "/static/../../config.py",
    "/static/%2e%2e/%2e%2e/config.py",
    "/static//etc/passwd",
    "/pictures/1-0/0.webp",
    "/pictures/..%2f..%2fx-1/0.webp",
    "/pictures/99999999999-a/0.webp",
    "/pictures/uploads/..%2fx.webp",
    "/pictures/rejected/1/image_not_found/0.webp",
    "/.env",
    "/%00",
]


@pytest.mark.parametrize("path", ABSENT)
def test_what_is_not_there_is_not_found(client: TestClient, path: str) -> None:
    refused(client.get(path), 400, 404)


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 40,000 × 40,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    packed = zlib.compress(b"\0" * 5_001)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


FORMS = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
HOSTS = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1]evil")
UPLOADS = {
    "empty": b"",
    "text": b"no picture at all",
    "page": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "cut": b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
    "address": b"http://127.0.0.1:1/secret.png",
    "file": b"/etc/passwd",
}


@pytest.mark.parametrize("content", UPLOADS.values(), ids=UPLOADS)
def test_an_upload_that_is_no_picture_is_refused(client: TestClient, content: bytes) -> None:
    refused(client.post("/api/images", content=content, headers={"Content-Type": "image/png"}), 400)


def test_an_upload_that_promises_too_many_pixels_is_refused(folder: Path) -> None:
    with started(folder) as client:
        said = refused(client.post("/api/images", content=bomb(), headers={"Content-Type": "image/png"}), 400)
    assert "pixels" in said


def test_a_huge_upload_is_refused_by_its_header_and_by_its_length(client: TestClient) -> None:
    headers = {"Content-Type": "image/png"}
    refused(client.post("/api/images", content=b"\0" * 100_001, headers=headers), 413)
    blocks = (b"\0" * 10_000 for _ in range(20))
    refused(client.post("/api/images", content=blocks, headers=headers), 413)


def test_a_form_of_another_site_can_not_upload(client: TestClient) -> None:
    for kind in FORMS:
        refused(client.post("/api/images", content=b"x", headers={"Content-Type": kind}), 400)


def test_another_name_for_this_machine_is_refused(client: TestClient) -> None:
    for host in HOSTS:
        refused(client.get("/api/search?text=fig", headers={"Host": host}), 421)
    for host in ("localhost:8600", "127.0.0.1", "[::1]:8600"):
        assert client.get("/health", headers={"Host": host}).status_code == 200


def test_a_long_address_and_another_method_are_refused(client: TestClient) -> None:
    refused(client.get("/api/search?text=" + "a" * 9_000), 414)
    refused(client.post("/api/search"), 405)
    refused(client.delete("/api/items/red apple"), 405)


def test_who_asks_too_often_is_told_to_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Six at once, and the seventh a day later.
    monkeypatch.setattr(limits, "_BURST_SECONDS", 6 * 86_400)
    with started(folder, rate=1 / 86_400) as client:
        statuses = [client.get("/health").status_code for _ in range(7)]
    assert statuses == [200] * 6 + [429]


def test_an_answer_that_takes_too_long_is_told_off_while_it_is_still_worked_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    rank = ranking.rank

    def slow(*asked: Any) -> Any:
        released.wait()
        return rank(*asked)

    monkeypatch.setattr(answers, "rank", slow)
    with started(folder, seconds=0.3) as client:
        assert "0.3 seconds" in refused(client.get("/api/search?text=a slow fig"), 504)
        released.set()


def test_a_fault_of_ours_tells_nothing_of_our_insides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("/secret/path")

    monkeypatch.setattr(answers, "rank", broken)
    with started(folder) as client:
        assert "secret" not in refused(client.get("/api/search?text=a broken fig"), 500)


def test_no_answer_names_an_address_elsewhere_and_each_forbids_them(client: TestClient) -> None:
    for path in ("/", "/api/search?text=fig", "/static/app.js", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
    static = Path(answers.__file__).parent / "static"
    for file in static.glob("*.*"):
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, file
        assert "https://" not in text, file
        assert "innerHTML" not in text, file
