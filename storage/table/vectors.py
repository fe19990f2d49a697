"""The vector table of one model: rows in by item_id, indexed, checked; versions are what releases name."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pairloom.storage.checked import damage_now
from pairloom.storage.failpoints import hit
from pairloom.storage.files import DamagedError, FileDigest, make_folder, sync
from pairloom.storage.local_copies import beside
from pairloom.storage.modelstore import TEXT_QUERIES, is_plain
from pairloom.storage.objects import ObjectPath, lance_options
from pairloom.storage.records import StaleWriterError
from pairloom.storage.schema import VECTOR_COLUMNS, ColumnType, vector_schema
from pairloom.storage.table.check import TableCheck, check_table
from pairloom.storage.table.columns import carry_out_columns, columns_due
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.effort import KEY, Effort
from pairloom.storage.table.index import COLUMN, carry_out, due, wanted_kind
from pairloom.storage.table.manifests import manifest_path, open_version, put_unreadable_aside
from pairloom.storage.table.rows import bits, chunks
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.versions import stored_versions
from pairloom.storage.table.words import carry_out_words, words_due
from pairloom.storage.training_texts import TrainingTexts

logger = logging.getLogger(__name__)

ROWS_PER_COMMIT = 50_000
IDS_PER_DELETE = 5_000
MAX_FRAGMENTS = 64
"""Data files beyond which the small ones are merged: a night adds one, so the copying is paid back over two months."""
LANCEDB_METADATA, OWN_METADATA = "embedding_functions", "pairloom_model"


class Upserted(BaseModel, frozen=True, extra="forbid"):
    """What an upsert did."""

    inserted: int
    updated: int


class VectorTable:
    """The LanceDB table of one model, at one version.

    Written through Lance's own Python package: LanceDB's would load the model that the metadata names on every write.
    """

    def __init__(self, path: Path, version: int | None = None) -> None:
        """Open the table at `path`, at `version` or the latest. ValueError where there is none, or it is damaged."""
        self.path = path
        self._released: Mapping[str, FileDigest] = {}
        self._fresh: set[int] | None = None
        self._dataset: Any = open_version(path, version)

    @classmethod
    def create_or_open(cls, folder: Path, model_id: str, *, dimension: int, keep: Mapping[str, ColumnType]) -> Self:
        """The latest version of the table of `model_id` below the pipeline's `folder`; an empty one where none is."""
        path = folder / table_name(model_id)
        return cls(path) if stored_versions(path) else cls.create(folder, model_id, dimension=dimension, keep=keep)

    @classmethod
    def create(cls, folder: Path, model_id: str, *, dimension: int, keep: Mapping[str, ColumnType]) -> Self:
        """An empty table of `model_id`. Where there is one, this is a new version of it, and the others stay."""
        import lance

        path = folder / table_name(model_id)
        make_folder(path.parent)
        damaged = put_unreadable_aside(path)
        model = folder / "models" / model_id
        schema = vector_schema(dimension, keep, hubness=TrainingTexts(model).kept)
        empty = schema.empty_table().replace_schema_metadata(table_metadata(model))
        mode = "overwrite" if stored_versions(path) else "create"
        lance.write_dataset(empty, str(path), mode=mode, storage_options=lance_options(path))
        table = cls(path)
        table._pass(damaged)
        return table

    @classmethod
    def reopen(cls, folder: Path, model_id: str, version: int, files: Mapping[str, FileDigest]) -> Self:
        """The table as a release names it, made the latest version again: nothing that was written since has an effect.

        `files` are the release's digests. Raises DamagedError where the version can't be opened, or where what the next
        version takes over from it (all but the data and the index) is not as it was released.
        """
        path = folder / table_name(model_id)
        try:
            table = cls(path, version)
        except ValueError as error:
            raise DamagedError(str(error)) from error
        table._released = {name: each for name, each in files.items() if name.startswith(f"{table_name(model_id)}/")}
        table._require_whole("/_versions/", "/_deletions/")
        damaged = put_unreadable_aside(path, beyond=version)
        if damaged or table._dataset.latest_version != version:
            table._dataset.restore()
        table._pass(damaged)
        table._fresh = set()
        return table

    @property
    def schema(self) -> pa.Schema:
        """The columns of its rows."""
        return self._dataset.schema

    @property
    def version(self) -> int:
        """The version that the last operation made or found."""
        return int(self._dataset.version)

    @property
    def upkeep(self) -> TableUpkeep:
        """What holds its versions."""
        return TableUpkeep(self.path, opened=self._dataset)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns of all rows, some thousands at a time."""
        yield from self._dataset.scanner(columns=list(columns), batch_size=8192).to_batches()

    def items(self) -> pa.Table:
        """`item_id`, `content_digest` and `split` of every row: what an upsert need not bring again."""
        return self._dataset.to_table(columns=["item_id", "content_digest", "split"])

    def upsert(self, rows: pa.Table | pa.RecordBatchReader) -> Upserted:
        """Insert rows with a new item_id and replace those with a known one; running it again changes nothing more.

        Looks up the given ids alone, by the key's index where there is one, and none of those that it wrote itself.
        Commits every `ROWS_PER_COMMIT` rows, and reads back what was written. Raises ValueError, before anything of
        that commit is written, where an item_id comes twice or a column doesn't fit; StaleWriterError where another
        handle has written since this one was opened.
        """
        self._require_alone()
        begun = self._dataset.checkout_version(self.version)
        done, seen = Upserted(inserted=0, updated=0), set[str]()
        for chunk in chunks(rows, self._dataset.schema, ROWS_PER_COMMIT):
            for item_id in chunk["item_id"].to_pylist():
                if item_id in seen:
                    raise ValueError(f"item_id {item_id!r} comes twice in the rows to write")
                seen.add(item_id)
            known = _among(begun, chunk["item_id"])
            before, fragments, version = self._dataset.count_rows(), self._fragments(), self.version
            hit("upsert.before", self.path)
            with self._writing():
                # Not by merge_insert, which reads all ids, or by their index has updated 0 rows without a word before.
                if len(known):
                    self._dataset.delete(pc.field("item_id").isin(known))
                self._dataset.insert(chunk, mode="append")
            hit("upsert.after", self.path)
            if self.version > version + (2 if len(known) else 1):
                raise StaleWriterError(f"another run wrote {self.path.name} in the meantime: run again")
            inserted = len(chunk) - len(known)
            done = Upserted(inserted=done.inserted + inserted, updated=done.updated + len(known))
            after = self._dataset.count_rows()
            if after != before + inserted:
                raise RuntimeError(f"{self.path}: wrote {len(chunk)} rows, {len(known)} of them known, and has {after}")
            written = self._fragments() - fragments
            self._read_back(chunk, written)
            if self._fresh is not None:
                self._fresh |= written
        return done

    def delete(self, item_ids: list[str]) -> int:
        """Remove rows; ids that aren't there are passed over. Returns how many were removed."""
        self._require_alone()
        removed = 0
        for start in range(0, len(item_ids), IDS_PER_DELETE):
            some = pc.field("item_id").isin(item_ids[start : start + IDS_PER_DELETE])
            hit("delete.before", self.path)
            with self._writing():
                removed += self._dataset.delete(some)["num_deleted_rows"]
            hit("delete.after", self.path)
        return removed

    def build_index(self, config: IndexConfig) -> str | None:
        """Bring all indexes up to date, merge small data files where there are many; returns the kind of the vectors'.

        Raises DamagedError where bytes of a file would be copied that isn't as it was released.
        """
        self._require_alone()
        work, kind = due(self._dataset, config), wanted_kind(self._dataset, config)
        crowded = len(self._dataset.get_fragments()) > MAX_FRAGMENTS
        if work == "extend":
            self._require_whole("/index.idx")
        if work == "merge":
            self._require_whole("/_indices/")
        words = words_due(self._dataset, config)
        columns = columns_due(self._dataset, config)
        if crowded:
            # Files of which each has a segment of its own are never merged.
            words = "merge" if words == "extend" else words
            columns = {name: "merge" if each == "extend" else each for name, each in columns.items()}
        if "merge" in (words, *columns.values()):
            self._require_whole("/_indices/")
        hit("index.before", self.path)
        with self._writing():
            carry_out(self._dataset, work, kind)
            carry_out_words(self._dataset, words)
            carry_out_columns(self._dataset, columns)
        hit("index.after", self.path)
        if work in ("build", "merge"):
            self._fresh = None
        if crowded:
            # After indexing, since Lance doesn't merge files that are indexed with those that aren't.
            self._require_whole("/data/", "/_indices/")
            with self._writing():
                self._dataset.optimize.compact_files()
            self._fresh = None
        return kind

    def ask(self, effort: Effort) -> None:
        """Have the index asked with this effort from now on, by readers too; all of it is to be checked again."""
        self._require_alone()
        with self._writing():
            self._dataset.update_schema_metadata({KEY.decode(): effort.model_dump_json()})
        self._fresh = None

    @property
    def partly_known(self) -> bool:
        """Whether a check passes over what was checked for the release that this table began with."""
        return self._fresh is not None

    def check_all(self) -> None:
        """Have the next check read all rows, whatever was checked before."""
        self._fresh = None

    def check(self, config: IndexConfig, *, expected_rows: int, sample: int | None = None, seed: int = 0) -> TableCheck:
        """What is wrong with the version that the last operation made.

        Of a table that began with a release, only what was written since is read, unless its index was built anew or
        its files were merged. The index is asked for a `sample` of items, by default a hundred of all, or 25 new ones.
        """
        fresh = None if self._fresh is None else sorted(self._fresh)
        size = sample or (100 if fresh is None else 25)
        return check_table(self._dataset, config, expected_rows=expected_rows, sample=size, seed=seed, fresh=fresh)

    def files(self) -> Iterator[Path]:
        """Every file this version is read from: manifest, data, deletions, index."""
        rows = self._dataset.tracked_files(min_version=self.version).read_all().to_pylist()
        for row in rows:
            # Transaction files serve writers only, and clean-up may take them.
            if row["version"] == self.version and row["type"] != "transaction file":
                yield self.path / row["path"]

    def sync(self, known: Mapping[str, object]) -> None:
        """Force this version's files to the disk, but for those `known` by path below the pipeline's folder.

        Lance doesn't; call it before a record names them. On object storage that is done.
        """
        if isinstance(self.path, ObjectPath):
            return
        folder = self.path.parent.parent
        fresh = [path for path in self.files() if path.relative_to(folder).as_posix() not in known]
        for path in fresh:
            sync(path)
        for parent in {ancestor for path in fresh for ancestor in path.parents if ancestor.is_relative_to(folder)}:
            sync(parent)

    def _pass(self, number: int) -> None:
        """Go on to a version above `number`: one that was lost isn't given to other rows, a record may name it."""
        while self.version <= number:
            taken = self.version
            self._dataset.restore()
            manifest_path(self.path, taken).unlink()

    def _fragments(self) -> set[int]:
        return {each.fragment_id for each in self._dataset.get_fragments()}

    def _read_back(self, rows: pa.Table, fragments: set[int]) -> None:
        """Raises DamagedError where the files of `fragments` don't hold the vectors of `rows`, bit for bit."""
        names = ["item_id", *VECTOR_COLUMNS]
        some = [self._dataset.get_fragment(each) for each in sorted(fragments)]
        found = self._dataset.scanner(columns=names, fragments=some).to_table()
        found = found.take(pc.index_in(rows["item_id"].combine_chunks(), found["item_id"].combine_chunks()))
        if any(bits(found[name]) != bits(rows[name]) for name in names):
            raise DamagedError(f"{self.path}: what was written is read back otherwise")

    def _require_whole(self, *kinds: str) -> None:
        """Raises DamagedError where files of the release, of these kinds, aren't as released.

        Their damage would be copied, and then stand under a digest that says it is right.
        """
        own = {name: each for name, each in self._released.items() if any(kind in name for kind in kinds)}
        if wrong := damage_now(self.path.parent.parent, own):
            raise DamagedError(f"{self.path} is not as it was released: {'; '.join(wrong[:3])}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Lance tells by the words of its error alone that another handle came first."""
        try:
            yield
        except OSError as error:
            if not any(words in str(error) for words in ("Incompatible transaction", "Commit conflict")):
                raise
            raise StaleWriterError(f"{self.path} is written to by another run or program as well: run again") from error

    def _require_alone(self) -> None:
        # A handle is stale once another one has written, and a merge into a stale one can double rows.
        if self._dataset.latest_version != self.version:
            raise StaleWriterError(f"{self.path} is written to by another run or program as well: run again")

    def _refresh(self) -> None:
        self._dataset.checkout_latest()


def _among(dataset: Any, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Those of some ids that a dataset has."""
    if not dataset.count_rows():
        return ids.slice(0, 0)
    return dataset.to_table(columns=["item_id"], filter=pc.field("item_id").isin(ids.combine_chunks()))["item_id"]


def table_name(model_id: str) -> str:
    """The table's folder, relative to the pipeline's."""
    return f"vectors/{model_id}.lance"


def table_metadata(model: Path) -> dict[str, str]:
    """Metadata that names the OpenCLIP model in folder `model`, not loaded here.

    Plain LanceDB embeds queries by it. A model whose texts plain open_clip can't embed is named under a key of ours
    instead: LanceDB then has no embedding function, and refuses a text rather than searching by another tower. One
    whose image tower wants evaluation mode embeds texts there, and refuses images.
    """
    name = f"local-dir:{beside(model).resolve()}"
    named = {OWN_METADATA: json.dumps({"name": name})}
    if not is_plain(model):
        return named
    # LanceDB never calls eval(): where that matters to images it is given what refuses them.
    texts_only = (model / TEXT_QUERIES).is_dir()
    function = {
        "name": "open-clip",
        "model": {"name": f"{name}/{TEXT_QUERIES}" if texts_only else name, "pretrained": ""},
        "source_column": "thumbnail",
        "vector_column": COLUMN,
    }
    return {LANCEDB_METADATA: json.dumps([function]), **(named if texts_only else {})}


def names_model(metadata: Mapping[bytes, bytes] | None, model_id: str) -> bool:
    """Whether a table's metadata names this model. The folder may have moved since; the model's name in it has not."""
    named = [(metadata or {}).get(key.encode(), b"").decode() for key in (LANCEDB_METADATA, OWN_METADATA)]
    return any(f'/{model_id}"' in each for each in named)
