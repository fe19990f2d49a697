"""`pairloom shell`: questions to one index, a line each, by a model that stays loaded."""

from dataclasses import replace
from pathlib import Path

from pairloom.flows.show.console import out, show_hits, show_rows
from pairloom.flows.show.line import Line
from pairloom.search.asking import asked_for, named_picture
from pairloom.search.combination import parsed
from pairloom.search.index import Index
from pairloom.search.options import Options
from pairloom.search.query import Query
from pairloom.search.results import SearchResult

HELP = """\
a text             look for it; `2:red shoe` counts twice
:like ITEM_ID      look for what resembles this item
:image FILE        look for what resembles this image
:plus TEXT         add a text to what was asked last
:minus TEXT        take a text from it
:more              the next hits
:where CONDITION   only items for which this holds, from now on; alone: all items again
:k N               so many hits, from now on
:hybrid            also items that hold the words of a text, from now on; again: no more
:html FILE         write the last hits with their pictures to this page
:sql SELECT …      one statement over the table `items`
:refresh           go to the newest release
:help              this
:quit              leave, as does the end of the input"""


class Shell:
    """What was asked last, and how the next questions are answered."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._options = Options()
        self._query: Query | None = None
        self._last: SearchResult | None = None

    @property
    def prompt(self) -> str:
        """The pipeline, its release, and what holds for the next question."""
        about = [self._index.folder.name, str(self._index.release)]
        about += [f"where {self._options.where}"] if self._options.where is not None else []
        about += ["hybrid"] if self._options.hybrid else []
        return Line(" ".join(about)).plain + "> "

    def take(self, line: str) -> bool:
        """Do what a line says and show what comes of it; False where it says to leave.

        Raises ValueError, in one line, where it says nothing that can be done; the next line is answered as before.
        """
        line = line.strip()
        command, _, rest = line.partition(" ")
        if command in (":quit", ":q"):
            return False
        if line.startswith(":"):
            self._obey(command, rest.strip())
        elif line:
            self._ask(asked_for(line))
        return True

    def _obey(self, command: str, rest: str) -> None:
        match command:
            case ":like":
                self._ask(Query(like=_given(command, rest, "an item_id")))
            case ":image":
                self._ask(asked_for(image=named_picture(_given(command, rest, "a file"))))
            case ":plus" | ":minus":
                self._change(command, _given(command, rest, "a text"))
            case ":more":
                self._more()
            case ":where":
                self._use(replace(self._options, where=rest or None))
            case ":k":
                self._use(replace(self._options, k=_number(rest)))
            case ":hybrid":
                self._use(replace(self._options, hybrid=not self._options.hybrid))
            case ":html":
                self._write(Path(_given(command, rest, "a file")))
            case ":sql":
                self._sql(_given(command, rest, "a SELECT"))
            case ":refresh":
                out.print(Line(f"release {self._index.refresh()}"))
            case ":help":
                for each in HELP.split("\n"):
                    out.print(Line(each))
            case _:
                raise ValueError(f"no command {command}; :help lists them")

    def _ask(self, query: Query, *, offset: int = 0) -> None:
        self._last = self._index.ask(query, replace(self._options, offset=offset))
        self._query = query
        show_hits(self._last)

    def _change(self, command: str, text: str) -> None:
        if self._query is None:
            raise ValueError(f"{command} changes what was asked last: ask something first")
        part = (parsed(text),)
        if command == ":plus":
            self._ask(replace(self._query, plus=self._query.plus + part))
        else:
            self._ask(replace(self._query, minus=self._query.minus + part))

    def _more(self) -> None:
        if self._query is None or self._last is None:
            raise ValueError(":more goes on with what was asked last: ask something first")
        self._ask(self._query, offset=self._last.offset + len(self._last.hits))

    def _use(self, options: Options) -> None:
        """Answer by these options from now on, if they hold."""
        self._index.check(options)
        self._options = options

    def _write(self, file: Path) -> None:
        from pairloom.search.sheet import contact_sheet

        if self._last is None:
            raise ValueError(":html writes the last hits: ask something first")
        file.write_text(contact_sheet([(self._last.title, self._last)]), encoding="utf-8")
        out.print(Line(f"{file}: {len(self._last.hits)} hits"))

    def _sql(self, statement: str) -> None:
        from pairloom.search.sql import json_rows

        show_rows(json_rows(self._index.sql(statement).rows))


def _given(command: str, rest: str, what: str) -> str:
    if not rest:
        raise ValueError(f"{command} wants {what}")
    return rest


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f":k wants a number, not {text!r}")
    return int(text)
