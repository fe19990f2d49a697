"""What the caller lends a statement beside the release: tables of CSV or Parquet, and a folder of images.

The caller names the files. A statement knows the tables by the names given here, and images by names below the folder.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_DELIMITERS = (",", "\t", ";", "|")
_FIRST_LINE = 2**16


@dataclass(frozen=True)
class Attached:
    """Files that the caller attaches: tables by name, and the folder that images of a statement are below."""

    tables: Mapping[str, Path] = field(default_factory=dict)
    images: Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a name that no table can have, and where two are the same but for case."""
        if wrong := [name for name in self.tables if not _NAME.fullmatch(name)]:
            raise ValueError(f"no table can be called {wrong[0]!r}: take letters, digits and underscores")
        if len({name.lower() for name in self.tables}) < len(self.tables):
            raise ValueError(f"two tables are called alike: {', '.join(self.tables)}")

    def image(self, name: str) -> Path:
        """The image that a statement names, below the caller's folder. ValueError for any other."""
        from pairloom.storage.sources.image_folder import ImageFolder

        if self.images is None:
            raise ValueError(
                f"a statement reads no file of its own: {name[:200]!r} needs --image-folder DIR, "
                "below which the images are that it may name"
            )
        if "://" in name:
            raise ValueError(f"{name[:200]!r} is an address: a statement fetches nothing")
        found = ImageFolder(self.images).find(name).origin
        assert isinstance(found, Path)
        return found


NOTHING = Attached()


def attached_files(given: Sequence[str]) -> dict[str, Path]:
    """`name=FILE`, as the command line has it. ValueError for what isn't that, and for a name given twice."""
    files: dict[str, Path] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not equals or not path:
            raise ValueError(f"--attach {each}: write NAME=FILE")
        if name in files:
            raise ValueError(f"--attach {each}: there is a table {name} already")
        files[name] = Path(path)
    return files


def read_table(path: Path) -> Any:
    """A CSV or Parquet file as Arrow: Parquet is scanned where it lies, CSV is read. ValueError where it can't be."""
    import pyarrow as pa

    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        match path.suffix.lower():
            case ".parquet" | ".pq":
                import pyarrow.dataset

                return pyarrow.dataset.dataset(str(path), format="parquet")
            case ".csv" | ".tsv" | ".txt":
                import pyarrow.csv

                options = pyarrow.csv.ParseOptions(delimiter=_delimiter(path), newlines_in_values=True)
                return pyarrow.csv.read_csv(path, parse_options=options)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ValueError(f"{path} can't be read: {str(error).splitlines()[0]}") from error
    raise ValueError(f"{path}: name a file that ends in .csv, .tsv or .parquet")


def _delimiter(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        header = stream.readline(_FIRST_LINE)
    return max(_DELIMITERS, key=header.count)
