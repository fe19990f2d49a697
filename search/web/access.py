"""Who may ask: whoever shows the token, in a header, or in a cookie that an address with the token sets once."""

import hashlib
import hmac
import html
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pairloom.search.web.errors import told

COOKIE = "pairloom"
OPEN = ("/health", "/static/style.css")
"""What needs no token: a load balancer asks the one, the page that asks for a token looks like the others by the other.
"""
NEEDED = "a token is needed: open the address that `pairloom web` printed"
ASKING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Pairloom</title>
<link rel="stylesheet" href="/static/style.css"></head>
<body><main class="asked"><h1>A token is needed</h1>
<p class="quiet">{why}</p>
<form class="ask-token">{kept}
<label>Token <input type="password" name="token" autocomplete="current-password" required></label>
<button class="chip primary">Open</button></form></main></body></html>
"""


class Access:
    """Lets pass who shows the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self._token = token
        # The cookie is no use for the header, and the token isn't in it.
        self._cookie = hashlib.sha256(f"cookie {token}".encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        by_header = scheme.lower() == "bearer" and _same(shown.strip(), self._token)
        if by_header or _same(_cookie(headers.get("cookie", "")), self._cookie):
            await self.app(scope, receive, send)
        else:
            await self._ask(scope, receive, send)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and any(name == "token" and _same(value, self._token) for name, value in query):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            # The path is one of our own: `//elsewhere` would be another host.
            path = "/" + scope["path"].lstrip("/\\")
            answer: Response = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
            answer.set_cookie(COOKIE, self._cookie, httponly=True, samesite="lax", max_age=30 * 86_400)
            await answer(scope, receive, send)
            return
        if scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", ""):
            answer = HTMLResponse(_asking(query), 401)
        else:
            answer = told(401, NEEDED, {"WWW-Authenticate": "Bearer"})
        await answer(scope, receive, send)


def _asking(query: list[tuple[str, str]]) -> str:
    """The page that asks for the token, and keeps what else the address says."""
    wrong = any(name == "token" for name, _ in query)
    why = "This is another one: ask whoever runs the page." if wrong else "It is part of the address that was printed."
    kept = "".join(
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
        for name, value in query
        if name != "token"
    )
    return ASKING.format(why=why, kept=kept)


def _same(shown: str, wanted: str) -> bool:
    return hmac.compare_digest(shown.encode(), wanted.encode())


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
