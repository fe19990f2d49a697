"""What was at each address, remembered between nights; images fetched on their way to the decoder. Can be deleted."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pairloom.storage.fetching.answer import Answer, Fetched, Question, Unchanged, Validators
from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.files import DamagedError
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import Address, Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.reasons import Reason
from pairloom.storage.schema import ADDRESSES
from pairloom.storage.sources.source_row import RejectedRow, SourceRow

logger = logging.getLogger(__name__)

Decoder = Callable[[Iterable[tuple[Any, Origin]], IngestConfig], Iterator[tuple[Any, DecodedImage | RejectedImage]]]
"""As `pairloom.storage.images.decoding.decode`."""

ROWS_AT_ONCE = 20_000
"""Rows held in memory while their addresses are asked whether they have changed."""

_LARGE = 2**20
"""Longer images, in bytes, wait for the decoder in files."""


@dataclass(frozen=True, slots=True)
class _Known:
    sha256: str | None = None
    """Of the bytes that were last taken; None where the address has been refused so far."""
    etag: str | None = None
    last_modified: str | None = None
    found_sha256: str | None = None
    """Of the bytes that were there when it was last asked; None where it was refused."""

    @property
    def validators(self) -> Validators | None:
        return Validators(self.etag, self.last_modified) if self.etag or self.last_modified else None

    def version(self, fetch: FetchConfig) -> str:
        """Of the image: digest of its bytes, or of what decides that it isn't taken, or both."""
        if self.found_sha256 is None:
            return fetch.decided_by
        return self.found_sha256 if self.found_sha256 == self.sha256 else f"{self.found_sha256} {fetch.decided_by}"


