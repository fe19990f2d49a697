"""What `sources:` and `pairs:` of a pipeline say."""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, Field, model_validator

from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.sources.columns import ColumnsConfig, OnBadCell
from pairloom.storage.sources.dated import check_dates, is_dated, on_day, undated
from pairloom.storage.sources.listing import listed


def _known(encoding: str) -> str:
    try:
        "a".encode(encoding)
    except (LookupError, ValueError) as error:
        raise ValueError(f"no encoding of texts that Python knows, such as latin-1 or utf-16: {error}") from error
    return encoding


Encoding = Annotated[str, AfterValidator(_known)]


DatedPath = Annotated[Path, AfterValidator(check_dates)]


class _Source(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    path: DatedPath | Annotated[tuple[DatedPath, ...], Field(min_length=1)]
    """The caption file, or the folder of images; also a pattern such as `captions/*.jsonl` (`**` for any folders
    between), or a list of paths and patterns. `{date}` in it is the night's day, `{until}` every day up to that. What
    exists as it is written is no pattern."""
    name: str | None = None
    """What the rows' `source` says; without it the folder's and the file's name, as in `grocery/captions`."""
    columns: ColumnsConfig | None = None
    """What differs in this source from the pipeline's `columns`, key by key; `null` for what it does not have. Kept
    columns have the pipeline's names and types; a source that has `columns` need not have all of them."""
    where: str | None = None
    """SQL expression over the source's columns, such as `skin_tone = 'none'`; other rows are filtered."""
    on_bad_cell: OnBadCell | None = None
    """As `ingest.on_bad_cell`, for this source alone."""
    mode: Literal["mirror", "append"] = "mirror"
    """What becomes of items whose rows or images are gone: they leave the corpus (`mirror`), or stay until a row of the
    same id replaces them (`append`)."""
    max_removed: float | None = Field(default=None, ge=0, le=1)
    """As `ingest.max_removed`, for this source alone."""

    what: ClassVar[str] = "caption file"
    """What `path` is to name."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """`path` as a list, patterns as they are written."""
        return (self.path,) if isinstance(self.path, Path) else self.path

    @property
    def label(self) -> str:
        """`name`, or what stands for it."""
        first, more = undated(self.paths[0]), len(self.paths) - 1
        stands = "/".join(part for part in (first.parent.name, first.stem) if part)
        return self.name or (f"{stands} and {more} more" if more else stands)

    @property
    def files(self) -> tuple[Path, ...]:
        """What `path` names, in its order, those of a pattern sorted, each once; nothing of it need be there.

        Raises ValueError for a pattern that matches nothing.
        """
        found: dict[Path, None] = {}
        for path in self.paths:
            found |= dict.fromkeys(listed(path, self.fits))
        return tuple(found)

    @property
    def dated(self) -> bool:
        """Whether it is another day's files that another night reads."""
        return any(is_dated(path) for path in self.paths)

    def on(self, day: date) -> Self:
        """This source for the night of a day, under the same label; nothing of that day need be there."""
        paths = tuple(path for each in self.paths for path in on_day(each, day))
        return self.model_copy(update={"path": paths, "name": self.label})

    def columns_over(self, pipeline: ColumnsConfig) -> ColumnsConfig:
        """What the columns of this source mean, beside what those of its pipeline do."""
        return pipeline if self.columns is None else self.columns.over(pipeline)

    def fits(self, path: Path) -> bool:
        """Whether `path` is what this kind of source reads."""
        return path.is_file()

    def image_folder(self, file: Path) -> Path:
        """Where the image paths of one of the files start."""
        return file if file.is_dir() else file.parent


class CaptionFile(_Source, frozen=True):
    fetch: FetchConfig | None = None
    """Fetches images whose column holds http(s) addresses, as this says; without it such rows are quarantined."""
    base: DatedPath | None = None
    """Folder that image paths start from and may not leave; without it each caption file's own. `{date}` may
    stand in it."""

    @property
    def dated(self) -> bool:
        return super().dated or (self.base is not None and is_dated(self.base))

    def on(self, day: date) -> Self:
        return super().on(day).model_copy(update={"base": self.base and on_day(self.base, day)[-1]})

    def image_folder(self, file: Path) -> Path:
        return super().image_folder(file) if self.base is None else self.base


class _TextFile(CaptionFile, frozen=True):
    encoding: Encoding = "utf-8"
    """How the files are encoded: any name that Python knows, such as `latin-1`, `cp1252` or `utf-16`. Files that gzip
    packed are unpacked on the way."""


class JsonlSource(_TextFile, frozen=True):
    """Files of JSON objects, one a line."""

    kind: Literal["jsonl"] = "jsonl"


class DelimitedSource(_TextFile, frozen=True):
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """What stands between cells; a tab is written `"\\t"`."""
    quote: str = Field(default='"', pattern=r"^(.|none)$")
    """What stands around cells that hold a delimiter or a line break; `none` where quotes are text like any other."""

    @model_validator(mode="after")
    def _cells_can_be_told_apart(self) -> Self:
        if self.delimiter in "\r\n" or self.quote in (self.delimiter, "\r", "\n"):
            raise ValueError(f"cells can't be told apart by delimiter {self.delimiter!r} and quote {self.quote!r}")
        return self


class CsvSource(DelimitedSource, frozen=True):
    """CSV files with a header."""

    kind: Literal["csv"] = "csv"


class TsvSource(DelimitedSource, frozen=True):
    """Files with a header and a tab between cells."""

    kind: Literal["tsv"] = "tsv"
    delimiter: str = Field(default="\t", min_length=1, max_length=1)
    """What stands between cells."""


class FolderSource(_Source, frozen=True):
    """Images in a folder and those below it, each with its texts in a file of the same stem beside it: the lines of a
    `.txt`, best first, or a `.json` object with `text`, `texts`, `caption` or the keys that `columns.texts` names.

    Its columns are `image` (path below the folder), `text`, `folder`, `name` and the other keys of the `.json`; image
    and texts are found whatever `columns.image` and `columns.texts` say.
    """

    kind: Literal["folder"] = "folder"
    text_from: Literal["sidecar", "name", "folder"] = "sidecar"
    """Where texts come from: the files beside the images, the images' own names (`red_shoe.jpg`: red shoe), or the name
    of the folder that each lies in."""
    encoding: Encoding = "utf-8"
    """How the `.txt` and `.json` files are encoded."""

    what: ClassVar[str] = "folder"

    def fits(self, path: Path) -> bool:
        return path.is_dir()

    def image_folder(self, file: Path) -> Path:
        return file


class ParquetSource(CaptionFile, frozen=True):
    """Parquet files, what `datasets.save_to_disk` writes, or the folder of another pipeline (its current items).

    The image column holds bytes, structs of `bytes` and `path`, paths or addresses.
    """

    kind: Literal["parquet"] = "parquet"

    what: ClassVar[str] = "Parquet file or folder of them"

    def fits(self, path: Path) -> bool:
        return path.exists()


class WebDatasetSource(_Source, frozen=True):
    """Tar shards as the webdataset library and img2dataset write them; nothing is extracted.

    Its columns are the keys of each sample's `.json`, `text` (its `.txt`), `caption`, `cls`, `__key__`, and the image,
    which `columns.image` need not name.
    """

    kind: Literal["webdataset"] = "webdataset"

    what: ClassVar[str] = "tar shard or folder of them"

    def fits(self, path: Path) -> bool:
        return path.exists()


class LanceSource(CaptionFile, frozen=True):
    """A LanceDB table; its image column holds bytes, structs of `bytes` and `path`, blobs, paths or addresses."""

    kind: Literal["lance"] = "lance"
    table: str | None = None
    """The table's name, where `path` is the database's folder and not the table's own, whose name ends in `.lance`."""
    version: int | None = Field(default=None, ge=1)
    """Version of the table; without it the latest."""

    what: ClassVar[str] = "folder of a table or database"

    def fits(self, path: Path) -> bool:
        return path.is_dir()

    def image_folder(self, file: Path) -> Path:
        beside = file.parent if file.suffix == ".lance" else file
        return beside if self.base is None else self.base


SourceConfig = Annotated[
    JsonlSource | CsvSource | TsvSource | FolderSource | ParquetSource | WebDatasetSource | LanceSource,
    Field(discriminator="kind"),
]


Kind = Literal["parquet", "csv", "jsonl"]


class GivenPairsConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """A file of pairs of items, with the columns of docs/pairs.md; its path alone will do."""

    path: Path
    """The file, relative to pipelines.yaml."""
    kind: Kind | None = None
    """How it is written; without it, what its name ends in."""

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _kind_is_known(self) -> "GivenPairsConfig":
        if self.kind is None and self.path.suffix.removeprefix(".").lower() not in get_args(Kind):
            raise ValueError(f"{self.path}: say how it is written, kind: {' or '.join(get_args(Kind))}")
        return self
