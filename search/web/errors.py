"""What a caller is told when something is wrong: the right status, one clear line, nothing of our insides."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pairloom.search.sql.errors import StatementError
from pairloom.search.web.jobs import BusyError
from pairloom.search.web.service import NoReleaseError
from pairloom.storage.escaping import plain
from pairloom.storage.files import DamagedError
from pairloom.storage.sealed import OverdueError
from pairloom.storage.secrets import redacted

logger = logging.getLogger(__name__)

LONGEST = 1_000


class TooManyError(RuntimeError):
    """More than is worked on at once: the caller may try again soon."""


class TooLongError(ValueError):
    """A caller sends more than is taken."""


def told(
    status: int, reason: object, headers: dict[str, str] | None = None, place: dict[str, int | None] | None = None
) -> JSONResponse:
    """The answer that tells it; `place` is where in what was asked."""
    line = " ".join(plain(redacted(str(reason))).split())
    shown = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    return JSONResponse({"error": shown, **(place or {})}, status, {"Cache-Control": "no-store", **(headers or {})})


def add_handlers(app: FastAPI) -> None:
    """Have the app answer so."""

    @app.exception_handler(NoReleaseError)
    @app.exception_handler(DamagedError)
    async def _unavailable(_: Request, error: Exception) -> JSONResponse:
        return told(503, error, {"Retry-After": "30"})

    @app.exception_handler(TooManyError)
    @app.exception_handler(BusyError)
    async def _busy(_: Request, error: Exception) -> JSONResponse:
        return told(503, error, {"Retry-After": "1"})

    @app.exception_handler(LookupError)
    async def _not_found(_: Request, error: Exception) -> JSONResponse:
        # A KeyError or an IndexError is a fault of ours.
        if type(error) is not LookupError:
            return _failed(error)
        return told(404, error)

    @app.exception_handler(TooLongError)
    async def _too_long(_: Request, error: Exception) -> JSONResponse:
        return told(413, error, {"Connection": "close"})

    @app.exception_handler(OverdueError)
    async def _overdue(_: Request, error: Exception) -> JSONResponse:
        return told(504, error)

    @app.exception_handler(StatementError)
    async def _misstated(_: Request, error: StatementError) -> JSONResponse:
        place = {"line": error.line, "column": error.column}
        return told(400, error, place=None if error.line is None else place)

    @app.exception_handler(ValueError)
    async def _bad(_: Request, error: Exception) -> JSONResponse:
        return told(400, error)

    @app.exception_handler(RequestValidationError)
    async def _malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return told(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def _other(_: Request, error: HTTPException) -> JSONResponse:
        return told(error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
        return _failed(error)


def _failed(error: Exception) -> JSONResponse:
    logger.error("a request failed", exc_info=error)
    return told(500, "the request failed; the service's log says why")
