"""One release, opened: the model and the exact table version that its record binds together."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pairloom.storage.files import DamagedError, FileDigests, damage
from pairloom.storage.releases import Release, release_log
from pairloom.storage.table.vectors import names_model, table_metadata, table_name

if TYPE_CHECKING:
    from pairloom.models.encoder import Encoder
    from pairloom.models.reranker import Reranker
    from pairloom.search.query import Query, SearchResult


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
        """The current release of the pipeline in `folder`, or release `number`.

        Raises ValueError where there is none, or where the one asked for is not whole.
        """
        log = release_log(folder)
        try:
            record = log.current() if number is None else log.read(number)
        except DamagedError as error:
            raise ValueError(str(error)) from error
        if record is None:
            raise ValueError(f"pipeline {folder.name!r} has no release yet: run `pairloom run -p {folder.name}`")
        return cls(folder, record)

    def search(self, query: "Query | str", *, k: int = 10, where: str | None = None) -> "SearchResult":
        """The `k` items nearest to a text or a Query, among those that fulfil the SQL condition `where`."""
        from pairloom.search.query import Query, search

        return search(self, Query(text=query) if isinstance(query, str) else query, k=k, where=where)

    @cached_property
    def encoder(self) -> "Encoder":
        """The dual encoder that made this release's vectors, loaded when first asked for."""
        # Imported here: SQL without a text to encode answers without waiting seconds for torch.
        from pairloom.models.encoder import Encoder

        wrong = damage(self.folder, _model_files(self.record), contents=True)
        if wrong:
            raise ValueError(
                f"the model of release {self.record.number} is not the one released: {'; '.join(wrong[:3])}"
            )
        encoder = Encoder.load(self.folder / "models" / self.record.model_id)
        if encoder.dimension != self.record.dimension:
            raise ValueError(
                f"model {self.record.model_id} makes vectors of length {encoder.dimension}, "
                f"the table of release {self.record.number} holds {self.record.dimension}"
            )
        return encoder

    @cached_property
    def reranker(self) -> "Reranker":
        """The cross-encoder beside the dual encoder; ValueError where this release's model has none."""
        from pairloom.models.reranker import Reranker

        # The encoder first: it refuses files that are not those released.
        return Reranker.load(self.folder / "models" / self.record.model_id, self.encoder)

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns, in their order."""
        names: list[str] = self.dataset.schema.names
        return names


def _model_files(record: Release) -> FileDigests:
    return {name: digest for name, digest in record.files.items() if name.startswith(f"models/{record.model_id}/")}


def _refuse_mismatch(folder: Path, record: Release) -> None:
    model = f"models/{record.model_id}"
    if record.table != table_name(record.model_id):
        raise ValueError(
            f"release {record.number} binds table {record.table} to model {record.model_id}, "
            "which did not make its vectors"
        )
    # Sizes only: a query that needs no model shall not wait for its digest.
    wrong = damage(folder, _model_files(record)) if (folder / model).is_dir() else [f"{model} is missing"]
    if wrong:
        raise ValueError(f"release {record.number} is not whole: {'; '.join(wrong[:3])}")


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
