"""One request for an image, and what its response means."""

import contextlib
import email.utils
import hashlib
import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import httpcore
import httpx

from pairloom.storage.fetching.answer import Answer, Fetched, Unchanged, Validators
from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.fetching.connection import CheckedNetwork, Connections
from pairloom.storage.fetching.public import AddressRefusedError
from pairloom.storage.fetching.url import followed
from pairloom.storage.images.stored_image import RejectedImage
from pairloom.storage.reasons import Reason

Headers = Mapping[bytes, list[bytes]]
"""Values by name, in lower case."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGAIN = frozenset({408, 425, 429})
"""Client errors that may pass, as all server errors may."""
_DRAINED = 16_384
"""Longest body read in vain, in bytes, so that its connection can be used again."""
_LONGEST_TAG = 512
_DIRECTIVE_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclass(frozen=True, slots=True)
class Redirected:
    """They are at another address."""

    url: httpx.URL


@dataclass(frozen=True, slots=True)
class Failed:
    """Server or network failed, which may pass."""

    rejected: RejectedImage
    retry_after: float | None = None
    """Seconds that the server asks to wait."""


Outcome = Answer | Redirected | Failed


class Requests:
    """Asks for images, from any number of threads, over connections that are used again."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._network = CheckedNetwork(config)
        self._connections = Connections(self._network, config.concurrency)
        stall = config.stall_seconds
        self._extensions = {"timeout": {"connect": stall, "read": stall, "write": stall, "pool": None}}

    def ask(self, url: httpx.URL, validators: Validators | None, seconds: float) -> Outcome:
        """What `url` answers within `seconds`; Unchanged only where there are `validators`."""
        self._network.end_at(time.monotonic() + seconds)
        try:
            return self._asked(url, self._request(url, validators), validators)
        except AddressRefusedError as error:
            return _refused(url, str(error))
        except socket.gaierror as error:
            return Failed(_failed(f"{_host(url)} has no address: {error.strerror}"))
        except httpcore.TimeoutException as error:
            return Failed(_failed(f"{_host(url)} took too long: {error or 'no answer'}"))
        except (httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
            return Failed(_failed(f"{_host(url)}: {error}"))
        except httpcore.LocalProtocolError as error:
            return _refused(url, str(error))

    def stop(self) -> None:
        """Have requests under way end soon."""
        self._network.stop()

    def close(self) -> None:
        """Close all connections; no thread may be using them."""
        self._connections.close()

    def _asked(self, url: httpx.URL, request: httpcore.Request, validators: Validators | None) -> Outcome:
        origin = request.url.origin
        connection = self._connections.take(origin)
        try:
            with contextlib.closing(connection.handle_request(request)) as response:
                assert isinstance(response.stream, Iterable), "connections without asyncio give streams without it"
                return self._understood(url, response.status, _headers(response.headers), response.stream, validators)
        finally:
            self._connections.give_back(origin, connection)

    def _request(self, url: httpx.URL, validators: Validators | None) -> httpcore.Request:
        headers = [
            (b"Host", url.netloc),
            (b"User-Agent", self._config.user_agent.encode("ascii")),
            (b"Accept", b"image/*,*/*;q=0.8"),
            # What is compressed again could unfold without end.
            (b"Accept-Encoding", b"identity"),
        ]
        if validators and validators.etag:
            headers.append((b"If-None-Match", validators.etag.encode("latin-1")))
        if validators and validators.last_modified:
            headers.append((b"If-Modified-Since", validators.last_modified.encode("latin-1")))
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port or _PORTS[url.scheme], target=url.raw_path
        )
        return httpcore.Request("GET", target, headers=headers, extensions=self._extensions)

    def _understood(
        self, url: httpx.URL, status: int, headers: Headers, body: Iterable[bytes], validators: Validators | None
    ) -> Outcome:
        location = _first(headers, b"location")
        if status in _REDIRECTS and location is not None:
            _drain(headers, body)
            try:
                return Redirected(followed(url, location))
            except AddressRefusedError as error:
                return _refused(url, f"redirects to {location[:100]!r}: {error}")
        if status in (200, 304) and (word := _forbidden(headers, self._config)):
            return RejectedImage(Reason.ROBOTS_REFUSED, f"X-Robots-Tag of {_host(url)} says {word}")
        if status == 304 and validators is not None:
            return Unchanged()
        if status != 200:
            _drain(headers, body)
            rejected = _failed(f"{_host(url)} answers with status {status}")
            if status >= 500 or status in _AGAIN:
                return Failed(rejected, _retry_after(headers))
            return RejectedImage(rejected.reason, rejected.message)
        encoding = (_first(headers, b"content-encoding") or "identity").strip().lower()
        if encoding != "identity":
            return RejectedImage(
                Reason.IMAGE_NOT_FETCHED, f"{_host(url)} sends it encoded ({encoding[:40]!r}), not as asked"
            )
        content = self._read(headers, body)
        if content is None:
            return RejectedImage(
                Reason.IMAGE_TOO_LARGE, f"more than {self._config.max_bytes} bytes (`fetch.max_bytes`)"
            )
        said = Validators(_tag(headers, b"etag"), _tag(headers, b"last-modified"))
        return Fetched(content, hashlib.sha256(content).hexdigest(), said)

    def _read(self, headers: Headers, body: Iterable[bytes]) -> bytes | None:
        """The body, or None where it is too long."""
        if (promised := _first(headers, b"content-length")) and int(promised) > self._config.max_bytes:
            return None
        parts, length = [], 0
        for part in body:
            length += len(part)
            if length > self._config.max_bytes:
                return None
            parts.append(part)
        return b"".join(parts)


