"""Markdown of text that strangers wrote."""

import html
import string
from collections.abc import Sequence

from pairloom.flows.show.visible import visible


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no link, no HTML, no control characters."""
    flat = html.escape(visible(" ".join(text.split())), quote=False)
    return "".join(f"\\{char}" if char in string.punctuation and char not in "&;" else char for char in flat)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, all cells escaped, the first column named `title`; none without rows."""
    if not rows:
        return []
    lines = [[title, *columns], *rows]
    head, *body = ["| " + " | ".join(map(escaped, line)) + " |" for line in lines]
    return [head, "| --- |" + " ---: |" * len(columns), *body, ""]
