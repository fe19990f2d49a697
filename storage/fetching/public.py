"""Which network addresses may be connected to: public ones, and those that a source allows."""

import ipaddress
import socket

from pairloom.storage.fetching.config import FetchConfig

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IANA's special-purpose registries. `is_global` of the standard library differs between releases of Python.
_NOT_PUBLIC_4 = [
    ipaddress.IPv4Network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/3"),
        "168.63.129.16/32",  # a cloud's own service, which answers its virtual machines only
    )
]
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
# Addresses of IPv4 inside of IPv6 (mapped, NAT64, 6to4, Teredo) could stand for private ones.
_NOT_PUBLIC_6 = [ipaddress.IPv6Network(each) for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]


class AddressRefusedError(Exception):
    """Raised for an address that must not be asked; says why."""


def is_public(address: Address) -> bool:
    """Whether anybody on the internet can reach it, and nobody else is meant."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)


def resolved(host: str, port: int, config: FetchConfig) -> list[str]:
    """The addresses of `host` that may be connected to at `port`, as literals, in the resolver's order.

    Raises AddressRefusedError where none may, and socket.gaierror where the host has none.
    """
    found = dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    refused = []
    kept = []
    for literal in found:
        address = ipaddress.ip_address(literal)  # with a zone it is link-local, and refused
        allowed = host.lower() in config.names or any(address in network for network in config.networks)
        if not allowed and not is_public(address):
            refused.append(f"{literal} is not public; `fetch.allow` lets intranets in")
        elif not allowed and port not in config.ports:
            refused.append(f"port {port} is none of `fetch.ports`")
        else:
            kept.append(literal)
    if not kept:
        raise AddressRefusedError("; ".join(refused))
    return kept
