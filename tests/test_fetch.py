"""Fetching: what is at an address comes whole and as fast as is polite, and hostile addresses come to nothing."""

import datetime
import gzip
import hashlib
import ipaddress
import random
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child_processes import running, wait_until
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from picture_server import Handler, PictureServer, picture, serving
from pydantic import ValidationError

from pairloom.storage.fetching.answer import Answer, Fetched, Question, Unchanged, Validators
from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.fetching.fetch import fetch
from pairloom.storage.fetching.public import is_public
from pairloom.storage.fetching.turns import Turns
from pairloom.storage.fetching.url import checked
from pairloom.storage.images.stored_image import RejectedImage

PICTURE = picture()
LOCAL = FetchConfig(allow=("127.0.0.1",), attempts=1)
EAGER = LOCAL.model_copy(update={"attempts": 3, "backoff_seconds": 0.0})


@pytest.fixture
def server() -> Iterator[PictureServer]:
    with serving() as server:
        yield server


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Addresses of made-up host names, for a resolver that knows only these; and the names that it was asked for."""
    known: dict[str, list[str]] = {"asked": []}
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *arguments: Any, **options: Any) -> Any:
        if not host[-1].isdigit() and ":" not in host:
            known["asked"].append(host)
            if host not in known:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            kind = socket.AF_INET6, socket.AF_INET
            return [(kind["." in ip], socket.SOCK_STREAM, 6, "", (ip, port)) for ip in known[host]]
        return real(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


def one(address: str, config: FetchConfig = LOCAL, validators: Validators | None = None) -> Answer:
    ((question, answer),) = fetch([Question(address, validators)], config)
    assert question.address == address
    return answer


def rejected(address: str, config: FetchConfig = LOCAL) -> RejectedImage:
    answer = one(address, config)
    assert isinstance(answer, RejectedImage), answer
    return answer


def test_a_picture_comes_with_its_digest_and_validators(server: PictureServer) -> None:
    server.answers["/a.png"] = lambda asked: asked.reply(200, PICTURE, ETag='"7"', Last_Modified="yesterday")
    answer = one(server.at("/a.png#top"))
    assert answer == Fetched(PICTURE, hashlib.sha256(PICTURE).hexdigest(), Validators('"7"', "yesterday"))
    ((path, headers),) = server.asked
    assert path == "/a.png"
    assert headers["User-Agent"] == "Pairloom"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == f"127.0.0.1:{server.server_port}"


def test_what_is_known_is_asked_for_by_its_validators(server: PictureServer) -> None:
    server.answers["/a.png"] = lambda asked: asked.reply(304)
    assert one(server.at("/a.png"), validators=Validators('"7"', "yesterday")) == Unchanged()
    ((_, headers),) = server.asked
    assert (headers["If-None-Match"], headers["If-Modified-Since"]) == ('"7"', "yesterday")
    assert rejected(server.at("/a.png")).reason == "image-not-fetched"


@pytest.mark.parametrize(("status", "may_pass"), [(404, False), (410, False), (403, False), (204, False), (206, False)])
def test_what_is_refused_is_not_tried_again(server: PictureServer, status: int, may_pass: bool) -> None:
    server.answers["/a.png"] = lambda asked: asked.reply(status)
    assert rejected(server.at("/a.png"), EAGER).may_pass == may_pass
    assert server.paths == ["/a.png"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_fails_for_ever_is_tried_a_few_times(server: PictureServer, status: int) -> None:
    server.answers["/a.png"] = lambda asked: asked.reply(status)
    answer = rejected(server.at("/a.png"), EAGER)
    assert answer.reason == "image-not-fetched"
    assert answer.may_pass
    assert server.paths == ["/a.png"] * 3


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "0"}, {"Retry_After": "Thu, 01 Jan 1970 00:00:00 GMT"}])
def test_a_server_that_fails_once_is_asked_again(server: PictureServer, headers: dict[str, str]) -> None:
    refusals = [429, 503]
    server.answers["/a.png"] = lambda asked: (
        asked.reply(refusals.pop(), b"", **headers) if refusals else asked.reply(200, PICTURE)
    )
    assert isinstance(one(server.at("/a.png"), EAGER), Fetched)
    assert server.paths == ["/a.png"] * 3


def test_a_host_that_asks_for_an_hour_is_left_alone(server: PictureServer) -> None:
    for number in range(50):
        server.answers[f"/{number}.png"] = lambda asked: asked.reply(429, Retry_After="3600")
    config = EAGER.model_copy(update={"per_host": 1})
    answers = [answer for _, answer in fetch([Question(server.at(f"/{number}.png")) for number in range(50)], config)]
    assert all(isinstance(answer, RejectedImage) and answer.may_pass for answer in answers)
    assert server.paths == ["/0.png"]


def test_a_host_that_fails_again_and_again_is_left_alone(server: PictureServer) -> None:
    for number in range(50):
        server.answers[f"/{number}.png"] = lambda asked: asked.reply(500)
    config = LOCAL.model_copy(update={"per_host": 1, "give_up_after": 5})
    answers = [answer for _, answer in fetch([Question(server.at(f"/{number}.png")) for number in range(50)], config)]
    assert len(answers) == 50
    assert all(isinstance(answer, RejectedImage) and answer.may_pass for answer in answers)
    assert len(server.asked) == 5


def redirect(to: str, status: int = 302) -> Callable[[Handler], object]:
    return lambda asked: asked.reply(status, b"there", Location=to)


def test_redirects_are_followed_up_to_their_number(server: PictureServer) -> None:
    for number in range(6):
        to = f"/{number + 1}.png"
        status = (301, 302, 303, 307, 308)[number % 5]
        server.answers[f"/{number}.png"] = redirect(to, status)
    server.answers["/6.png"] = PICTURE
    assert isinstance(one(server.at("/1.png")), Fetched)
    assert server.connections == 1
    answer = rejected(server.at("/0.png"))
    assert (answer.reason, answer.may_pass) == ("image-not-fetched", False)
    assert "/6.png" not in server.paths[6:]


def test_a_circle_of_redirects_ends(server: PictureServer) -> None:
    server.answers["/a"] = lambda asked: asked.reply(302, Location="/b")
    server.answers["/b"] = lambda asked: asked.reply(302, Location=server.at("/a"))
    assert not rejected(server.at("/a")).may_pass
    assert len(server.asked) == LOCAL.max_redirects + 1


def drip(asked: Handler) -> None:
    asked.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
    while True:
        asked.wfile.write(b"x")
        time.sleep(0.01)


def drip_headers(asked: Handler) -> None:
    asked.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        asked.wfile.write(b"x")
        time.sleep(0.01)


@pytest.mark.parametrize("answer", [drip, drip_headers])
def test_a_slow_drip_ends_by_the_total_timeout(server: PictureServer, answer: Any) -> None:
    server.answers["/a.png"] = answer
    found = rejected(server.at("/a.png"), LOCAL.model_copy(update={"timeout_seconds": 0.3}))
    assert (found.reason, found.may_pass) == ("image-not-fetched", True)
    assert "took too long" in found.message


def test_silence_ends_by_the_stall_timeout(server: PictureServer) -> None:
    silence = threading.Event()
    server.answers["/a.png"] = lambda _: silence.wait()
    found = rejected(server.at("/a.png"), LOCAL.model_copy(update={"stall_seconds": 0.2}))
    silence.set()
    assert found.may_pass
    assert "took too long" in found.message


@pytest.mark.parametrize("promised", [{"Content_Length": "9000000000"}, {"Content_Length": "1001"}])
def test_what_promises_to_be_too_long_is_not_read(server: PictureServer, promised: dict[str, str]) -> None:
    server.answers["/a.png"] = lambda asked: asked.reply(200, b"x" * 1_001, **promised)
    answer = rejected(server.at("/a.png"), LOCAL.model_copy(update={"max_bytes": 1_000}))
    assert (answer.reason, answer.may_pass) == ("image-too-large", False)


def endless(asked: Handler) -> None:
    asked.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        asked.wfile.write(b"10000\r\n" + bytes(2**16) + b"\r\n")


def endless_without_length(asked: Handler) -> None:
    asked.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        asked.wfile.write(bytes(2**16))


@pytest.mark.parametrize("answer", [endless, endless_without_length])
def test_what_never_ends_is_read_up_to_the_cap(server: PictureServer, answer: Any) -> None:
    server.answers["/a.png"] = answer
    assert rejected(server.at("/a.png"), LOCAL.model_copy(update={"max_bytes": 10**6})).reason == "image-too-large"


def test_exactly_so_many_bytes_are_not_too_many(server: PictureServer) -> None:
    server.answers["/a.png"] = PICTURE
    config = LOCAL.model_copy(update={"max_bytes": len(PICTURE)})
    assert isinstance(one(server.at("/a.png"), config), Fetched)


def test_what_comes_compressed_is_not_unfolded(server: PictureServer) -> None:
    bomb = gzip.compress(bytes(10**7))
    server.answers["/a.png"] = lambda asked: asked.reply(200, bomb, Content_Encoding="gzip")
    assert (answer := rejected(server.at("/a.png"))).reason == "image-not-fetched"
    assert "gzip" in answer.message


def test_a_body_that_is_cut_off_may_come_whole_another_time(server: PictureServer) -> None:
    def cut(asked: Handler) -> None:
        asked.reply(200, PICTURE[:20], Content_Length=str(len(PICTURE)))
        asked.close_connection = True

    server.answers["/a.png"] = cut
    assert rejected(server.at("/a.png")).may_pass


def test_a_length_that_is_too_short_gives_what_it_says(server: PictureServer) -> None:
    server.answers["/a.png"] = lambda asked: asked.reply(200, PICTURE, Content_Length="20")
    answer = one(server.at("/a.png"))
    assert isinstance(answer, Fetched)
    assert answer.content == PICTURE[:20]


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
def test_what_is_no_http_is_a_failure_that_may_pass(server: PictureServer, said: bytes) -> None:
    def answer(asked: Handler) -> None:
        asked.wfile.write(said)
        asked.close_connection = True

    server.answers["/a.png"] = answer
    assert rejected(server.at("/a.png")).may_pass


def test_nobody_listening_is_a_failure_that_may_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = rejected(f"http://127.0.0.1:{port}/a.png")
    assert (answer.reason, answer.may_pass) == ("image-not-fetched", True)


def test_connections_are_used_again_and_a_host_has_few_at_once(server: PictureServer) -> None:
    active, most, lock = 0, 0, threading.Lock()

    def answer(asked: Handler) -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.005)
        with lock:
            active -= 1
        asked.reply(200, PICTURE)

    questions = [Question(server.at(f"/{number}.png")) for number in range(60)]
    server.answers |= {f"/{number}.png": answer for number in range(60)}
    answers = dict(fetch(questions, LOCAL.model_copy(update={"per_host": 3})))
    assert all(isinstance(answers[question], Fetched) for question in questions)
    assert most <= 3
    assert server.connections < 60


def test_proxies_and_passwords_of_the_environment_are_not_used(
    server: PictureServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.at(""))
        monkeypatch.delenv("no_proxy", raising=False)
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        server.answers["/a.png"] = lambda asked: asked.reply(302, Location="/b.png", Set_Cookie="a=b; Path=/")
        server.answers["/b.png"] = PICTURE
        assert isinstance(one(server.at("/a.png")), Fetched)
        assert proxy.asked == []
    for _, headers in server.asked:
        assert {"Authorization", "Cookie", "Proxy-Authorization"}.isdisjoint(headers)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("noai", True),
        ("nofollow, NoImageAI", True),
        ("noindex", True),
        ("pairloom: noai", True),
        ("otherbot: nofollow, pairloom: noindex", True),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST, noai", True),
        ("otherbot: noai", False),
        ("otherbot: nofollow, noindex", False),
        ("nofollow", False),
        ("all", False),
        ("max-image-preview: large", False),
    ],
)
def test_robots_that_are_not_wanted_stay_away(server: PictureServer, said: str, refused: bool) -> None:
    server.answers["/a.png"] = lambda asked: asked.reply(200, PICTURE, X_Robots_Tag=said)
    config = LOCAL.model_copy(update={"user_agent": "Pairloom/1.0 (+mailto:me@example.org)"})
    answer = one(server.at("/a.png"), config)
    assert isinstance(answer, RejectedImage) == refused
    if isinstance(answer, RejectedImage):
        assert (answer.reason, answer.may_pass) == ("robots-refused", False)
    assert isinstance(one(server.at("/a.png"), config.model_copy(update={"robots": ()})), Fetched)


HOSTILE = [
    # Loopback, in every way that some library reads.
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://0x7f.0x0.0x0.0x1:{port}/",
    "http://017700000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://0177.0000.0000.0001:{port}/",
    "http://00000127.0.0.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://127.127.127.127:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::FFFF:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::80ff:fffe]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[::1%25lo]:{port}/",
    "http://１２７.０.０.１:{port}/",
    "http://127。0。0。1:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
    "http://127.0.0.1%00.example.org:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    # Private networks, clouds' own services, names that lead there.
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0xA9FEA9FE/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://192.0.0.192/latest/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://240.0.0.1/",
    "http://198.18.0.1/",
    "http://loopback.example:{port}/",
    "http://both.example:{port}/",
    "http://mapped.example:{port}/",
    "http://nowhere.example:{port}/",
    # Users and other tricks about where the host is.
    "http://user:password@127.0.0.1:{port}/",
    "http://images.example.org@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}@images.example.org/",
    "http://images.example.org:80@127.0.0.1:{port}/",
    "http://images.example.org#@127.0.0.1:{port}/",
    "http://images.example.org?@127.0.0.1:{port}/",
    "http://images.example.org\\@127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "http://",
    "http://:{port}/",
    "//127.0.0.1:{port}/",
    # Ports that are none.
    "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:-1/",
    "http://127.0.0.1:{port}x/",
    "http://127.0.0.1:{port}:{port}/",
    # What would add lines to a request, or end a string early.
    "http://127.0.0.1:{port}/\r\nHost: images.example.org",
    "http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\nGET /",
    "http://127.0.0.1\r\n:{port}/",
    "http://127.0.0.1:{port}/\0.png",
    "http://127.0.0.1:{port}/\t",
    "http://127.0.0.1:{port}/\udc80",
    # Other schemes.
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "ftp://127.0.0.1/a.png",
    "gopher://127.0.0.1:{port}/_GET%20/",
    "data:image/png;base64,iVBORw0KGgo=",
    "jar:http://127.0.0.1:{port}/a.jar!/a.png",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "ldap://127.0.0.1:{port}/",
    "dict://127.0.0.1:{port}/info",
    "javascript:alert(1)",
    "view-source:http://127.0.0.1:{port}/",
    # Hosts that no resolver should see.
    "http://" + "a" * 64 + ".example:{port}/",
    "http://" + "a." * 200 + "example:{port}/",
    "http://" + "a" * 5_000 + "/",
    "http://images..example.org:{port}/",
    "http://.example.org:{port}/",
    "http://ima ges.example.org:{port}/",
    "http://-:{port}/" + "a" * 5_000,
    "",
]


@pytest.fixture
def victim(server: PictureServer, names: dict[str, list[str]]) -> PictureServer:
    """A server in the inner network, with a picture at every path that hostile addresses name."""
    names |= {
        "localhost": ["::1", "127.0.0.1"],
        "loopback.example": ["127.0.0.1"],
        "both.example": ["::1", "10.0.0.1", "127.0.0.1"],
        "mapped.example": ["::ffff:127.0.0.1"],
        "metadata.google.internal": ["169.254.169.254"],
    }
    server.answers = {"/": PICTURE, "/a.png": PICTURE}
    return server


def hostile(victim: PictureServer) -> list[str]:
    return [address.replace("{port}", str(victim.server_port)) for address in HOSTILE]


def test_no_hostile_address_is_asked(victim: PictureServer) -> None:
    config = FetchConfig(ports=(80, 443, victim.server_port), attempts=1, stall_seconds=1)
    answers = dict(fetch([Question(address) for address in hostile(victim)], config))
    assert len(answers) == len(set(HOSTILE)) >= 40
    for question, answer in answers.items():
        assert isinstance(answer, RejectedImage), question
        # A name that is nobody's could be somebody's another night.
        nobody = answer.reason == "image-not-fetched" and "has no address" in answer.message
        assert nobody or (answer.reason, answer.may_pass) == ("address-refused", False), (question, answer)
    assert victim.asked == []
    assert victim.connections == 0


def test_no_redirect_to_a_hostile_address_is_followed(victim: PictureServer, names: dict[str, list[str]]) -> None:
    names["pictures.example"] = ["127.0.0.1"]
    config = FetchConfig(allow=("pictures.example",), ports=(80, 443, victim.server_port), attempts=1, stall_seconds=1)
    with serving() as outside:
        # A header holds no line breaks, and no text but Latin-1.
        to = [each.encode("utf-8", "surrogatepass").decode("latin-1") for each in hostile(victim) if each]
        to = [each for each in to if not {"\r", "\n"} & set(each)]
        assert len(to) >= 40
        for number, each in enumerate(to):
            outside.answers[f"/{number}"] = redirect(each)
        questions = [Question(outside.at(f"/{number}", "pictures.example")) for number in range(len(to))]
        answers = dict(fetch(questions, config))
        assert set(outside.answers) <= set(outside.paths)
    for question, each in zip(questions, to, strict=True):
        assert isinstance(answers[question], RejectedImage), each
    assert victim.asked == []
    assert victim.connections == 0


def test_plain_addresses_are_none_of_them() -> None:
    for address, asked in {
        "HTTP://Images.Example.ORG/A b.png": "http://images.example.org/A%20b.png",
        "https://bücher.example/ü?q=ß": "https://xn--bcher-kva.example/%C3%BC?q=%C3%9F",
        "http://93.184.215.14:8080/a": "http://93.184.215.14:8080/a",
        "http://[2606:2800:21f::1]/a": "http://[2606:2800:21f::1]/a",
        "http://my_host.example:80/a": "http://my_host.example/a",
    }.items():
        assert str(checked(address)) == asked


def test_public_is_what_the_registries_say() -> None:
    for public in ("1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:2800:21f::1", "2a00:1450::1"):
        assert is_public(ipaddress.ip_address(public)), public
    for literal in (
        "192.0.2.1",
        "198.51.100.9",
        "203.0.113.7",
        "2001:db8::1",
        "fc00::1",
        "ff02::1",
        "fec0::1",
        "4000::1",
    ):
        assert not is_public(ipaddress.ip_address(literal)), literal


def test_a_name_is_looked_up_once_and_that_address_is_asked(server: PictureServer, names: dict[str, list[str]]) -> None:
    names["rebound.example"] = ["127.0.0.1"]
    server.answers["/a.png"] = PICTURE
    answer = one(server.at("/a.png", "rebound.example"))
    assert isinstance(answer, Fetched)
    assert names["asked"] == ["rebound.example"]
    assert server.asked[0][1]["Host"] == f"rebound.example:{server.server_port}"


def test_of_several_addresses_those_that_are_allowed_are_asked(
    server: PictureServer, names: dict[str, list[str]]
) -> None:
    names["mixed.example"] = ["10.0.0.1", "127.0.0.1"]
    server.answers["/a.png"] = PICTURE
    assert isinstance(one(server.at("/a.png", "mixed.example")), Fetched)


def test_ports_are_those_of_the_list_except_where_hosts_are_allowed(names: dict[str, list[str]]) -> None:
    names["smtp.example"] = ["93.184.215.14"]
    answer = rejected("http://smtp.example:25/", FetchConfig())
    assert answer.reason == "address-refused"
    assert "fetch.ports" in answer.message


def test_a_certificate_must_be_of_the_name_that_was_asked(
    names: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names |= {"pictures.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    with serving(certified("pictures.example", tmp_path)) as server:
        server.answers["/a.png"] = PICTURE
        assert "certificate" in rejected(server.at("/a.png", "pictures.example")).message
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        assert isinstance(one(server.at("/a.png", "pictures.example")), Fetched)
        assert "other.example" in rejected(server.at("/a.png", "other.example")).message
        assert rejected(server.at("/a.png")).may_pass
    assert server.paths == ["/a.png"]


def certified(name: str, folder: Path) -> ssl.SSLContext:
    """What a server needs to be `name`; `certificate.pem` below `folder` is who says so."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2100, 1, 1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def test_whoever_stops_listening_stops_the_asking(server: PictureServer) -> None:
    server.answers |= {f"/{number}.png": PICTURE for number in range(500)}
    answers = fetch([Question(server.at(f"/{number}.png")) for number in range(500)], LOCAL)
    next(answers)
    answers.close()
    with pytest.raises(StopIteration):
        next(answers)
    wait_until(lambda: all(thread.name != "fetch" for thread in threading.enumerate()))
    assert len(server.asked) < 500


