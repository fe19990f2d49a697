"""`pairloom shell`: questions to one index, a line each, by a model that stays loaded."""

from dataclasses import replace
from pathlib import Path

from pairloom.flows.shell_options import changed, given, number, said_of
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
:image FILE        look for what resembles this image; `2:photo.jpg` counts twice
:plus TEXT         add a text to what was asked last
:minus TEXT        take a text from it
:more              the next hits
:offset N          its hits behind the first so many
:again             ask it once more, as is said below
:html FILE         write the last hits with their pictures to this page
:sql SELECT …      one statement over the table `items`
:refresh           go to the newest release
:options           what holds for the next question
:help              this
:quit              leave, as does the end of the input
From now on, until it is said again:
:k N               so many hits
:where CONDITION   only items for which this holds; alone: all items
:columns NAME …    show these columns; alone: the pipeline's own
:target text       compare with the items' texts; `image`: with their images
:metric NAME       scores are `cosine`, `inner_product` or `euclidean`; the hits stay the same
:hybrid            also items that hold the words of a text; again: no more
:rerank N          the cross-encoder orders the nearest N; alone: 50 of them; `off`: none
:diversity NUMBER  how much hits differ, from 0 to 1; alone: 0
:collapse          one of the hits that have the same picture; again: all of them
:hubness on        images near many texts stand further back; `off`: they don't; alone: as the release says
:fitting           leave out what lies below the release's cut-off; again: show it"""


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
        about = [self._index.folder.name, str(self._index.release), *said_of(self._options)]
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
                self._ask(Query(like=given(command, rest, "an item_id")))
            case ":image":
                self._ask(asked_for(image=named_picture(given(command, rest, "a file"))))
            case ":plus" | ":minus":
                self._change(command, given(command, rest, "a text"))
            case ":more":
                self._repeat(command, self._last.offset + len(self._last.hits) if self._last else 0)
            case ":offset":
                self._repeat(command, number(command, rest))
            case ":again":
                self._repeat(command)
            case ":html":
                self._write(Path(given(command, rest, "a file")))
            case ":sql":
                self._sql(given(command, rest, "a SELECT"))
            case ":refresh":
                out.print(Line(f"release {self._index.refresh()}"))
            case ":options":
                out.print(Line("; ".join(said_of(self._options, every=True))))
            case ":help":
                for each in HELP.split("\n"):
                    out.print(Line(each))
            case _:
                self._use(changed(self._options, command, rest))

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

    def _repeat(self, command: str, offset: int = 0) -> None:
        if self._query is None:
            raise ValueError(f"{command} goes on with what was asked last: ask something first")
        self._ask(self._query, offset=offset)

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
