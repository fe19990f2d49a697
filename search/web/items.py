"""One item with all that is known of it: where it comes from, what it was paired with, what made its vectors."""

import json
from datetime import datetime
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter
from fastapi import Query as Parameter
from pydantic import BaseModel

from pairloom.search.web.pictures import address
from pairloom.search.web.ranking import rows_of
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service
from pairloom.storage.corpus import Corpus
from pairloom.storage.files import DamagedError
from pairloom.storage.pairs import PairStore
from pairloom.storage.parquet import read_parquet
from pairloom.storage.plain_values import json_value
from pairloom.storage.secrets import redacted_values

PAIRS = 24
"""Pairs of an item that are told."""


class Origin(BaseModel, frozen=True, use_attribute_docstrings=True):
    """The row that an item was made of, and where it is kept."""

    source: str
    path: str | None
    """Of its image, as its source wrote it."""
    snapshot: int
    part: str | None
    """The corpus file that holds it; None where it is no longer there."""
    row: int | None
    """Its place in that file, from 0."""
    ingested_at: datetime | None
    content_digest: str
    pixel_hash: str | None
    perceptual_hash: str | None


class Made(BaseModel, frozen=True, use_attribute_docstrings=True):
    """What made its vectors."""

    release: int
    released_at: datetime
    reason: str
    model_id: str
    parent: str | None
    """The model that the training started from."""
    trained_on: int | None
    """The snapshot that the model was trained on."""
    steps: int | None
    seconds: float | None
    table: str
    table_version: int
    seen_in_training: bool
    """Whether it is a training item: the model has learned from it, if it was there then."""


class ItemPair(BaseModel, frozen=True):
    """A pair that was mined with the item as its anchor."""

    other: str
    relation: str
    kind: str
    score: float | None
    text: str
    picture: str | None


class ItemPage(BaseModel, frozen=True, use_attribute_docstrings=True):
    """One item."""

    release: int
    model_id: str
    item_id: str
    texts: list[str]
    group: str | None
    split: str
    width: int
    height: int
    metadata: dict[str, Any]
    picture: str
    own_score: float
    """Cosine similarity of its image and its texts."""
    origin: Origin
    made: Made
    pairs_id: str | None
    """The mining that is told of; None where none is kept."""
    pairs: list[ItemPair]


def find_row(release: ServedRelease, item_id: str) -> int:
    """The row id of an item. LookupError where the release has none of that id."""
    found = release.dataset.scanner(
        columns=["item_id"], filter=pc.field("item_id") == item_id, with_row_id=True, limit=1
    ).to_table()
    if not len(found):
        raise LookupError(f"release {release.record.number} has no item {item_id[:200]!r}")
    row: int = found["_rowid"].to_pylist()[0]
    return row


def item_page(release: ServedRelease, item_id: str) -> ItemPage:
    """All that is known of an item. LookupError where there is none."""
    row_id = find_row(release, item_id)
    (row,) = rows_of(release, [row_id], [each for each in release.columns if each != "thumbnail"])
    image_D, text_D = pa.array(row["image_vector"], pa.float32()), pa.array(row["text_vector"], pa.float32())
    pairs_id, pairs = _pairs(release, item_id)
    return ItemPage(
        release=release.record.number,
        model_id=release.record.model_id,
        item_id=item_id,
        texts=row["texts"],
        group=row["group"],
        split=row["split"],
        width=row["width"],
        height=row["height"],
        metadata={name: json_value(row[name]) for name in release.record.keep},
        picture=address(release, row_id),
        own_score=round(float(pc.sum(pc.multiply(image_D, text_D)).as_py()), 6),
        origin=_origin(release, item_id, row),
        made=_made(release, row["split"]),
        pairs_id=pairs_id,
        pairs=pairs,
    )


