"""What `sources:` and `pairs:` of a pipeline say."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, model_validator

from pairloom.storage.sources.shards import folder_of


class _Source(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    path: Path
    """The caption file, or the folder of images."""
    name: str | None = None
    """What the rows' `source` says; without it the folder's and the file's name, as in `grocery/captions`."""
    where: str | None = None
    """SQL expression over the source's columns, such as `skin_tone = 'none'`; other rows are filtered."""
    mode: Literal["mirror", "append"] = "mirror"
    """What becomes of items whose rows or images are gone: they leave the corpus (`mirror`), or stay until a row of the
    same id replaces them (`append`)."""
    max_removed: float | None = Field(default=None, ge=0, le=1)
    """As `ingest.max_removed`, for this source alone."""

    @property
    def label(self) -> str:
        """`name`, or what stands for it."""
        return self.name or "/".join(part for part in (self.path.parent.name, self.path.stem) if part)


class _CaptionFile(_Source, frozen=True):
    base: Path | None = None
    """Folder that image paths start from and may not leave; without it the caption file's."""

    @property
    def image_folder(self) -> Path:
        return self.path.parent if self.base is None else self.base


class JsonlSource(_CaptionFile, frozen=True):
    """A file of JSON objects, one a line."""

    kind: Literal["jsonl"] = "jsonl"


class CsvSource(_CaptionFile, frozen=True):
    """A CSV file with a header."""

    kind: Literal["csv"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """What stands between cells; a tab is written `"\\t"`."""


class FolderSource(_Source, frozen=True):
    """Images in a folder and those below it, each with its texts in a `.txt` file of the same stem, best first.

    Its columns are `image` (path below the folder), `text`, `folder` and `name`; image and texts are found whatever
    `columns.image` and `columns.texts` say.
    """

    kind: Literal["folder"] = "folder"

    @property
    def image_folder(self) -> Path:
        return self.path


class _Shards(_Source, frozen=True):
    path: Path
    """One file, a folder of them, or a pattern such as `shards/*.parquet`."""


class _Table(_Shards, frozen=True):
    base: Path | None = None
    """Folder that image paths start from and may not leave, where the image column holds paths; without it the folder
    that the files are in."""

    @property
    def image_folder(self) -> Path:
        return folder_of(self.path) if self.base is None else self.base


class ParquetSource(_Table, frozen=True):
    """Parquet files, what `datasets.save_to_disk` writes, or the folder of another pipeline (its current items).

    The image column holds bytes, structs of `bytes` and `path`, or paths.
    """

    kind: Literal["parquet"] = "parquet"


class WebDatasetSource(_Shards, frozen=True):
    """Tar shards as the webdataset library and img2dataset write them; nothing is extracted.

    Its columns are the keys of each sample's `.json`, `text` (its `.txt`), `caption`, `cls`, `__key__`, and the image,
    which `columns.image` need not name.
    """

    kind: Literal["webdataset"] = "webdataset"

    @property
    def image_folder(self) -> Path:
        return folder_of(self.path)


class LanceSource(_Table, frozen=True):
    """A LanceDB table; its image column holds bytes, structs of `bytes` and `path`, blobs, or paths."""

    kind: Literal["lance"] = "lance"
    path: Path
    """The database's folder, or the table's own, whose name ends in `.lance`."""
    table: str | None = None
    """The table's name, where `path` is the database's folder."""
    version: int | None = Field(default=None, ge=1)
    """Version of the table; without it the latest."""

    @property
    def image_folder(self) -> Path:
        beside = self.path.parent if self.path.suffix == ".lance" else self.path
        return beside if self.base is None else self.base


SourceConfig = Annotated[
    JsonlSource | CsvSource | FolderSource | ParquetSource | WebDatasetSource | LanceSource,
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
