"""What is asked of an address, and what it can answer."""

from dataclasses import dataclass

from pairloom.storage.images.stored_image import RejectedImage


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server said of the bytes it sent, to be asked whether they have changed (RFC 9110, section 8.8)."""

    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True)
class Question:
    """An address, and what was said of what is known to have been there."""

    address: str
    validators: Validators | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes at an address."""

    content: bytes
    sha256: str
    """Of the content, in hexadecimal digits."""
    validators: Validators


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The server says that the bytes are those that were sent before."""


Answer = Fetched | Unchanged | RejectedImage