_PORTS = {"http": 80, "https": 443}


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    headers: dict[bytes, list[bytes]] = {}
    for name, value in raw:
        headers.setdefault(name.lower(), []).append(value)
    return headers


def _first(headers: Headers, name: bytes) -> str | None:
    values = headers.get(name)
    if values is None:
        return None
    try:
        return values[0].decode()
    except UnicodeDecodeError:
        return values[0].decode("latin-1")


def _tag(headers: Headers, name: bytes) -> str | None:
    values = headers.get(name)
    return values[0].decode("latin-1") if values and len(values[0]) <= _LONGEST_TAG else None


def _drain(headers: Headers, body: Iterable[bytes]) -> None:
    length = _first(headers, b"content-length")
    if length is not None and int(length) <= _DRAINED:
        for _ in body:
            pass


def _retry_after(headers: Headers) -> float | None:
    """RFC 9110, section 10.2.3: seconds, or a date."""
    value = (_first(headers, b"retry-after") or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _forbidden(headers: Headers, config: FetchConfig) -> str | None:
    """The word of X-Robots-Tag that forbids the image; a word before a colon is whom it speaks to.

    As img2dataset understands the header.
    """
    product = config.user_agent.split()[0].partition("/")[0].lower()
    forbidding = {word.lower() for word in config.robots}
    for value in headers.get(b"x-robots-tag", []):
        spoken_to = None
        for part in value.decode("latin-1").lower().split(","):
            name, colon, words = part.partition(":")
            if colon and name.strip() not in _DIRECTIVE_WITH_VALUE:
                spoken_to, part = name.strip(), words
            if part.strip() in forbidding and spoken_to in (None, product):
                return part.strip()
    return None


def _host(url: httpx.URL) -> str:
    return url.netloc.decode("ascii")


def _failed(message: str) -> RejectedImage:
    return RejectedImage(Reason.IMAGE_NOT_FETCHED, message[:300], transient=True)


def _refused(url: httpx.URL, message: str) -> RejectedImage:
    return RejectedImage(Reason.ADDRESS_REFUSED, f"{_host(url)}: {message}"[:300])
