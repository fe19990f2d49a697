"""Connections to exactly the network addresses that were checked, and to an end by a deadline."""

import functools
import os
import ssl
import threading
import time
from collections.abc import Iterable

import httpcore
import httpx

from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.fetching.public import resolved


class CheckedNetwork(httpcore.NetworkBackend):
    """Resolves a host once, and connects to an address of it that may be asked: a second look-up could give another.

    TLS still checks the certificate against the host's name. Raises, beside httpcore's errors, AddressRefusedError and
    socket.gaierror.
    """

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._network = httpcore.SyncBackend()
        self._thread = threading.local()
        self._stopped = False

    def end_at(self, deadline: float) -> None:
        """The monotonic time, in seconds, after which what the calling thread waits for is a timeout."""
        self._thread.deadline = deadline

    def stop(self) -> None:
        """Make whatever any thread asks for next a timeout."""
        self._stopped = True

    def left(self, timeout: float | None) -> float:
        """`timeout`, or what is left until the calling thread's deadline. Raises httpcore.ReadTimeout after that."""
        left = float(self._thread.deadline) - time.monotonic()
        if left <= 0 or self._stopped:
            raise httpcore.ReadTimeout(f"took more than {self._config.timeout_seconds:g} seconds in all")
        return left if timeout is None else min(left, timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        *others, last = resolved(host, port, self._config)
        for address in others:
            try:
                return self._connected(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connected(last, port, timeout, local_address, socket_options)

    def _connected(
        self,
        address: str,
        port: int,
        timeout: float | None,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.NetworkStream:
        left = self.left(timeout)
        return _Stream(self._network.connect_tcp(address, port, left, local_address, socket_options), self)


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end by the deadline of the thread that uses it."""

    def __init__(self, stream: httpcore.NetworkStream, network: CheckedNetwork) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._network.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, self._network.left(timeout)), self._network)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class Connections:
    """Connections that are used again, at most as many idle ones as requests may be under way.

    httpcore's own pool looks at all its connections, with a system call each, twice for every request.
    """

    def __init__(self, network: CheckedNetwork, most: int) -> None:
        self._network = network
        self._most = most
        # Certificates are those that httpx trusts, or an intranet's own, where SSL_CERT_FILE names them. Nothing else
        # is taken from the environment: no proxy, no password.
        self._trusted = _trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        self._idle: list[tuple[httpcore.Origin, httpcore.HTTPConnection]] = []
        # Taken by threads alone that no interrupt reaches.
        self._lock = threading.Lock()

    def take(self, origin: httpcore.Origin) -> httpcore.HTTPConnection:
        """A connection to `origin`, to be given back."""
        while (connection := self._take_idle(origin)) is not None:
            if not connection.has_expired():
                return connection
            connection.close()
        return httpcore.HTTPConnection(
            origin, ssl_context=self._trusted, keepalive_expiry=_KEPT_SECONDS, network_backend=self._network
        )

    def give_back(self, origin: httpcore.Origin, connection: httpcore.HTTPConnection) -> None:
        """Keep a connection that can be used again, and close any other."""
        surplus = connection
        if connection.is_idle() and not connection.has_expired():
            with self._lock:
                self._idle.append((origin, connection))
                if len(self._idle) <= self._most:
                    return
                _, surplus = self._idle.pop(0)
        surplus.close()

    def close(self) -> None:
        """Close all that are kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _take_idle(self, origin: httpcore.Origin) -> httpcore.HTTPConnection | None:
        with self._lock:
            # The latest first: the others may expire.
            for place in range(len(self._idle) - 1, -1, -1):
                if self._idle[place][0] == origin:
                    return self._idle.pop(place)[1]
        return None


_KEPT_SECONDS = 15.0


@functools.lru_cache(maxsize=1)
def _trusted(*_: str | None) -> ssl.SSLContext:
    """The certificates to trust, which take a moment to read; the arguments are the variables that name others."""
    return httpx.create_ssl_context()
