"""One release, opened: the model and the exact table version that its record binds together."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pairloom.storage.files import DamagedError, damage
from pairloom.storage.releases import Release, release_log
from pairloom.storage.table.vectors import names_model, table_metadata, table_name

if TYPE_CHECKING:
    from pairloom.models.arrays import Embeddings
    from pairloom.models.encoder import Encoder
    from pairloom.models.reranker import Reranker
    from pairloom.models.towers.query_tower import QueryTower
    from pairloom.search.query import Query, SearchResult
    from pairloom.storage.export import CorpusFile

logger = logging.getLogger(__name__)

FEW_TEXTS = 16


class OpenRelease:
    """What a reader sees: the record, its table version and, once a query needs it, its model."""

    def __init__(self, folder: Path, record: Release) -> None:
        """Open `record` of the pipeline in `folder`. Raises ValueError where model and table don't belong together."""
        # As late as `storage.table` does it.
        import lance

        self.folder = folder
        self.record = record
        _refuse_mismatch(folder, record)
        try:
            self.dataset: Any = lance.dataset(str(folder / record.table), version=record.table_version)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"release {record.number} names version {record.table_version} of {record.table}, "
                f"which can't be opened: {str(error).splitlines()[0]}"
            ) from error
        _refuse_other_table(folder, record, self.dataset.schema)

    @classmethod
    def open(cls, folder: Path, number: int | None = None) -> Self:
        """The newest release of the pipeline in `folder` that is whole, or release `number`.

        Newer ones are passed over with a warning. Raises ValueError where nothing was released yet or there is no such
        release, DamagedError where none is whole, or the one asked for is not.
        """
        log = release_log(folder)
        if number is not None:
            return cls(folder, log.read(number))
        if log.current() is None:
            raise ValueError(f"pipeline {folder.name!r} has no release yet: run `pairloom run -p {folder.name}`")
        reasons = []
        for record in log.newest_first():
            try:
                return cls(folder, record)
            except ValueError as error:
                reasons.append(str(error))
                logger.warning("%s", error)
        raise DamagedError(f"no release of {folder} can be opened: {'; '.join(reasons)}")

    def search(self, query: "Query | str", *, k: int = 10, where: str | None = None) -> "SearchResult":
        """The `k` items nearest to a text or a Query, among those that fulfil the SQL condition `where`."""
        from pairloom.search.query import Query, search

        return search(self, Query(text=query) if isinstance(query, str) else query, k=k, where=where)

    def embed_texts(self, texts: Sequence[str]) -> "Embeddings":
        """Float32 (N, D), L2-normalised, by the text tower that made this release's vectors.

        A few texts wait for torch only where there is no other way; many are faster with it.
        """
        if len(texts) <= FEW_TEXTS and self._query_tower is not None:
            return self._query_tower.embed_texts(texts)
        return self.encoder.embed_texts(texts)

    @property
    def corpus_files(self) -> "list[CorpusFile]":
        """The Parquet files of the items that this release serves, each with the ids of its rows that are none."""
        from pairloom.storage.export import released_files

        return released_files(self.folder, self.record)

    @cached_property
    def encoder(self) -> "Encoder":
        """The dual encoder that made this release's vectors, loaded when first asked for."""
        # Imported here: SQL and texts answer without waiting seconds for torch.
        from pairloom.models.encoder import Encoder

        encoder = Encoder.load(self._model)
        _refuse_other_length(self.record, encoder.dimension)
        return encoder

    @cached_property
    def reranker(self) -> "Reranker":
        """The cross-encoder beside the dual encoder; ValueError where this release's model has none."""
        from pairloom.models.reranker import Reranker

        return Reranker.load(self._model, self.encoder)

    @cached_property
    def _query_tower(self) -> "QueryTower | None":
        from pairloom.models.towers.query_tower import QueryTower

        tower = QueryTower.load(self._model)
        if tower is not None:
            _refuse_other_length(self.record, tower.dimension)
        return tower

    @cached_property
    def _model(self) -> Path:
        """The model's folder. Raises ValueError where a file in it is not the one released."""
        wrong = damage(self.folder, self.record.model_files, contents=True)
        if wrong:
            raise ValueError(
                f"the model of release {self.record.number} is not the one released: {'; '.join(wrong[:3])}"
            )
        return self.folder / "models" / self.record.model_id

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns, in their order."""
        names: list[str] = self.dataset.schema.names
        return names


def _refuse_mismatch(folder: Path, record: Release) -> None:
    model = f"models/{record.model_id}"
    if record.table != table_name(record.model_id):
        raise ValueError(
            f"release {record.number} binds table {record.table} to model {record.model_id}, "
            "which did not make its vectors"
        )
    # Sizes only: a query that needs no model shall not wait for its digest.
    wrong = damage(folder, record.model_files) if (folder / model).is_dir() else [f"{model} is missing"]
    if wrong:
        raise ValueError(f"release {record.number} is not whole: {'; '.join(wrong[:3])}")


def _refuse_other_length(record: Release, length: int) -> None:
    if length != record.dimension:
        raise ValueError(
            f"model {record.model_id} makes vectors of length {length}, "
            f"the table of release {record.number} holds {record.dimension}"
        )


def _refuse_other_table(folder: Path, record: Release, schema: Any) -> None:
    if not names_model(schema.metadata, record.model_id):
        named = ", ".join(f"{key.decode()} {value.decode()}" for key, value in (schema.metadata or {}).items())
        raise ValueError(
            f"{record.table} was not made by model {record.model_id}: its metadata names {named or 'no model'}, "
            f"not {table_metadata(folder / 'models' / record.model_id)}"
        )
    length = schema.field("image_vector").type.list_size
    if length != record.dimension:
        raise ValueError(
            f"{record.table} holds vectors of length {length}, release {record.number} says {record.dimension}"
        )
