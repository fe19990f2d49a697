"""The words of a statement, as DuckDB reads them: where a call ends, and reserved words that can only be names."""

from dataclasses import dataclass

import duckdb

from pairloom.search.sql.edits import Edit, Edited

_ASSIGNED = (":=", "=>")


@dataclass(frozen=True)
class Token:
    """One word, number, string or operator; operators that stand together may be one or several."""

    start: int
    text: str
    kind: str

    @property
    def end(self) -> int:
        """The byte behind it."""
        return self.start + len(self.text.encode())


def tokens(sql: str) -> list[Token]:
    """All but comments; nothing where the statement can't be split into words. Places are bytes of UTF-8."""
    try:
        found = duckdb.tokenize(sql)
    except (duckdb.Error, UnicodeError):
        return []
    source = sql.encode()
    ends = [place for place, _ in found[1:]] + [len(source)]
    return [
        Token(place, source[place:end].decode(errors="replace").rstrip(), kind.name)
        for (place, kind), end in zip(found, ends, strict=True)
        if kind.name != "comment"
    ]


def with_names_quoted(sql: str) -> Edited:
    """The statement with `where` and `group` quoted where they can only be a parameter's and a column's name.

    So people may write `search('red', where := 'price < 5')` and `SELECT group FROM items`.
    """
    words, edits = tokens(sql), []
    before = [None, *words[:-1]]
    for earlier, word, later in zip(before, words, [*words[1:], None], strict=True):
        name, after = word.text.lower(), later.text.lower() if later else ""
        parameter = name == "where" and after.startswith(_ASSIGNED)
        # GROUP BY; WITHIN GROUP (ORDER BY …); EXCLUDE GROUP in a window.
        column = (
            name == "group" and after != "by" and (not earlier or earlier.text.lower() not in ("within", "exclude"))
        )
        if word.kind == "keyword" and (parameter or column):
            edits.append(Edit(word.start, word.end, f'"{name}"'))
    return Edited(sql, edits)


def call_end(words: list[Token], start: int) -> int | None:
    """The byte behind the parenthesis that closes the call which begins at byte `start`; None where there is none."""
    depth = 0
    for word in words:
        if word.start < start or word.kind != "operator":
            continue
        for place, sign in enumerate(word.text):
            depth += {"(": 1, ")": -1}.get(sign, 0)
            if sign == ")" and depth == 0:
                return word.start + place + 1
    return None
