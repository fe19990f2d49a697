"""The vector table of one model: rows in by item_id, checked, indexed, tagged; versions are what releases name."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pairloom.storage.files import sync
from pairloom.storage.modelstore import is_plain
from pairloom.storage.schema import ColumnType, vector_schema
from pairloom.storage.table.check import TableCheck, check_table
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.index import COLUMN, bring_up_to_date

logger = logging.getLogger(__name__)

ROWS_PER_COMMIT = 50_000
IDS_PER_DELETE = 5_000
MAX_FRAGMENTS = 64
"""Data files beyond which the small ones are merged: a night adds one, so the copying is paid back over two months."""
TAG = re.compile(r"release-(\d+)(?:-v(\d+))?")
"""Older tags name no version."""
LANCEDB_METADATA, OWN_METADATA = "embedding_functions", "pairloom_model"


class Upserted(BaseModel, frozen=True, extra="forbid"):
    """What an upsert did."""

    inserted: int
    updated: int


class VectorTable:
    """The LanceDB table of one model, at its latest version.

    Written through Lance's own Python package: LanceDB's would load the model that the metadata names on every write.
    """

    def __init__(self, path: Path) -> None:
        """Open the table at `path`. Raises ValueError where there is none, or its latest version is damaged."""
        # Half a second to import, with pandas: nights without news, and readers of records, open no table.
        import lance

        self.path = path
        try:
            self._dataset: Any = lance.dataset(str(path))
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(
                f"the latest version of {path} can't be opened; released versions may still be whole, and removing "
                f"the latest file in {path / '_versions'} goes back one version: {str(error).splitlines()[0]}"
            ) from error

    @classmethod
    def create_or_open(cls, folder: Path, model_id: str, *, dimension: int, keep: Mapping[str, ColumnType]) -> Self:
        """The table of `model_id` below the pipeline's `folder`; ValueError where its vectors have another dimension.

        Metadata columns that `keep` has come to name, or names no more, are added (empty) and dropped in a new version.
        """
        path = folder / table_name(model_id)
        if not any((path / "_versions").glob("*.manifest")):
            return cls.create(folder, model_id, dimension=dimension, keep=keep)
        table = cls(path)
        table._evolve(vector_schema(dimension, keep))
        return table

    @classmethod
    def create(cls, folder: Path, model_id: str, *, dimension: int, keep: Mapping[str, ColumnType]) -> Self:
        """An empty table of `model_id`. Where there is one, this is a new version of it, and the others stay."""
        import lance

        path = folder / table_name(model_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        _put_unreadable_aside(path)
        metadata = table_metadata(folder / "models" / model_id)
        empty = vector_schema(dimension, keep).empty_table().replace_schema_metadata(metadata)
        lance.write_dataset(
            empty, str(path), mode="overwrite" if any((path / "_versions").glob("*.manifest")) else "create"
        )
        return cls(path)

    @property
    def version(self) -> int:
        """The version that the last operation made or found."""
        return int(self._dataset.version)

    def items(self) -> pa.Table:
        """`item_id`, `content_digest` and `split` of every row: what an upsert need not bring again."""
        self._refresh()
        return self._dataset.to_table(columns=["item_id", "content_digest", "split"])

    def upsert(self, rows: pa.Table | pa.RecordBatchReader) -> Upserted:
        """Insert rows with a new item_id and replace those with a known one; running it again changes nothing more.

        Commits every `ROWS_PER_COMMIT` rows, so a run that was killed goes on from there when it is run again. Raises
        ValueError, before anything of that commit is written, where an item_id comes twice or a column doesn't fit.
        """
        self._refresh()
        inserted = updated = 0
        seen: set[str] = set()
        for chunk in _chunks(rows, self._dataset.schema):
            ids = chunk["item_id"].to_pylist()
            for item_id in ids:
                if item_id in seen:
                    raise ValueError(f"item_id {item_id!r} comes twice in the rows to write")
                seen.add(item_id)
            before = self._dataset.count_rows()
            merge = self._dataset.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all()
            counts = merge.execute(chunk)
            inserted += counts["num_inserted_rows"]
            updated += counts["num_updated_rows"]
            # Lance has updated 0 rows without a word before: never trust a merge that wasn't counted.
            after, expected = self._dataset.count_rows(), before + counts["num_inserted_rows"]
            if inserted + updated != len(seen) or after != expected:
                raise RuntimeError(f"{self.path}: wrote {counts} of {len(ids)} rows and holds {after}, not {expected}")
        return Upserted(inserted=inserted, updated=updated)

    def delete(self, item_ids: list[str]) -> int:
        """Remove rows; ids that aren't there are passed over. Returns how many were removed."""
        self._refresh()
        removed = 0
        for start in range(0, len(item_ids), IDS_PER_DELETE):
            some = pc.field("item_id").isin(item_ids[start : start + IDS_PER_DELETE])
            removed += self._dataset.delete(some)["num_deleted_rows"]
        return removed

    def build_index(self, config: IndexConfig) -> str | None:
        """Merge small data files where there are many, bring the index up to date; returns its kind or None."""
        self._refresh()
        kind = bring_up_to_date(self._dataset, config)
        if len(self._dataset.get_fragments()) > MAX_FRAGMENTS:
            # After indexing, since Lance doesn't merge files that are indexed with those that aren't.
            self._dataset.optimize.compact_files()
        return kind

    def check(self, config: IndexConfig, *, expected_rows: int, sample: int = 100, seed: int = 0) -> TableCheck:
        """Read every vector of the latest version once and say what is wrong with it."""
        self._refresh()
        return check_table(self._dataset, config, expected_rows=expected_rows, sample=sample, seed=seed)

    def files(self) -> Iterator[Path]:
        """Every file the latest version is read from: manifest, data, deletions, index."""
        self._refresh()
        rows = self._dataset.tracked_files(min_version=self.version).read_all().to_pylist()
        for row in rows:
            # Transaction files serve writers only, and clean-up may take them.
            if row["version"] == self.version and row["type"] != "transaction file":
                yield self.path / row["path"]

    def sync(self, known: Mapping[str, object]) -> None:
        """Force the latest version's files to the disk, but for those `known` by path below the pipeline's folder.

        Lance doesn't; call it before a record names them.
        """
        folder = self.path.parent.parent
        fresh = [path for path in self.files() if path.relative_to(folder).as_posix() not in known]
        for path in fresh:
            sync(path)
        for parent in {ancestor for path in fresh for ancestor in path.parents if ancestor.is_relative_to(folder)}:
            sync(parent)

    def tag(self, release: int, version: int) -> None:
        """Hold `version` for `release`, so that clean-up can't take it.

        Of two runs that want to be the same release, each holds its own version: the loser can't let go the winner's.
        """
        name = f"release-{release:06d}-v{version}"
        if name not in self._tags():
            self._dataset.tags.create(name, version)

    def untag(self, last: int) -> int:
        """Let go of all versions held for releases up to `last`; returns how many tags that were."""
        found = {name: TAG.fullmatch(name) for name in self._tags()}
        names = [name for name, release in found.items() if release and int(release[1]) <= last]
        for name in names:
            self._dataset.tags.delete(name)
        return len(names)

    def clean_up(self) -> None:
        """Delete the files that neither a tag nor the latest version needs."""
        self._refresh()
        self._dataset.cleanup_old_versions(retain_versions=1, error_if_tagged_old_versions=False)

    def _tags(self) -> list[str]:
        """Names of all tags, those of releases made anew from their names where they don't hold the version named.

        Lance neither lists tags nor cleans up where one of them can't be read.
        """
        tags = self._dataset.tags
        for path in sorted((self.path / "_refs" / "tags").glob("*.json")):
            named = TAG.fullmatch(path.stem)
            if named and named[2] and self._tagged(path.stem) != int(named[2]):
                logger.warning("tag %s of %s is damaged and made anew", path.stem, self.path.name)
                tags.delete(path.stem)
                tags.create(path.stem, int(named[2]))
        return list(tags.list())

    def _tagged(self, name: str) -> int | None:
        """The version that a tag holds; None where it can't be read."""
        try:
            return int(self._dataset.tags.get_version(name))
        except (RuntimeError, OSError, ValueError):
            return None

    def _evolve(self, schema: pa.Schema) -> None:
        present, wanted = self._dataset.schema, vector_schema(schema.field(COLUMN).type.list_size, {})
        wrong = [field for field in wanted if field.name not in present.names or present.field(field.name) != field]
        if wrong:
            raise ValueError(f"{self.path} has no column {wrong[0].name} of type {wrong[0].type}")
        dropped = [
            field.name for field in present if field.name not in schema.names or schema.field(field.name) != field
        ]
        if dropped:
            self._dataset.drop_columns(dropped)
        added = [field for field in schema if field.name not in self._dataset.schema.names]
        if added:
            self._dataset.add_columns(added)

    def _refresh(self) -> None:
        # A handle is stale once another one has written, and a merge into a stale one can double rows.
        self._dataset.checkout_latest()


