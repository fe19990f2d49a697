"""A web server of this machine whose answers are written by tests, and which takes down what it was asked."""

import contextlib
import io
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Answer = Callable[["Handler"], object]


def picture(colour: str = "red", size: tuple[int, int] = (20, 16), form: str = "PNG") -> bytes:
    """An image file of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, form)
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers with what the test has written for the path."""

    protocol_version = "HTTP/1.1"
    server: "PictureServer"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers.items())))
        answer = self.server.answers.get(self.path)
        with contextlib.suppress(ConnectionError):  # whoever asked has heard enough
            if answer is None:
                self.reply(404, b"no such picture")
            elif isinstance(answer, bytes):
                self.reply(200, answer)
            else:
                answer(self)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer with a whole body; `Retry_After` is the header Retry-After."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class PictureServer(ThreadingHTTPServer):
    """Serves `answers` by path: bytes, or what answers; all other paths are not found."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, bytes | Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.scheme = "http"

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for."""
        return [path for path, _ in self.asked]

    def at(self, path: str, host: str = "127.0.0.1") -> str:
        """The address of a path."""
        return f"{self.scheme}://{host}:{self.server_port}{path}"

    def handle_error(self, *_: Any) -> None:
        """Say nothing: those who ask break connections off."""


@contextlib.contextmanager
def serving(certificate: ssl.SSLContext | None = None) -> Iterator[PictureServer]:
    """A server, until the block ends."""
    with PictureServer() as server:
        if certificate:
            server.scheme = "https"
            server.socket = certificate.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
