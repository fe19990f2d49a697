"""Nights without learning: everything that a night stores, by the storage that stores it, with faults at any step."""

import io
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import BaseModel
from vector_rows import D, unit_vectors

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.digest import digest
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import digest_files
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.pairs import PairStore
from pairloom.storage.releases import Release, Training, release_log, roll_back
from pairloom.storage.runs import Run
from pairloom.storage.schema import PAIRS, item_schema, vector_schema
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable, table_name

Items = dict[str, str]
"""Text by item id."""

ITEMS = 24
"""As many as there are every night: the disk of one night may be compared with that of another."""


class KilledError(BaseException):
    """The process ends here."""


class Ref(BaseModel):
    """What a stage leaves in a run."""

    model_id: str | None = None
    pairs_id: str | None = None


@dataclass
class StoredNights:
    """One pipeline's folder, and what its releases are to serve."""

    folder: Path
    random: random.Random
    deadly: float = 0
    """How likely each step is to be the last."""
    items: Items = field(default_factory=dict)
    served: dict[int, Items] = field(default_factory=dict)
    """What each release serves."""
    count: int = 0

    def edit(self) -> None:
        """Change what the sources hold: rows come, some change, the oldest go, so that parts die out."""
        for gone in list(self.items)[: self.random.randrange(2, 7)]:
            del self.items[gone]
        for changed in self.random.sample(sorted(self.items), min(len(self.items), self.random.randrange(3))):
            self.items[changed] = f"text {self._next()}"
        while len(self.items) < ITEMS:
            self.items[f"i{self._next()}"] = f"text {self._next()}"

    def night(self, *, retrain: bool = False, held: bool = False) -> None:
        """One night over the sources as they are; KilledError at any step."""
        snapshot = self.ingest()
        champion = release_log(self.folder).current()
        model_id = champion.model_id if champion else None
        if retrain or model_id is None:
            challenger = self.train(snapshot, champion)
            model_id = model_id if held else challenger
        if model_id and (
            champion is None or champion.snapshot_digest != snapshot.digest or model_id != champion.model_id
        ):
            self.publish(snapshot, champion, model_id)

    def roll_back(self, number: int) -> Release:
        """As a person does."""
        release = roll_back(self.folder, number)
        self.served[release.number] = self.served[number]
        return release

    def ingest(self) -> Snapshot:
        """Bring the corpus up to the sources, as an ingest does."""
        corpus = Corpus(self.folder)
        base, number = corpus.current(), corpus.log.next_number()
        held = {
            row["item_id"]: (row["texts"][0], part.digest)
            for part in base.parts
            for batch in corpus.read(base, part, ["item_id", "texts"])
            for row in batch.to_pylist()
        }
        stale = {item: part for item, (text, part) in held.items() if self.items.get(item) != text}
        fresh = sorted(item for item, text in self.items.items() if held.get(item, ("", ""))[0] != text)
        if not stale and not fresh:
            return base
        rows = pa.Table.from_pylist([_row(item, self.items[item]) for item in fresh], item_schema({}))
        parts = [corpus.write_items(rows, base)] if fresh else []
        self._step(corpus.part_path(parts[0]) if parts else None)
        dead = {
            part: (*base.tombstones.get(part, ()), *(i for i in stale if stale[i] == part)) for part in held_parts(base)
        }
        snapshot = Snapshot(
            number=number, files={}, parts=(*base.parts, *parts), quarantine=(), tombstones=dead, keep={}
        )
        snapshot = corpus.commit(snapshot, base.files)
        self._step()
        return snapshot

    def train(self, snapshot: Snapshot, champion: Release | None) -> str:
        """A run that mines and trains, and leaves what a run leaves."""
        run = Run(self.folder, run_name(snapshot, champion))
        if done := run.read("train", Ref):
            return str(done.model_id)
        pairs_id = digest(["pairs", self._next()])
        PairStore(self.folder).write(pairs_id, [PAIRS.empty_table()], {})
        run.write("mine", Ref(pairs_id=pairs_id))
        run.training.mkdir()
        (run.training / "step").write_bytes(bytes(20_000))
        run.pixels.write_bytes(bytes(50_000))
        self._step(run.pixels)
        run.built.mkdir()
        (run.built / "open_clip_config.json").write_text("{}")
        (run.built / "open_clip_model.safetensors").write_bytes(self.random.randbytes(10_000))
        model_id = ModelStore(self.folder).adopt(run.built)
        ModelStore(self.folder).describe(model_id, {}, "card")
        self._step()
        run.write("train", Ref(model_id=model_id))
        return model_id

    def publish(self, snapshot: Snapshot, champion: Release | None, model_id: str) -> None:
        """Embed, bring the table up to the snapshot, release it."""
        corpus, store = Corpus(self.folder), EmbeddingStore(self.folder, model_id)
        for part in store.missing(snapshot):
            ids = [each for batch in corpus.read(snapshot, part, ["item_id"]) for each in batch["item_id"].to_pylist()]
            store.write(part, ids, *(np.stack([_vector(each) for each in ids]) for _ in range(2)))
            self._step(store.folder / f"part-{part.digest}.parquet")
        table = VectorTable.create_or_open(self.folder, model_id, dimension=D, keep={})
        wanted = {row["item_id"]: row for row in corpus.table(snapshot, ["item_id", "texts"]).to_pylist()}
        there = {row["item_id"]: row["content_digest"] for row in table.items().to_pylist()}
        missing = [
            _vector_row(each, row["texts"]) for each, row in wanted.items() if there.get(each) != row["texts"][0]
        ]
        if missing:
            table.upsert(pa.Table.from_pylist(missing, vector_schema(D, {})))
            self._step()
        table.delete(sorted(there.keys() - wanted.keys()))
        self._step()
        table.sync({})
        log = release_log(self.folder)
        number = log.next_number()
        files = [*ModelStore(self.folder).files(model_id), *table.files()]
        release = Release(
            number=number,
            files=digest_files(self.folder, iter(files), champion.files if champion else {}),
            created_at=datetime.now(UTC),
            snapshot=snapshot.number,
            snapshot_digest=snapshot.digest,
            model_id=model_id,
            table=table_name(model_id),
            table_version=table.version,
            rows=len(wanted),
            dimension=D,
            max_side=8,
            keep={},
            index=None,
            metrics={},
            training=self._training(snapshot, champion, model_id),
            reason="",
        )
        TableUpkeep(table.path).tag(number, table.version)
        self._step()
        log.publish(release)
        self.served[number] = {each: row["texts"][0] for each, row in wanted.items()}
        self._step()
        Run(self.folder, run_name(snapshot, champion)).sweep()

    def _training(self, snapshot: Snapshot, champion: Release | None, model_id: str) -> Training:
        if champion and champion.model_id == model_id:
            return champion.training
        return Training(
            config_digest="c", items=1, snapshot=snapshot.number, trained_at=datetime.now(UTC), verdict="released"
        )

    def _step(self, written: Path | None = None) -> None:
        """Where the process may be killed; what it was about to write over `written` is left aside."""
        if self.random.random() < self.deadly:
            if written:
                written.with_name(f".{written.name}.ab12_9xz").write_bytes(bytes(100))
            raise KilledError

    def _next(self) -> int:
        self.count += 1
        return self.count


