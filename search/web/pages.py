"""The page: one HTML file whatever the address, plain JavaScript modules beside it, nothing from elsewhere."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

STATIC = Path(__file__).parent / "static"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PAGES = ("/", "/map", "/compare", "/nights", "/quarantine", "/report", "/sql", "/api/docs")


def router() -> APIRouter:
    """Where the page and its files are had. What isn't a file of ours isn't there."""
    routes = APIRouter(include_in_schema=False)
    files = {
        path.relative_to(STATIC).as_posix(): path.read_bytes() for path in sorted(STATIC.rglob("*")) if path.is_file()
    }
    page = files["index.html"]

    def shown(request: Request) -> Response:
        return _answer(request, page, ".html")

    for path in (*PAGES, "/items/{item_id:path}"):
        routes.add_api_route(path, shown, methods=["GET", "HEAD"])

    @routes.get("/static/{name:path}")
    def static(request: Request, name: str) -> Response:
        if name not in files:
            raise LookupError("there is no such file")
        return _answer(request, files[name], Path(name).suffix)

    return routes


def _answer(request: Request, content: bytes, suffix: str) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    kind = KINDS.get(suffix, "text/plain")
    return Response(content, media_type=f"{kind}; charset=utf-8" if kind != "image/svg+xml" else kind, headers=headers)
