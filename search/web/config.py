"""What `pairloom web` is started with, and what it lets a caller cost."""

import ipaddress

from pydantic import BaseModel, Field


class WebConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Where the page is served, to whom, and within which limits."""

    host: str = "127.0.0.1"
    """The address that is listened on."""
    port: int = Field(default=8600, ge=0, le=65_535)
    """0 takes any that is free."""
    token: str | None = Field(default=None, min_length=16)
    """What a caller has to show; needed wherever `host` is not this machine alone."""
    rate: float | None = Field(default=None, gt=0)
    """Requests a second that one caller may make, over a minute; None for any number."""
    max_upload: int = Field(default=20_000_000, ge=1)
    """Longest picture that is taken, in bytes."""
    max_address: int = Field(default=8_192, ge=256)
    """Longest path and query, in bytes."""
    seconds: float = Field(default=30.0, gt=0)
    """Time one request may take."""
    workers: int = Field(default=16, ge=1, le=256)
    """Requests that are worked on at once; the others wait for their turn."""
    refresh_seconds: float = Field(default=5.0, gt=0)
    """How often newer releases are looked for."""
    picture_bytes: int = Field(default=2**26, ge=0)
    """Memory for pictures that were shown lately."""
    uploads: int = Field(default=256, ge=1)
    """Uploaded pictures that are remembered."""

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