def _put_unreadable_aside(path: Path) -> None:
    """Rename the files of the newest versions that can't be opened: in their way none is written."""
    import lance

    # Lance names them so that the newest comes first.
    for manifest in sorted((path / "_versions").glob("*.manifest")):
        try:
            lance.dataset(str(path))
            return
        except (ValueError, OSError, RuntimeError) as error:
            logger.warning("%s is put aside: %s", manifest, str(error).splitlines()[0])
            manifest.rename(manifest.with_suffix(".damaged"))


def table_name(model_id: str) -> str:
    """The table's folder, relative to the pipeline's."""
    return f"vectors/{model_id}.lance"


def table_metadata(model: Path) -> dict[str, str]:
    """Metadata that names the OpenCLIP model in folder `model`, not loaded here.

    Plain LanceDB embeds queries by it. A model whose texts plain open_clip can't embed is named under a key of ours
    instead: LanceDB then has no embedding function, and refuses a text rather than searching by another tower.
    """
    name = f"local-dir:{model.resolve()}"
    if not is_plain(model):
        return {OWN_METADATA: json.dumps({"name": name})}
    function = {
        "name": "open-clip",
        "model": {"name": name, "pretrained": ""},
        "source_column": "thumbnail",
        "vector_column": COLUMN,
    }
    return {LANCEDB_METADATA: json.dumps([function])}


def names_model(metadata: Mapping[bytes, bytes] | None, model_id: str) -> bool:
    """Whether a table's metadata names this model. The folder may have moved since; the model's name in it has not."""
    named = [(metadata or {}).get(key.encode(), b"").decode() for key in (LANCEDB_METADATA, OWN_METADATA)]
    return any(f'/{model_id}"' in each for each in named)


def _chunks(rows: pa.Table | pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.Table]:
    """`rows` in tables of at most `ROWS_PER_COMMIT`, their columns in the order and types of `schema`."""
    reader = rows.to_reader(max_chunksize=ROWS_PER_COMMIT) if isinstance(rows, pa.Table) else rows
    if set(reader.schema.names) != set(schema.names):
        raise ValueError(f"rows have columns {sorted(reader.schema.names)}, the table has {sorted(schema.names)}")
    held: list[pa.RecordBatch] = []
    for batch in reader:
        if held and sum(len(each) for each in held) + len(batch) > ROWS_PER_COMMIT:
            yield _fitted(held, schema)
            held = []
        held.append(batch)
    if sum(len(each) for each in held):
        yield _fitted(held, schema)


def _fitted(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_batches(batches).select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise ValueError(f"rows don't fit the vector table: {error}") from error
