"""What one request and one caller may cost: length, time, how many in a minute; and the headers of every answer."""

import asyncio
import re
import time
from collections import OrderedDict

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pairloom.search.web.config import WebConfig, is_loopback
from pairloom.search.web.errors import TooLongError, told

POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""The page loads nothing from elsewhere and runs no script that stands in it. `blob:` is a picture that someone is
about to upload."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_CALLERS = 10_000
_BURST_SECONDS = 60.0
_SMALL_BODY = 65_536
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::\d+)?")


class Limits:
    """The outermost layer: refuses what is too long, too often or for another host, and ends what takes too long."""

    def __init__(self, app: ASGIApp, config: WebConfig) -> None:
        self.app = app
        self.config = config
        self._callers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await told(*refusal)(scope, receive, answer)
            return
        work = asyncio.ensure_future(self.app(scope, self._measured(scope, receive), answer))
        try:
            done, _ = await asyncio.wait({work}, timeout=self.config.seconds)
        except asyncio.CancelledError:
            work.cancel()
            raise
        if done:
            work.result()
        elif answer.started:
            await work
        else:
            # A thread can't be ended: it finishes unheard.
            late = told(504, f"the answer would take more than {self.config.seconds:g} seconds")
            answer.ended = True
            work.add_done_callback(lambda task: None if task.cancelled() else task.exception())
            await late(scope, receive, _Answer(send))

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        headers = Headers(scope=scope)
        longest = self.config.max_address
        if len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"]) > longest:
            return 414, f"the address is longer than {longest} bytes", {}
        if self.config.local and not _is_here(headers.get("host", "")):
            # A page elsewhere may have its own name point here, to read what only this machine is to read.
            return 421, "this service answers to localhost only: start it with --host and a token for others", {}
        length = headers.get("content-length", "0")
        most = self._longest_body(scope)
        if not length.isascii() or not length.isdigit() or int(length[:20]) > most:
            return 413, f"the upload is longer than {most:,} bytes", {"Connection": "close"}
        client = scope.get("client")
        if self.config.rate is not None and not self._may(client[0] if client else "", self.config.rate):
            return 429, "too many requests: wait a moment", {"Retry-After": "2"}
        return None

    def _longest_body(self, scope: Scope) -> int:
        return self.config.max_upload if scope["path"] == "/api/images" else _SMALL_BODY

    def _may(self, caller: str, rate: float) -> bool:
        """Whether the caller has a request left; they come back at `rate` a second."""
        now = time.monotonic()
        left, since = self._callers.pop(caller, (rate * _BURST_SECONDS, now))
        left = min(rate * _BURST_SECONDS, left + (now - since) * rate)
        self._callers[caller] = (max(0.0, left - 1), now)
        while len(self._callers) > _CALLERS:
            self._callers.popitem(last=False)
        return left >= 1

    def _measured(self, scope: Scope, receive: Receive) -> Receive:
        """The body, which may be longer than its header says, or have none."""
        most, taken = self._longest_body(scope), 0

        async def measured() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise TooLongError(f"the upload is longer than {most:,} bytes")
            return message

        return measured


class _Answer:
    """Sends an answer with our headers; nothing once it has ended."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.ended = False

    async def __call__(self, message: Message) -> None:
        if self.ended:
            return
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


def _is_here(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback(found[1])
