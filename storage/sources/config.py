"""What `sources:` and `pairs:` of a pipeline say."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, model_validator

from pairloom.storage.fetching.config import FetchConfig


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
    fetch: FetchConfig | None = None
    """Fetches images whose column holds http(s) addresses, as this says; without it such rows are quarantined."""
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


SourceConfig = Annotated[JsonlSource | CsvSource | FolderSource, Field(discriminator="kind")]


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
