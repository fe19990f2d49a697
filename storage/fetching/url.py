"""What an address has to look like before anything is asked: one reading of it, the same for every library."""

import ipaddress
import re

import httpx

from pairloom.storage.fetching.public import AddressRefusedError

MAX_ADDRESS = 4_096
"""Longest address, in characters."""

_PARTS = re.compile(r"https?://(?P<host>\[[0-9a-f:.]+\]|[^\[\]:/?#@%\s]+)(?::(?P<port>[0-9]{1,5}))?(?:[/?#]|$)")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def checked(address: str) -> httpx.URL:
    """`address` as it is asked for. Raises AddressRefusedError for what is no plain http(s) address of a host."""
    if len(address) > MAX_ADDRESS:
        raise AddressRefusedError(f"longer than {MAX_ADDRESS} characters")
    if re.search(r"[\x00-\x1f\x7f\\\ud800-\udfff]", address):
        raise AddressRefusedError("control characters and backslashes are no part of an address")
    parts = _PARTS.match(address.lower())
    if parts is None:
        if re.match(r"https?://[^/?#]*@", address.lower()):
            raise AddressRefusedError("names a user, which is not sent")
        raise AddressRefusedError("not http:// or https://, a host, and perhaps a port")
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise AddressRefusedError(str(error)) from error
    host = url.raw_host.decode("ascii").lower()
    if parts["host"].isascii() and host != parts["host"].strip("[]"):
        raise AddressRefusedError(f"its host reads {host}, too")
    if parts["port"] is not None and not 1 <= int(parts["port"]) <= 65_535:
        raise AddressRefusedError(f"there is no port {parts['port']}")
    if not _is_host(host):
        raise AddressRefusedError(f"{host[:100]!r} is no name of a host and no plain IP address")
    return url


def followed(url: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads. Raises AddressRefusedError as `checked` does."""
    if re.match(r"[a-z][a-z0-9+.-]*:", location.lower()):
        return checked(location)
    try:
        return checked(str(url.join(location)))
    except (httpx.InvalidURL, UnicodeError) as error:
        raise AddressRefusedError(str(error)) from error


def _is_host(host: str) -> bool:
    if ":" in host:
        return _is_ip(host)
    if len(host) > 253 or not _HOST.fullmatch(host):
        return False
    # Resolvers read `127.1`, `0x7f000001` and `2130706433` as IP addresses, too.
    return not _NUMBER.fullmatch(host.rpartition(".")[2]) or _is_ip(host)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
