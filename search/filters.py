"""Filters that people write over the released columns, made safe to hand to Lance."""

import re
from collections.abc import Collection

_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")


def lance_filter(where: str, columns: Collection[str]) -> str:
    """`where` as the one parenthesised condition that Lance may apply.

    Lance reads a condition and silently ignores what follows it, and takes "double quotes" for a string where SQL means
    a column: text after the condition is refused here, and quoted names of `columns` are rewritten as Lance wants them.
    Raises ValueError in one line.
    """
    bare = _QUOTED.sub(" ", where)
    stray = next((token for token in (";", "--", "/*", "'", '"', "`") if token in bare), None)
    if stray is not None:
        raise bad_filter(where, f"a stray {stray}", columns)
    if not where.strip():
        raise bad_filter(where, "it is empty", columns)
    depth = 0
    for sign in re.findall(r"[()]", bare):
        depth += 1 if sign == "(" else -1
        if depth < 0:
            break
    if depth:
        raise bad_filter(where, "its parentheses don't match", columns)
    return f"({_QUOTED.sub(lambda match: _as_lance(match.group(), columns), where)})"


def bad_filter(where: str, reason: str, columns: Collection[str]) -> ValueError:
    """The one-line error for a filter that can't be applied."""
    short = re.sub(r"\s+", " ", re.sub(r"^(Invalid (user )?input[,:]? *)+", "", reason.partition(", /")[0])).strip()
    if "No field named" in short:
        short = short.partition(". Valid")[0]
    return ValueError(f"{where!r} is not a filter: {short[:200]}; columns are {', '.join(columns)}")


def _as_lance(quoted: str, columns: Collection[str]) -> str:
    name = quoted[1:-1].replace('""', '"')
    return f"`{name}`" if quoted.startswith('"') and name in columns and "`" not in name else quoted
