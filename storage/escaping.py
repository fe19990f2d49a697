"""Text that strangers wrote, made safe to show: on a terminal, in HTML, in Markdown and in JSON."""

import html
import json
import math
import re
import string
from typing import Any

_UNSEEN = re.compile(
    # Control characters (a terminal obeys what follows ESC or U+009B), the soft hyphen, marks and overrides of
    # direction, separators of lines, spaces without width, annotations, halves of surrogate pairs, tags. Joiners stay:
    # emoji and whole scripts need them.
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def utf8(text: str) -> str:
    """Text that can be written: bytes that are not UTF-8, as names of files may hold them, show as `\\udcff`."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def plain(text: str) -> str:
    """One line without anything that isn't seen: ends of lines and tabs are spaces, the rest shows as `\\x1b`."""
    return _UNSEEN.sub(lambda found: _seen(found.group()), text)


def plain_lines(text: str) -> str:
    """The same of every line of a text."""
    return "\n".join(map(plain, text.split("\n")))


def html_text(text: str) -> str:
    """Text that HTML shows as it is, inside a pair of tags or of quotes."""
    return html.escape(plain(text), quote=True)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no link, no HTML."""
    flat = html.escape(" ".join(plain(text).split()), quote=False)
    return "".join(f"\\{char}" if char in string.punctuation and char not in "&;" else char for char in flat)


def json_text(document: Any) -> str:
    """One line of JSON, valid whatever the strings hold, that shows what isn't seen as `\\u001b`; NaN is null."""
    text = json.dumps(_finite(document), ensure_ascii=False, allow_nan=False, default=lambda value: str(value))
    return _UNSEEN.sub(lambda found: json.dumps(found.group())[1:-1], text)


def _seen(char: str) -> str:
    if char in "\t\n\v\f\r\x85\u2028\u2029":
        return " "
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
