"""Tables in Markdown, of text that strangers wrote."""

from collections.abc import Sequence

from pairloom.storage.escaping import markdown_text


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, all cells escaped, the first column named `title`; none without rows."""
    if not rows:
        return []
    lines = [[title, *columns], *rows]
    head, *body = ["| " + " | ".join(map(markdown_text, line)) + " |" for line in lines]
    return [head, "| --- |" + " ---: |" * len(columns), *body, ""]
