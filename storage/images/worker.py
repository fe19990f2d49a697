"""The child process that decodes untrusted image files, and the messages it exchanges with its parent.

A message is a JSON header and a block of bytes, each behind its length: no pickle, so that a child which a hostile
file has taken over can send wrong pictures but run nothing in the parent. Run with `python -m`, which, unlike a child
of `multiprocessing`, does not import the parent's main module.
"""

import contextlib
import json
import os
import resource
import struct
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from pairloom.storage.images.formats import readable_formats
from pairloom.storage.images.limits import Limits
from pairloom.storage.images.location import FileSlice
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, decode_bytes, decode_file, decode_slice
from pairloom.storage.reasons import Reason

_LENGTHS = struct.Struct("<II")
LONGEST = 2**27
"""Bytes of the longest message, and so of the largest image that is sent in one."""


def message(header: object, content: bytes = b"") -> bytes:
    """One message, ready to be sent."""
    head = json.dumps(header).encode()
    return _LENGTHS.pack(len(head), len(content)) + head + content


def read_message(read: Callable[[int], bytes]) -> tuple[dict[str, object], bytes]:
    """Header and content of the next message; `read(n)` returns exactly n bytes or raises."""
    head_length, content_length = _LENGTHS.unpack(read(_LENGTHS.size))
    if max(head_length, content_length) > LONGEST:
        raise ValueError(f"a message of {max(head_length, content_length)} bytes")
    header = json.loads(read(head_length))
    if not isinstance(header, dict):
        raise ValueError("the header of a message is no JSON object")
    return header, read(content_length)


def reply(image: DecodedImage | RejectedImage) -> bytes:
    """The message that carries `image`."""
    if isinstance(image, RejectedImage):
        return message(vars(image))
    header = {name: value for name, value in vars(image).items() if not isinstance(value, bytes)}
    return message(header | {"thumbnail": len(image.thumbnail)}, image.thumbnail + image.content)


def understood(header: Mapping[str, object], content: bytes) -> DecodedImage | RejectedImage:
    """The image that a reply carries."""
    if "reason" in header:
        # JSON's values are the fields that `reply` wrote.
        return RejectedImage(**{**header, "reason": Reason(str(header["reason"]))})  # type: ignore[arg-type] # as above
    facts = dict(header)
    length = int(str(facts.pop("thumbnail")))
    return DecodedImage(content=content[length:], thumbnail=content[:length], **facts)  # type: ignore[arg-type] # as above


def main() -> None:
    """Serve: the first message sets the limits, each later one names a file, a part of
    one, or brings the bytes; one reply each, till the input ends."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")

    def read(length: int) -> bytes:
        found = requests.read(length)
        if len(found) < length:
            raise EOFError
        return found

    header, _ = read_message(read)
    limits = Limits(**header["limits"])  # type: ignore[arg-type] # the parent's own dataclass
    memory, seconds = int(str(header["memory_mb"])) * 2**20, int(str(header["cpu_seconds"]))
    _prepare(limits, memory)
    replies.write(message({}))
    replies.flush()
    with contextlib.suppress(EOFError):
        while True:
            asked, content = read_message(read)
            _allow(seconds)
            replies.write(reply(_decoded(asked, content, limits)))
            replies.flush()


def _decoded(asked: Mapping[str, object], content: bytes, limits: Limits) -> DecodedImage | RejectedImage:
    if "inline" in asked:
        return decode_bytes(content, limits)
    path = Path(os.fsdecode(content))
    if "offset" in asked:
        return decode_slice(FileSlice(path, int(str(asked["offset"])), int(str(asked["length"]))), limits)
    return decode_file(path, limits)


def _prepare(limits: Limits, memory: int) -> None:
    # Loads every decoder and the perceptual hash's own imports before memory is limited.
    Image.init()
    readable_formats()
    warnings.simplefilter("ignore")
    # What a decoder meets inside a file counts too; Pillow refuses twice this number.
    Image.MAX_IMAGE_PIXELS = (limits.max_pixels + 1) // 2
    import scipy.fftpack  # type: ignore[import-untyped] # noqa: F401 # what imagehash imports on first use

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # macOS has no limit of address space
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # Decoders in C write their complaints, and what leaks on standard output would break the messages.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)


def _allow(seconds: int) -> None:
    """Let the system kill this process after `seconds` more of CPU time, whether or not the parent still lives."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main()
