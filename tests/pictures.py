"""Pictures for tests of sources, and the bytes that a source row leads to."""

import io
from itertools import islice
from pathlib import Path

from PIL import Image

from pairloom.storage.images.location import Address, FileSlice
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import SourceConfig
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import RejectedRow, SourceRow

_PHOTOS = Path(__file__).parents[1].parent / "shared" / "data" / "photos"


def picture(number: int) -> bytes:
    """A small PNG file, another one for each number."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 7)).save(content, "PNG")
    return content.getvalue()


def pictures(count: int) -> list[bytes]:
    """JPEG files of real photographs where they are at hand, and drawn ones."""
    real = [path.read_bytes() for path in islice(sorted(_PHOTOS.rglob("*.jpg")), count // 2)]
    return [*real, *map(picture, range(count - len(real)))]


def image_bytes(row: SourceRow) -> bytes:
    """What the decoder would be given."""
    match row.image.origin:
        case Path() as path:
            return path.read_bytes()
        case FileSlice(path, offset, length):
            return path.read_bytes()[offset : offset + length]
        case Address():
            raise AssertionError("what is at an address is fetched first")
        case read:
            return read()


def read_rows(source: SourceConfig, columns: ColumnsConfig | None = None) -> list[SourceRow]:
    """The rows of a source that has no others."""
    rows = list(read_source(source, columns or ColumnsConfig()))
    good = [row for row in rows if isinstance(row, SourceRow)]
    assert len(good) == len(rows), [row for row in rows if isinstance(row, RejectedRow)]
    return good


def outcomes(source: SourceConfig, columns: ColumnsConfig | None = None) -> list[str]:
    """First text of each row that can be read, reason code of each other one."""
    rows = read_source(source, columns or ColumnsConfig())
    return [row.texts[0] if isinstance(row, SourceRow) else row.reason for row in rows]


def rejections(source: SourceConfig, columns: ColumnsConfig | None = None) -> list[RejectedRow]:
    """The rows that can't."""
    return [row for row in read_source(source, columns or ColumnsConfig()) if isinstance(row, RejectedRow)]