def run_name(snapshot: Snapshot, champion: Release | None) -> str:
    """As the night's decision names a run: by corpus and release."""
    return digest([snapshot.digest, champion.number if champion else None])


def held_parts(snapshot: Snapshot) -> Iterator[str]:
    """Digests of its parts."""
    return (part.digest for part in snapshot.parts)


def _row(item: str, text: str) -> dict[str, object]:
    pixels = np.random.default_rng(zlib.crc32(text.encode())).integers(0, 255, (8, 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return {
        "item_id": item,
        "image": {"bytes": stream.getvalue(), "path": f"{item}.png"},
        "texts": [text],
        "split": "train",
        "content_digest": text,
        "ingested_at": datetime(2026, 11, 26, tzinfo=UTC),
    }


def _vector(item: str) -> np.ndarray:
    (vector,) = unit_vectors(int(item[1:]), 1)
    return np.asarray(vector)


def _vector_row(item: str, texts: list[str]) -> dict[str, object]:
    facts = {"group": None, "path": "p", "width": 8, "height": 8, "source": "s", "thumbnail": b"x", "split": "train"}
    vectors = {"image_vector": _vector(item), "text_vector": _vector(item)}
    return {"item_id": item, "texts": texts, "content_digest": texts[0], **facts, **vectors}
