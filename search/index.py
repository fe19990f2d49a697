"""A reader that stays: it answers from one release at a time, and goes to the newest one when it is told to."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from pairloom.search.release import OpenRelease
from pairloom.storage.files import DamagedError, damage
from pairloom.storage.releases import Release

if TYPE_CHECKING:
    from pairloom.models.arrays import Embeddings
    from pairloom.models.encoder import Encoder
    from pairloom.models.evaluation.similarity import Metric
    from pairloom.models.reranker import Reranker
    from pairloom.search.asking import Pictures
    from pairloom.search.combination import Part
    from pairloom.search.exact import Side
    from pairloom.search.options import Options
    from pairloom.search.query import Query
    from pairloom.search.results import SearchResult
    from pairloom.search.sql import SqlResult
    from pairloom.storage.export import CorpusFile
    from pairloom.storage.table.index import Floats


class Index:
    """The index of one pipeline, for any number of threads: each answer is of one release, and names it.

    What else is read of it (`record`, `dataset`, …) is of the release of that moment: who reads several things that
    must belong together takes them from `current`, which stays as it is.
    """

    def __init__(self, release: OpenRelease, *, pinned: bool = False) -> None:
        self._current = release
        self._pinned = pinned
        self._refreshing = Lock()
        self._passed: dict[int, str] = {}

    @classmethod
    def open(cls, folder: Path, number: int | None = None) -> Self:
        """That of the pipeline in `folder` at its newest release that is whole, or for good at release `number`.

        Raises ValueError and DamagedError as `OpenRelease.open` does.
        """
        return cls(OpenRelease.open(folder, number), pinned=number is not None)

    def refresh(self) -> int:
        """Go to the newest release that is whole; returns its number, which never falls.

        Where nothing is new that costs a look at the list of releases. What other threads have begun ends on the
        release that it began with; a model that stays is not loaded again. A newer release that is damaged is passed
        over, with a warning. ValueError where the index was opened at a release of a given number: it stays there.
        """
        if self._pinned:
            raise ValueError(f"this index was opened at release {self.release} and stays there: open one without it")
        with self._refreshing:
            now = self._current
            newer = now.newest(now.folder, self._passed, above=now.record.number, model=now.model)
            if newer:
                self._current, self._passed = newer, {}
            return self.release

    def search(
        self,
        query: "Query | str | None" = None,
        *,
        text: str | None = None,
        image: "Pictures | None" = None,
        like: str | None = None,
        vector: "Floats | Sequence[float] | None" = None,
        plus: "Part | Sequence[Part]" = (),
        minus: "Part | Sequence[Part]" = (),
        k: int = 10,
        offset: int = 0,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        target: "Side" = "image",
        hybrid: bool = False,
        rerank: int | bool | None = None,
        diversity: float = 0.0,
        collapse_duplicates: bool = False,
        metric: "Metric" = "cosine",
        hubness: bool | None = None,
        only_fitting: bool = False,
    ) -> "SearchResult":
        """The `k` items nearest to the sum of `text`, `image`, `like` (an item_id), `vector` and `plus`, less `minus`.

        `image` is a file or an open picture, or several; `plus` and `minus` take texts, pictures and `Item`s. Each may
        be `Weighted`; `2:red shoe` is the text "red shoe" that counts twice. A text or a whole `Query` may come first.
        What the rest does is said of each at `pairloom.search.options.Options`; `rerank=True` orders the nearest 50.
        Raises ValueError, in one line, for what can't be asked, DamagedError where the release's files are no longer
        there.
        """
        from pairloom.search.asking import asked_for, candidates
        from pairloom.search.options import Options

        whole = asked_for(query, text=text, image=image, like=like, vector=vector, plus=plus, minus=minus)
        options = Options(
            k=k,
            offset=offset,
            where=where,
            columns=None if columns is None else tuple(columns),
            metric=metric,
            rerank=candidates(rerank),
            hybrid=hybrid,
            diversity=diversity,
            collapse_duplicates=collapse_duplicates,
            target=target,
            hubness=hubness,
            only_fitting=only_fitting,
        )
        return self.ask(whole, options)

    def ask(self, query: "Query", options: "Options") -> "SearchResult":
        """What `search` finds for a whole query, answered as the options say."""
        from pairloom.search.query import answer

        with self._answering() as release:
            return answer(release, query, options)

    def check(self, options: "Options") -> None:
        """Raises ValueError, in one line, where nothing can be answered so; no model is loaded for that."""
        from pairloom.search.nearest import check_filter

        with self._answering() as release:
            options.check(release.columns)
            if options.where is not None:
                check_filter(release, options.where)

    def search_many(
        self,
        queries: "Sequence[Query | str]",
        *,
        k: int = 10,
        where: str | None = None,
        columns: Sequence[str] | None = None,
        target: "Side" = "image",
        metric: "Metric" = "cosine",
        hubness: bool | None = None,
        only_fitting: bool = False,
    ) -> "list[SearchResult]":
        """What `search` finds for each of some queries, all of one release: encoded at once, answered by one pass over
        all vectors, so exactly.

        Raises ValueError, in one line, where one of them can't be asked, DamagedError as `search` does.
        """
        from pairloom.search.asking import asked_for
        from pairloom.search.batch import answers
        from pairloom.search.options import Options

        names = None if columns is None else tuple(columns)
        options = Options(
            k=k,
            where=where,
            columns=names,
            target=target,
            metric=metric,
            hubness=hubness,
            only_fitting=only_fitting,
        )
        with self._answering() as release:
            return answers(release, [asked_for(query) for query in queries], options)

    def sql(
        self, statement: str, *, attach: Mapping[str, Path | str] | None = None, image_folder: Path | str | None = None
    ) -> "SqlResult":
        """The rows of one SELECT over the table `items` and its like, as `pairloom sql` gives them.

        `attach` are CSV or Parquet files that it may read, by the names of their tables; below `image_folder` lie the
        images that it may name. Raises ValueError, in one line, for what can't be asked, DamagedError where the
        release's files are no longer there.
        """
        from pairloom.search.sql import Attached, SqlResult, run_sql

        tables = {name: Path(file) for name, file in (attach or {}).items()}
        attached = Attached(tables, None if image_folder is None else Path(image_folder))
        with self._answering() as release:
            rows = run_sql(release, statement, attached)
            return SqlResult(release=release.record.number, model_id=release.record.model_id, rows=rows)

    @contextmanager
    def _answering(self) -> Iterator[OpenRelease]:
        """The release that one answer is of. What fails for want of its files says so."""
        release = self._current
        try:
            yield release
        except (ValueError, RuntimeError, OSError) as error:
            wrong = damage(release.folder, release.record.needed)
            if not wrong:
                raise
            remedy = "open another release" if self._pinned else "refresh() goes to the newest one"
            raise DamagedError(
                f"release {release.record.number} is no longer whole: {'; '.join(wrong[:3])}. It was cleaned up or "
                f"damaged since it was opened: {remedy}"
            ) from error

    @property
    def current(self) -> OpenRelease:
        """The release that is answered from now."""
        return self._current

    @property
    def release(self) -> int:
        """Its number."""
        return self._current.record.number

    @property
    def record(self) -> Release:
        """Its record."""
        return self._current.record

    @property
    def folder(self) -> Path:
        """The pipeline's folder."""
        return self._current.folder

    @property
    def dataset(self) -> Any:
        """Its table, a Lance dataset at the release's version."""
        return self._current.dataset

    @property
    def table(self) -> Any:
        """Its table as plain LanceDB opens it, at the release's version."""
        return self._current.table

    @property
    def columns(self) -> list[str]:
        """Names of its table's columns."""
        return self._current.columns

    @property
    def corpus_files(self) -> "list[CorpusFile]":
        """The Parquet files of its items, each with the ids of its rows that are none."""
        return self._current.corpus_files

    @property
    def encoder(self) -> "Encoder":
        """Its dual encoder."""
        return self._current.encoder

    @property
    def reranker(self) -> "Reranker":
        """The cross-encoder beside that; ValueError where there is none."""
        return self._current.reranker

    def embed_texts(self, texts: Sequence[str]) -> "Embeddings":
        """Float32 (N, D), L2-normalised, by its text tower."""
        return self._current.embed_texts(texts)
