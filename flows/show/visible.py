"""Text that strangers wrote, as a terminal may show it: nothing in it moves the cursor, hides or reorders text."""

import unicodedata

_JOINERS = "\u200c\u200d"
"""Of emoji sequences and of scripts that need them."""


def visible(text: str) -> str:
    """`text` with control, format and lone surrogate characters written as escapes, such as `\\x1b`."""
    return "".join(_escaped(char) if not char.isprintable() and char != " " else char for char in text)


def _escaped(char: str) -> str:
    if char in _JOINERS or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode()
