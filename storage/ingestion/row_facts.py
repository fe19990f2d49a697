"""What is written down of a row that was read tonight, so that it need not be read again."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pairloom.storage.corpus import SPLITS
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import Address
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage
from pairloom.storage.ingestion.caps import cap_key, domain
from pairloom.storage.ingestion.images import UNKNOWN, Found, decision, image_at
from pairloom.storage.ingestion.known_rows import FRESH, Checked, Trim
from pairloom.storage.ingestion.part_writer import Values
from pairloom.storage.ingestion.settling import Candidate, Picture, candidate
from pairloom.storage.ingestion.splits import group_position
from pairloom.storage.reasons import Reason
from pairloom.storage.sources.raw_row import RawRow
from pairloom.storage.sources.source_row import RejectedRow, SourceRow

TEXT_ALONE = frozenset(
    {
        Reason.MALFORMED_ROW,
        Reason.ID_MISSING,
        Reason.IMAGE_MISSING,
        Reason.TEXT_EMPTY,
        Reason.SPLIT_UNKNOWN,
        Reason.METADATA_TYPE,
        Reason.WHERE,
        Reason.WHERE_UNDECIDED,
        Reason.TEXT_TOO_SHORT,
        Reason.TEXT_TOO_LONG,
        Reason.TEXT_CONTROL_CHARACTERS,
        Reason.TEXT_NO_LETTERS,
        Reason.TEXT_ADDRESS,
        Reason.TEXT_FILE_NAME,
    }
)
"""Reasons that nothing but the row itself can take away."""


@dataclass(frozen=True, slots=True)
class FreshRow:
    """A row of tonight that is not known as it is."""

    raw: RawRow
    key: bytes
    row: SourceRow | RejectedRow
    found: Found | None = None
    """Its image; None for a row that was rejected without a look at it."""
    content: DecodedImage | None = None
    """What is to be stored of the image, where that was decoded just now."""
    candidate: Candidate | None = field(default=None)

    @property
    def picture(self) -> Picture:
        """The image of a candidate."""
        assert self.found is not None
        assert isinstance(self.found.image, Picture)
        return self.found.image


def fresh_row(
    raw: RawRow, key: bytes, row: SourceRow | RejectedRow, found: Found | None, content: DecodedImage | None
) -> FreshRow:
    """A row with its image."""
    made = None
    if isinstance(row, SourceRow) and found is not None and isinstance(found.image, Picture):
        made = candidate(row, found.image)
    return FreshRow(raw, key, row, found, content, made)


def facts(rows: Sequence[FreshRow], config: IngestConfig) -> pa.RecordBatch:
    """All there is to know of some rows, in the columns of `FRESH`."""
    values = [_facts(each, config) for each in rows]
    arrays = [pa.array([each[name] for each in values], FRESH.field(name).type) for name in FRESH.names]
    return pa.RecordBatch.from_arrays(arrays, schema=FRESH)


def _facts(fresh: FreshRow, config: IngestConfig) -> dict[str, Any]:
    row = fresh.row
    values = {
        **_NOTHING,
        "key": fresh.key,
        "decided_by": decision(config),
        "max_side": config.max_side,
        "trim": Trim.NEEDLESS if config.trim else Trim.OFF,
        "fingerprint": bytes.fromhex(row.fingerprint),
        "item_id": row.item_id,
        "image_path": row.image_path,
        "file": row.file,
    }
    if isinstance(row, RejectedRow):
        checked = Checked.NOTHING if row.reason in TEXT_ALONE else Checked.EVERYTHING
        return {**values, "checked": checked, "reason": row.reason, "message": row.message}
    assert fresh.found is not None, "a row that names an image comes with it"
    image = row.image
    values |= {
        "checked": _checked(fresh.raw, row),
        "image": image.key,
        "version": image.version,
        "length": -1 if image.length is None else image.length,
        "image_at": image_at(image),
        "image_bytes": fresh.found.digest,
        "retry": fresh.found.retry,
    }
    match fresh.found.image:
        case RejectedImage() as rejected:
            return {**values, **asdict(rejected)}
        case Picture() as picture:
            made = fresh.candidate
            assert made is not None, "a picture makes a candidate"
            return {
                **values,
                "is_picture": True,
                **({"trim": Trim.DONE} if picture.trimmed else {}),
                "pixel_hash": bytes.fromhex(picture.pixel_hash),
                "perceptual_hash": bytes.fromhex(picture.perceptual_hash),
                "width": picture.width,
                "height": picture.height,
                "stored_digest": bytes.fromhex(picture.stored_digest),
                "item_id": made.item_id,
                "made_id": row.item_id is None,
                "id_digest": id_digest(made.item_id),
                "said": made.said,
                "same": made.same,
                "content_digest": made.content,
                "group": group_position(row.group or picture.pixel_hash),
                "split": -1 if row.split is None else SPLITS.index(row.split),
                "texts": list(row.texts) if config.near_duplicates == "merge" else None,
                "text_key": cap_key(row.texts[0]),
                "domain_key": cap_key(domain(image.origin.url) if isinstance(image.origin, Address) else None),
            }


def id_digest(item_id: str) -> int:
    """By which ids are compared."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little")


def item_values(fresh: FreshRow, split: str) -> Values:
    """What is stored of an item, but for its image's bytes."""
    row, picture, made = fresh.row, fresh.picture, fresh.candidate
    assert isinstance(row, SourceRow)
    assert made is not None
    return {
        **row.metadata,
        "item_id": made.item_id,
        "path": row.image_path,
        "texts": list(row.texts),
        "group": row.group,
        "split": split,
        "split_named": row.split is not None,
        "content_digest": made.content,
        "stored_digest": picture.stored_digest,
        "pixel_hash": picture.pixel_hash,
        "perceptual_hash": picture.perceptual_hash,
        "width": picture.width,
        "height": picture.height,
        "source": row.source,
    }


def _checked(raw: RawRow, row: SourceRow) -> Checked:
    if row.nulled:  # its cells are counted every night
        return Checked.EVERYTHING
    if raw.image is not None:
        return Checked.EVERYTHING if raw.image.beside else Checked.INSIDE
    image = row.image
    # Other names than the file's own are those of images at addresses, or written in another way than the row has it:
    # one day there may be a file of the row's own spelling.
    named = isinstance(image.origin, Path) and str(image.origin) == image.key and image.key.endswith(row.image_path)
    return Checked.FILE if named else Checked.EVERYTHING


def _nothing(kind: pa.DataType) -> Any:
    if pa.types.is_fixed_size_binary(kind):
        return UNKNOWN[: kind.byte_width]
    return False if pa.types.is_boolean(kind) else "" if pa.types.is_string(kind) else 0


_NOTHING = {each.name: None if each.nullable else _nothing(each.type) for each in FRESH} | {"attempts": 1, "split": -1}