class Addresses:
    """The addresses of one pipeline, as its last ingest found them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._seen: set[str] = set()
        self._changed = False

    def listed(self, rows: Iterator[SourceRow | RejectedRow]) -> Iterator[SourceRow | RejectedRow]:
        """`rows`, in order, each with the version of its image; addresses to be rechecked are asked.

        Where that fails in a way that may pass, what was known stands.
        """
        waiting: list[SourceRow | RejectedRow] = []
        for row in rows:
            # Nothing waits where nothing is asked.
            if not waiting and not self._is_rechecked(row):
                yield self._with_version(row)
                continue
            waiting.append(row)
            if len(waiting) == ROWS_AT_ONCE:
                yield from self._rechecked(waiting)
                waiting = []
        yield from self._rechecked(waiting)

    def fetching(self, decoder: Decoder) -> Decoder:
        """`decoder` of rows and their images' origins, with what is at addresses fetched."""

        def fetch_and_decode(
            items: Iterable[tuple[Any, Origin]], config: IngestConfig
        ) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
            rows = list(items)
            if any(isinstance(origin, Address) for _, origin in rows):
                return self._decoded(rows, decoder, config)
            return decoder(rows, config)

        return fetch_and_decode

    def save(self, *, unseen: bool) -> None:
        """Write down what is known; of addresses that no row named since this was opened only where `unseen`."""
        kept = {address: known for address, known in self._known.items() if unseen or address in self._seen}
        if self._changed or len(kept) < len(self._known):
            rows = [
                {"address": address, **{name: getattr(known, name) for name in _KNOWN}}
                for address, known in kept.items()
            ]
            write_parquet(pa.Table.from_pylist(rows, ADDRESSES), self._path)

    def _is_rechecked(self, row: SourceRow | RejectedRow) -> bool:
        address = _address(row)
        return address is not None and address.fetch.recheck == "always" and address.url in self._known

    def _with_version(self, row: SourceRow | RejectedRow) -> SourceRow | RejectedRow:
        address = _address(row)
        if address is None:
            return row
        assert isinstance(row, SourceRow), "only such rows have addresses"
        self._seen.add(address.url)
        known = self._known.get(address.url)
        return row if known is None else _at_version(row, known.version(address.fetch), None)

    def _rechecked(self, rows: list[SourceRow | RejectedRow]) -> Iterator[SourceRow | RejectedRow]:
        asked = {address.url: address for row in rows if self._is_rechecked(row) and (address := _address(row))}
        for url, answer in self._fetched(asked.values(), conditional=True):
            known = self._known[url]
            match answer:
                case Fetched():
                    self._take(asked[url], answer)
                case Unchanged():
                    self._remember(url, replace(known, found_sha256=known.sha256))
                case RejectedImage(transient=False):
                    self._remember(url, replace(known, found_sha256=None))
        yield from map(self._with_version, rows)

    def _decoded(
        self, items: Sequence[tuple[SourceRow, Origin]], decoder: Decoder, config: IngestConfig
    ) -> Iterator[tuple[SourceRow, DecodedImage | RejectedImage]]:
        """Each row, of the version that was fetched, with its image, in order; every address is asked once."""
        rows = [row for row, _ in items]
        places: dict[str, list[int]] = {}
        addresses: dict[str, Address] = {}
        for place, (_, origin) in enumerate(items):
            if isinstance(origin, Address):
                places.setdefault(origin.url, []).append(place)
                addresses[origin.url] = origin
        done: dict[int, DecodedImage | RejectedImage] = {}
        following = 0

        def to_decode(folder: Path) -> Iterator[tuple[Sequence[int], Origin]]:
            for place, (_, origin) in enumerate(items):
                if not isinstance(origin, Address):
                    yield [place], origin
            for url, answer in self._fetched(addresses.values(), conditional=False):
                assert not isinstance(answer, Unchanged), "nothing was said to be known"
                found = self._take(addresses[url], answer)
                version = self._known.get(url, _Known()).version(addresses[url].fetch)
                length = len(found.content) if isinstance(found, Fetched) else None
                for place in places[url]:
                    rows[place] = _at_version(rows[place], version, length)
                if isinstance(found, Fetched):
                    yield places[url], _waiting(found, folder)
                else:
                    done.update(dict.fromkeys(places[url], found))

        with tempfile.TemporaryDirectory(prefix="pairloom-fetched-") as folder:
            for same, image in decoder(to_decode(Path(folder)), config):
                done.update(dict.fromkeys(same, image))
                while following in done:
                    yield rows[following], done.pop(following)
                    following += 1
        while following in done:
            yield rows[following], done.pop(following)
            following += 1
        assert following == len(rows), "one image a row"

    def _take(self, address: Address, answer: Fetched | RejectedImage) -> Fetched | RejectedImage:
        """Take down what an address answered; returns what becomes of that."""
        known = self._known.get(address.url, _Known())
        if isinstance(answer, RejectedImage):
            # What may pass is tried again, and new to us until then.
            if address.url in self._known or not answer.may_pass:
                self._remember(address.url, replace(known, found_sha256=None))
            return answer
        sha256, said = answer.sha256, answer.validators
        if known.sha256 in (None, sha256) or address.fetch.on_change == "update":
            self._remember(address.url, _Known(sha256, said.etag, said.last_modified, sha256))
            return answer
        self._remember(address.url, replace(known, found_sha256=sha256))
        return RejectedImage(
            Reason.IMAGE_CHANGED, f"SHA-256 {sha256} was {known.sha256} (`fetch.on_change` is quarantine)"
        )

    def _remember(self, url: str, known: _Known) -> None:
        self._seen.add(url)
        if self._known.get(url) != known:
            self._known[url], self._changed = known, True

    def _fetched(self, addresses: Iterable[Address], *, conditional: bool) -> Iterator[tuple[str, Answer]]:
        """What the addresses answer, in any order; those fetched alike at the same time."""
        # httpx, for sources that hold addresses.
        from pairloom.storage.fetching.fetch import fetch

        alike: dict[FetchConfig, list[Question]] = {}
        for address in addresses:
            known = self._known.get(address.url) if conditional else None
            question = Question(address.url, known.validators if known else None)
            alike.setdefault(address.fetch, []).append(question)
        for config, questions in alike.items():
            with contextlib.closing(fetch(questions, config)) as answers:
                for question, answer in answers:
                    yield question.address, answer


def _address(row: SourceRow | RejectedRow) -> Address | None:
    return row.image.origin if isinstance(row, SourceRow) and isinstance(row.image.origin, Address) else None


def _at_version(row: SourceRow, version: str, length: int | None) -> SourceRow:
    return replace(row, image=replace(row.image, version=version, length=length))


def _waiting(found: Fetched, folder: Path) -> Callable[[], bytes]:
    """What gives the bytes once, kept in a file where many of them could fill the memory."""
    content = found.content
    if len(content) <= _LARGE:
        return lambda: content
    path = folder / found.sha256
    path.write_bytes(content)
    return lambda: _read_once(path)


def _read_once(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content


def _read(path: Path) -> dict[str, _Known]:
    if not path.exists():
        return {}
    try:
        return {
            row["address"]: _Known(**{name: row[name] for name in _KNOWN})
            for batch in read_parquet(path)
            for row in batch.to_pylist()
        }
    except (DamagedError, KeyError) as error:
        logger.warning("all addresses are asked again: %s", error)
        return {}


_KNOWN = ("sha256", "etag", "last_modified", "found_sha256")
