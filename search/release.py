"""One release, opened: the model and the exact table version that its record binds together."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from pairloom.search.model import OpenModel, refuse_damage
from pairloom.storage.approvals import waiting
from pairloom.storage.files import DamagedError
from pairloom.storage.objects import lance_options
from pairloom.storage.releases import Release, none_whole, release_log
from pairloom.storage.table.vectors import names_model, table_metadata, table_name

if TYPE_CHECKING:
    from pairloom.models.arrays import Embeddings, Mask
    from pairloom.models.encoder import Encoder
    from pairloom.models.exported import ExportedEncoder
    from pairloom.models.pictures import Picture
    from pairloom.models.reranker import Reranker
    from pairloom.models.towers.config import SecondImageTowerConfig
    from pairloom.search.query import Query, SearchResult
    from pairloom.storage.export import CorpusFile
    from pairloom.storage.images.config import IngestConfig

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """Who may be asked: an open release, or an index, which each answer takes one release of."""

    @property
    def current(self) -> "OpenRelease": ...


class OpenRelease:
    """What a reader sees: the record, its table version and, once a query needs it, its model."""

    def __init__(self, folder: Path, record: Release, model: OpenModel | None = None) -> None:
        """Open `record` of the pipeline in `folder`, of which every file is what it says.

        `model` is taken where it is the record's, so that it isn't loaded again. Raises DamagedError where a file is
        not what the record says, ValueError where model and table don't belong together.
        """
        # As late as `storage.table` does it.
        import lance

        self.folder = folder
        self.record = record
        _refuse_mismatch(record)
        refuse_damage(folder, record, record.needed)
        try:
            self.dataset: Any = lance.dataset(
                str(folder / record.table),
                version=record.table_version,
                storage_options=lance_options(folder),
            )
        except (ValueError, OSError) as error:
            raise ValueError(
                f"release {record.number} names version {record.table_version} of {record.table}, "
                f"which can't be opened: {str(error).splitlines()[0]}"
            ) from error
        _refuse_other_table(folder, record, self.dataset.schema)
        self.model = model if model and model.is_of(record) else OpenModel(folder, record)
        self.idle_databases: list[Any] = []
        """Of `search.sql`, for the next statements."""

    @classmethod
    def open(cls, folder: Path, number: int | None = None) -> Self:
        """The newest release of the pipeline in `folder` that is whole, or release `number`.

        Newer ones are passed over with a warning. Raises ValueError where nothing was released yet or there is no such
        release, DamagedError where none is whole, or the one asked for is not.
        """
        log = release_log(folder)
        if number is not None:
            return cls(folder, log.read(number))
        passed: dict[int, str] = {}
        if newest := cls.newest(folder, passed):
            return newest
        if not passed:
            raise ValueError(_nothing_served(folder))
        if next(log.newest_first(), None) is None:
            raise DamagedError(none_whole(log, list(passed)))
        raise DamagedError(f"no release of {folder} can be opened: {'; '.join(passed.values())}")

    @classmethod
    def newest(
        cls, folder: Path, passed: dict[int, str], *, above: int = 0, model: OpenModel | None = None
    ) -> Self | None:
        """The newest release that is whole of those with a number above `above`; None where there is none.

        Those that are passed over are left in `passed`, with why; what isn't in it yet is warned of.
        """
        log = release_log(folder)
        while fresh := sorted((number for number in log.numbers() if number > above), reverse=True):
            for number in fresh:
                try:
                    return cls(folder, log.read(number), model)
                except (ValueError, DamagedError, FileNotFoundError) as error:
                    if passed.get(number) != str(error):
                        logger.warning("%s", error)
                    passed[number] = str(error)
            # Nights may have published so much since, and cleaned up after that, that nothing listed here stands.
            if max(log.numbers(), default=0) <= fresh[0]:
                break
        return None

    def search(self, query: "Query | str", *, k: int = 10, where: str | None = None) -> "SearchResult":
        """The `k` items nearest to a text or a Query, among those that fulfil the SQL condition `where`."""
        from pairloom.search.query import Query, search

        return search(self, Query(text=query) if isinstance(query, str) else query, k=k, where=where)

    def embed_texts(self, texts: Sequence[str]) -> "Embeddings":
        """Float32 (N, D), L2-normalised, by the text tower that made this release's vectors.

        Torch is waited for only where the model has no exported text tower.
        """
        exported = self._exported
        return (exported if exported and exported.manifest.text else self.encoder).embed_texts(texts)

    def embed_images(self, images: "Sequence[Picture]", second_N: "Mask | None" = None) -> "Embeddings":
        """The same of images, of which `second_N` are for the second image tower, where there is one."""
        return self._image_encoder.embed_images(images, second_N)

    @property
    def second(self) -> "SecondImageTowerConfig | None":
        """Which items the model's second image tower encodes, where there is one."""
        return self._image_encoder.second

    @property
    def images_wait_for_torch(self) -> bool:
        """Whether the next image that is embedded waits for torch to be loaded."""
        return self._exported_images is None and "encoder" not in vars(self)

    @property
    def as_ingested(self) -> "IngestConfig":
        """How a query's image is made like the stored ones."""
        from pairloom.storage.images.config import IngestConfig

        return IngestConfig(max_side=self.record.max_side, trim=self.record.trim, min_side=1)

    @property
    def corpus_files(self) -> "list[CorpusFile]":
        """The Parquet files of the items that this release serves, each with the ids of its rows that are none."""
        from pairloom.storage.export import released_files

        return released_files(self.folder, self.record)

    @cached_property
    def table(self) -> Any:
        """Its table as plain LanceDB opens it, at the release's version."""
        import lancedb

        table = lancedb.connect(str(self.folder / "vectors"), storage_options=lance_options(self.folder)).open_table(
            self.record.model_id
        )
        table.checkout(self.record.table_version)
        return table

    @cached_property
    def worded(self) -> Any:
        """Its table with an index of the texts' words; where it has none, a copy in memory, made when first asked."""
        from pairloom.storage.table.words import with_words

        return with_words(self.dataset)

    @cached_property
    def encoder(self) -> "Encoder":
        """The dual encoder that made this release's vectors, loaded when first asked for."""
        return self.model.encoder

    @cached_property
    def reranker(self) -> "Reranker":
        """The cross-encoder beside the dual encoder; ValueError where this release's model has none."""
        return self.model.reranker

    @property
    def _image_encoder(self) -> "Encoder | ExportedEncoder":
        return self._exported_images or self.encoder

    @property
    def _exported_images(self) -> "ExportedEncoder | None":
        exported = self._exported
        return exported if exported and exported.manifest.image else None

    @cached_property
    def _exported(self) -> "ExportedEncoder | None":
        return self.model.exported

    @property
    def current(self) -> Self:
        """Itself: it stays the same release."""
        return self

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns, in their order."""
        names: list[str] = self.dataset.schema.names
        return names

    @property
    def times(self) -> list[str]:
        """Names of those of them that hold times."""
        return [name for name, kind in self.record.keep.items() if kind == "timestamp"]


def _nothing_served(folder: Path) -> str:
    """Why there is nothing to read, and what can be done."""
    if challenger := waiting(folder):
        return f"release 1 of pipeline {folder.name!r} waits for approval: {challenger.waits(folder.name)}"
    return f"pipeline {folder.name!r} has no release yet: run `pairloom run -p {folder.name}`"


def _refuse_mismatch(record: Release) -> None:
    if record.table != table_name(record.model_id):
        raise ValueError(
            f"release {record.number} binds table {record.table} to model {record.model_id}, "
            "which did not make its vectors"
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
