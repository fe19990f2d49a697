"""What `fetch:` of a source says."""

import ipaddress
import json
import re
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from pairloom.storage.digest import digest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class FetchConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How images are fetched whose column holds http(s) addresses; `fetch: {}` takes the defaults."""

    concurrency: int = Field(default=32, ge=1, le=256)
    """Requests under way at once."""
    per_host: int = Field(default=4, ge=1, le=64)
    """Requests under way at once to one host."""
    timeout_seconds: float = Field(default=30.0, gt=0, le=3_600)
    """Time one attempt at an address may take in all, redirects included."""
    stall_seconds: float = Field(default=10.0, gt=0, le=600)
    """Time to wait for a connection, or for the next bytes."""
    max_bytes: int = Field(default=20_000_000, ge=1, le=2**27)
    """Longest image in bytes; of a longer one no more than this is read."""
    max_redirects: int = Field(default=5, ge=0, le=20)
    """Redirects followed, each checked like the address itself."""
    attempts: int = Field(default=3, ge=1, le=10)
    """Attempts a night at an address where server or network fail; following nights try again."""
    backoff_seconds: float = Field(default=2.0, ge=0, le=60)
    """Wait before the second attempt, doubled before each further one; a server's `Retry-After` counts instead, and one
    of more than a minute until the next night."""
    give_up_after: int = Field(default=20, ge=1, le=1_000)
    """Failures in a row after which a host is left alone until the next night, or the next 20,000 rows."""
    ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = (80, 443, 8080, 8443)
    """Ports that may be asked; hosts in `allow` may be asked at any."""
    allow: tuple[str, ...] = ()
    """Host names, addresses and networks (`10.1.0.0/16`) that may be asked though they aren't public: an intranet's."""
    robots: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    """Words of the header `X-Robots-Tag` that an image is left alone for."""
    user_agent: str = Field(default="Pairloom", pattern=r"^[!-~]([ -~]*[!-~])?$", max_length=200)
    """What servers are told; an address to write to belongs here. Its first word, up to a slash, is who `X-Robots-Tag`
    may speak to."""
    recheck: Literal["never", "always"] = "never"
    """Whether an address that was fetched once is asked again every night whether its bytes have changed."""
    on_change: Literal["update", "quarantine"] = "update"
    """What other bytes than before at an address are: the item's new image, or a reason to quarantine the row."""

    @field_validator("allow")
    @classmethod
    def _allowed_are_hosts(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for each in allow:
            if _network(each) is None and not _NAME.fullmatch(each.lower()):
                raise ValueError(f"{each!r} is neither a host name nor a network such as 10.1.0.0/16")
        return allow

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """The networks of `allow`."""
        return tuple(network for each in self.allow if (network := _network(each)))

    @cached_property
    def names(self) -> frozenset[str]:
        """The host names of `allow`, in lower case."""
        return frozenset(each.lower() for each in self.allow if _network(each) is None)

    @cached_property
    def decided_by(self) -> str:
        """Digest of all that decides whether an address gives an image."""
        return digest([json.dumps(self.model_dump(exclude={"concurrency", "per_host", "recheck"}), default=str)])


def _network(text: str) -> Network | None:
    # `2130706433` would be an address to the module, as a number.
    try:
        return ipaddress.ip_network(text) if re.search(r"[.:]", text) else None
    except ValueError:
        return None
