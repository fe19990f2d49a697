"""The service in a process of its own port, until it is told to end."""

import secrets
import socket
from collections.abc import Callable

from pairloom.search.web.config import WebConfig
from pairloom.search.web.service import Service

MOST_CONNECTIONS = 1_000
HEADER_BYTES = 32_768


def with_token(config: WebConfig) -> WebConfig:
    """The same with a token, where others than this machine can reach it and none is given; and a rate."""
    if config.local:
        return config
    changes = {
        "token": config.token or secrets.token_urlsafe(24),
        "rate": config.rate or 20.0,
    }
    return config.model_copy(update=changes)


def serve(service: Service, tell: Callable[[str], None], *, version: str = "") -> None:
    """Serve until interrupted; `tell` hears the address once it can be opened. OSError where the port is taken."""
    import uvicorn

    from pairloom.search.web.app import create_app

    config = service.config
    app = create_app(service, version=version)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host.strip("[]"), config.port))
    except OSError as error:
        listening.close()
        raise OSError(
            f"{config.host}:{config.port} can't be listened on: {error.strerror or error}; try --port"
        ) from error
    port = listening.getsockname()[1]
    shown = f"[{config.host.strip('[]')}]" if ":" in config.host else config.host
    if config.host.strip("[]") in ("0.0.0.0", "::"):  # no address that others could open
        shown = socket.gethostname()
    tell(f"http://{shown}:{port}/" + (f"?token={config.token}" if config.token else ""))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=HEADER_BYTES,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
            proxy_headers=False,
            ws="none",
        )
    )
    server.run(sockets=[listening])