ASK = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts tests in the background has it ignored
from pairloom.storage.fetching.answer import Question
from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.fetching.fetch import fetch
config = FetchConfig(allow=("127.0.0.1",), stall_seconds=600, timeout_seconds=3_600)
list(fetch([Question({address!r})] * 40, config))
"""


def test_an_interrupt_ends_the_wait_for_servers_that_say_nothing(server: PictureServer, tmp_path: Path) -> None:
    silence = threading.Event()
    server.answers["/a.png"] = lambda _: silence.wait()
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": ""}
    code = ASK.format(address=server.at("/a.png"))
    with running("-c", code, environment=environment, log=tmp_path / "log") as child:
        wait_until(lambda: len(server.asked) == 4, child)
        child.send_signal(signal.SIGINT)
        child.wait()
    silence.set()
    assert child.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()


def test_turns_are_taken_host_by_host_with_few_at_once() -> None:
    for seed in range(50):
        dice = random.Random(seed)
        per_host = dice.randint(1, 3)
        turns: Turns[int] = Turns(per_host, give_up_after=100)
        jobs = {number: f"host{dice.randint(0, 4)}" for number in range(60)}
        for number, host in jobs.items():
            if dice.random() < 0.3:
                turns.add_later(host, number, when=dice.randint(1, 40))
            else:
                turns.add(host, number)
        now, active = 0.0, Counter[str]()
        taken: list[int] = []
        while len(taken) < len(jobs) or active.total():
            if dice.random() < 0.6 and (turn := turns.take(now)):
                host, number = turn
                assert jobs[number] == host
                taken.append(number)
                active[host] += 1
                assert active[host] <= per_host
            elif hosts := list(active.elements()):
                host = dice.choice(hosts)
                turns.ended(host, answered=dice.random() < 0.9)
                active[host] -= 1
                if dice.random() < 0.1:
                    turns.pause(host, now + 3)
            now += 0.5
        assert sorted(taken) == sorted(jobs)
        assert turns.take(now) is None


def test_nothing_starts_at_a_host_that_is_paused() -> None:
    turns: Turns[str] = Turns(per_host=2, give_up_after=3)
    turns.pause("a", until=5.0)
    turns.add("a", "first")
    turns.add("b", "second")
    assert turns.take(0.0) == ("b", "second")
    assert turns.take(4.9) is None
    assert turns.next_time() == 5.0
    assert turns.take(5.0) == ("a", "first")


@pytest.mark.parametrize(
    "wrong",
    [
        {"allow": ["http://intranet/"]},
        {"allow": ["10.0.0.0/33"]},
        {"allow": ["10.0.0.1/8"]},
        {"allow": ["*.example.org"]},
        {"user_agent": "a\r\nCookie: b"},
        {"user_agent": ""},
        {"concurrency": 0},
        {"ports": [0]},
        {"timeout_seconds": 0},
        {"proxy": "http://a/"},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FetchConfig(**wrong)
