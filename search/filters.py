"""Filters that people write over the released columns, made safe to hand to Lance."""

import re
from collections.abc import Collection

from pairloom.search.time_literals import with_times

FUNCTIONS = {
    "abs", "array_contains", "array_has", "array_has_all", "array_has_any", "array_length", "arrow_cast",
    "btrim", "cardinality", "cast", "ceil", "char_length", "character_length", "coalesce", "contains",
    "date_part", "date_trunc", "ends_with", "extract", "floor", "isnan", "left", "length", "lower", "ltrim",
    "nullif", "regexp_like", "regexp_match", "right", "round", "rtrim", "sqrt", "starts_with", "strpos",
    "substr", "substring", "to_date", "to_timestamp", "trim", "try_cast", "upper"
}  # fmt: skip
"""What a filter may call: nothing that makes much out of little, as `repeat` does, or that isn't the same each time."""
KEYWORDS = {"all", "and", "any", "between", "case", "else", "ilike", "in", "is", "like", "not", "or", "then", "when"}
"""What may stand before a parenthesis, too."""
MAX_OPERATORS = 250
"""A long chain of them would overflow the stack that Lance walks it on, and end the process."""
_CALLED = re.compile(r"([\w$@#]+|\x00)\s*\(")
_OPERATOR = re.compile(r"::|\|\||[-+*/%&|^~#\[]")
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")


def lance_filter(where: str, columns: Collection[str], times: Collection[str] = ()) -> str:
    """`where` as the one parenthesised condition that Lance may apply.

    Lance reads a condition and silently ignores what follows it, and takes "double quotes" for a string where SQL means
    a column: text after the condition is refused here, and quoted names of `columns` are rewritten as Lance wants them,
    times beside those of them that are `times` as well.
    Raises ValueError in one line.
    """
    bare = _QUOTED.sub("\0", where.replace("\0", " "))
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
    for called in _CALLED.findall(bare):
        if called.lower() not in FUNCTIONS | KEYWORDS:
            name = "of a quoted name" if called == "\0" else called
            raise bad_filter(
                where, f"no function {name} in a filter; there are {', '.join(sorted(FUNCTIONS))}", columns
            )
    if len(_OPERATOR.findall(bare)) > MAX_OPERATORS:
        raise bad_filter(where, f"more than {MAX_OPERATORS} operators", columns)
    timed = with_times(where, times)
    return f"({_QUOTED.sub(lambda match: _as_lance(match.group(), columns), timed)})"


def bad_filter(where: str, reason: str, columns: Collection[str]) -> ValueError:
    """The one-line error for a filter that can't be applied."""
    short = re.sub(r"\s+", " ", re.sub(r"^(Invalid (user )?input[,:]? *)+", "", reason.partition(", /")[0])).strip()
    if "No field named" in short:
        short = short.partition(". Valid")[0]
    asked = where if len(where) <= 300 else f"{where[:300]}…"
    return ValueError(f"{asked!r} is not a filter: {short[:500]}; columns are {', '.join(columns)}")


def _as_lance(quoted: str, columns: Collection[str]) -> str:
    name = quoted[1:-1].replace('""', '"')
    return f"`{name}`" if quoted.startswith('"') and name in columns and "`" not in name else quoted