def _origin(release: ServedRelease, item_id: str, row: dict[str, Any]) -> Origin:
    corpus, wanted = Corpus(release.folder), pa.array([item_id], pa.string())
    found: dict[str, Any] = {}
    part_name = place = None
    try:
        snapshot = corpus.log.read(release.record.snapshot)
        columns = ["item_id", "ingested_at", "pixel_hash", "perceptual_hash"]
        for part in snapshot.parts:
            rows = [
                each
                for batch in corpus.read(snapshot, part, columns, among=("item_id", wanted))
                for each in batch.to_pylist()
            ]
            if rows:
                found, part_name = rows[0], corpus.part_path(part).name
                place = _place(corpus, part, item_id)
                break
    except (ValueError, DamagedError):
        pass  # a release is served without its corpus
    return Origin(
        source=row["source"],
        path=row["path"],
        snapshot=release.record.snapshot,
        part=part_name,
        row=place,
        ingested_at=found.get("ingested_at"),
        content_digest=row["content_digest"],
        pixel_hash=found.get("pixel_hash"),
        perceptual_hash=found.get("perceptual_hash"),
    )


def _place(corpus: Corpus, part: Any, item_id: str) -> int | None:
    done = 0
    for batch in read_parquet(corpus.part_path(part), ["item_id"]):
        ids: list[str] = batch["item_id"].to_pylist()
        if item_id in ids:
            return done + ids.index(item_id)
        done += len(ids)
    return None


def model_lineage(release: ServedRelease) -> dict[str, Any]:
    """What stands beside the released model of where it comes from; empty where nothing does."""
    try:
        facts = json.loads((release.folder / "models" / release.record.model_id / "pairloom.json").read_bytes())
    except (OSError, ValueError):
        return {}
    found: dict[str, Any] = redacted_values(facts) if isinstance(facts, dict) else {}
    return found


def _made(release: ServedRelease, split: str) -> Made:
    record, facts = release.record, model_lineage(release)
    return Made(
        release=record.number,
        released_at=record.created_at,
        reason=record.reason,
        model_id=record.model_id,
        parent=facts.get("parent"),
        trained_on=facts.get("snapshot"),
        steps=facts.get("steps"),
        seconds=facts.get("seconds"),
        table=record.table,
        table_version=record.table_version,
        seen_in_training=split == "train",
    )


def _pairs(release: ServedRelease, item_id: str) -> tuple[str | None, list[ItemPair]]:
    """Those of the mining that was written last."""
    store = PairStore(release.folder)
    audits = sorted(store.folder.glob("*/audit.json"), key=lambda path: path.stat().st_mtime)
    if not audits:
        return None, []
    pairs_id, wanted, rows = audits[-1].parent.name, pa.array([item_id], pa.string()), list[dict[str, Any]]()
    try:
        for path in sorted((store.folder / pairs_id).glob("part-*.parquet")):
            for batch in read_parquet(path, ["anchor", "other", "relation", "kind", "score"], among=("anchor", wanted)):
                rows += batch.to_pylist()
    except DamagedError:
        return pairs_id, []
    rows = rows[:PAIRS]
    others = sorted({row["other"] for row in rows})
    known: dict[str, Any] = {}
    if others:
        found = release.dataset.scanner(
            columns=["item_id", "texts"],
            filter=pc.field("item_id").isin(pa.array(others, pa.string())),
            with_row_id=True,
        ).to_table()
        known = {each["item_id"]: each for each in found.to_pylist()}
    return pairs_id, [
        ItemPair(
            other=row["other"],
            relation=row["relation"],
            kind=row["kind"],
            score=row["score"],
            text=(known.get(row["other"], {}).get("texts") or [""])[0],
            picture=address(release, known[row["other"]]["_rowid"]) if row["other"] in known else None,
        )
        for row in rows
    ]


def router(service: Service) -> APIRouter:
    """Where one item is had."""
    routes = APIRouter(tags=["items"])
    held = service.cache("items", 512)

    @routes.get("/api/items/{item_id:path}")
    def item(item_id: str, release: Annotated[int | None, Parameter(ge=1, le=10**9)] = None) -> ItemPage:
        """One item: its texts and columns, the row it was made of, its mined pairs, and what made its vectors."""
        with service.reading(release) as opened:
            found: ItemPage = held.get((opened.key, item_id), lambda: item_page(opened, item_id))
            return found

    return routes
