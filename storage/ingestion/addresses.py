"""What was at each address, remembered between nights; images fetched on their way to the decoder. Can be deleted."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pairloom.storage.digest import digest
from pairloom.storage.fetching.answer import Answer, Fetched, Question, Unchanged, Validators
from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.files import DamagedError
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import Address, Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage
from pairloom.storage.local_copies import beside
from pairloom.storage.parquet import read_parquet, read_schema, write_parquet
from pairloom.storage.reasons import Reason
from pairloom.storage.schema import ADDRESSES
from pairloom.storage.sources.source_row import RejectedRow, SourceRow

logger = logging.getLogger(__name__)

Decoder = Callable[[Iterable[tuple[Any, Origin]], IngestConfig], Iterator[tuple[Any, DecodedImage | RejectedImage]]]
"""As `pairloom.storage.images.decoding.decode`."""

ROWS_AT_ONCE = 20_000
"""Rows held in memory while their addresses are asked whether they have changed."""


@dataclass(frozen=True, slots=True)
class _Known:
    sha256: str | None = None
    """Of the bytes that were last taken; None where the address has been refused so far."""
    etag: str | None = None
    last_modified: str | None = None
    version: str | None = None
    """Under which they were taken."""
    found_sha256: str | None = None
    """Of the bytes that were there when it was last asked; None where it was refused."""

    @property
    def validators(self) -> Validators | None:
        return Validators(self.etag, self.last_modified) if self.etag or self.last_modified else None


class Addresses:
    """The addresses of one pipeline, as its last ingest found them; `night` is the number of this one.

    An image at an address has a version before it is fetched: that under which its bytes were taken, and another one
    as soon as they are known to be gone or changed.
    """

    def __init__(self, path: Path, night: int) -> None:
        self._path = path
        self._since, self._known = _read(path) or (str(night), {})
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
        """`decoder` with what is at addresses fetched, every one once, before it is decoded; its results in order."""

        def fetch_and_decode(
            items: Iterable[tuple[Any, Origin]], config: IngestConfig
        ) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
            keys: list[Any] = []
            done: dict[int, DecodedImage | RejectedImage] = {}
            following = 0
            with contextlib.ExitStack() as stack:
                for (places, fetched), image in decoder(self._to_decode(items, keys, done, stack), config):
                    done.update(dict.fromkeys(places, image))
                    if fetched is not None:
                        fetched.unlink()
                    while following in done:
                        yield keys[following], done.pop(following)
                        following += 1
            while following in done:
                yield keys[following], done.pop(following)
                following += 1
            assert following == len(keys), "one image a key"

        return fetch_and_decode

    def save(self, *, unseen: bool) -> None:
        """Write down what is known; of addresses that no row named since this was opened only where `unseen`.

        To be done before what became of the images is written down.
        """
        kept = {address: known for address, known in self._known.items() if unseen or address in self._seen}
        if self._changed or len(kept) < len(self._known):
            rows = [{"address": address, **asdict(known)} for address, known in kept.items()]
            table = pa.Table.from_pylist(rows, ADDRESSES).replace_schema_metadata({"since": self._since})
            write_parquet(table, self._path)

    def _is_rechecked(self, row: SourceRow | RejectedRow) -> bool:
        address = _address(row)
        return address is not None and address.fetch.recheck == "always" and address.url in self._known

    def _with_version(self, row: SourceRow | RejectedRow) -> SourceRow | RejectedRow:
        address = _address(row)
        if address is None:
            return row
        assert isinstance(row, SourceRow), "only such rows have addresses"
        self._seen.add(address.url)
        version = self._version(address)
        return replace(row, image=replace(row.image, version=version, origin=replace(address, version=version)))

    def _version(self, address: Address) -> str:
        # Where all that was known was deleted, addresses that are rechecked are asked as if for the first time.
        unasked = digest([address.fetch.decided_by, self._since if address.fetch.recheck == "always" else None])
        known = self._known.get(address.url)
        if known is None or known.version is None:
            return unasked
        if known.found_sha256 == known.sha256:
            return known.version
        return digest([known.version, known.found_sha256, unasked])

    def _rechecked(self, rows: list[SourceRow | RejectedRow]) -> Iterator[SourceRow | RejectedRow]:
        asked = {address.url: address for row in rows if self._is_rechecked(row) and (address := _address(row))}
        for url, answer in self._fetched(asked.values(), conditional=True):
            known = self._known[url]
            match answer:
                case Unchanged():
                    self._remember(url, replace(known, found_sha256=known.sha256))
                case Fetched(sha256=sha256):
                    # The same bytes have the same version, others one of their own.
                    version = known.version if sha256 == known.sha256 else sha256
                    self._take(replace(asked[url], version=version or sha256), answer)
                case RejectedImage():
                    self._take(asked[url], answer)
        yield from map(self._with_version, rows)

    def _to_decode(
        self,
        items: Iterable[tuple[Any, Origin]],
        keys: list[Any],
        done: dict[int, DecodedImage | RejectedImage],
        stack: contextlib.ExitStack,
    ) -> Iterator[tuple[tuple[Sequence[int], Path | None], Origin]]:
        """What there is to decode, with the places that it has in `items` and the file that it was fetched into.

        What is rejected before goes to `done`.
        """
        places: dict[str, list[int]] = {}
        addresses: dict[str, Address] = {}
        for place, (key, origin) in enumerate(items):
            keys.append(key)
            if isinstance(origin, Address):
                places.setdefault(origin.url, []).append(place)
                addresses[origin.url] = origin
            else:
                yield ([place], None), origin
        if not addresses:
            return
        # Beside what is known of them, where garbage collection finds what a killed run leaves.
        parent = beside(self._path.parent)
        parent.mkdir(parents=True, exist_ok=True)
        held = tempfile.TemporaryDirectory(prefix=".fetched.", dir=parent)
        folder = Path(stack.enter_context(held))
        for url, answer in self._fetched(addresses.values(), conditional=False):
            assert not isinstance(answer, Unchanged), "nothing was said to be known"
            found = self._take(addresses[url], answer)
            if isinstance(found, Fetched):
                # Sooner read by a child than sent to it, and many of them could fill the memory.
                path = folder / str(places[url][0])
                path.write_bytes(found.content)
                yield (places[url], path), path
            else:
                done.update(dict.fromkeys(places[url], found))

    def _take(self, address: Address, answer: Fetched | RejectedImage) -> Fetched | RejectedImage:
        """Take down what an address answered; returns what becomes of that."""
        known = self._known.get(address.url, _Known())
        if isinstance(answer, RejectedImage):
            # Where it may pass, what was known stands.
            if not answer.may_pass:
                self._remember(address.url, replace(known, found_sha256=None))
            return answer
        sha256, said = answer.sha256, answer.validators
        if known.sha256 in (None, sha256) or address.fetch.on_change == "update":
            self._remember(address.url, _Known(sha256, said.etag, said.last_modified, address.version, sha256))
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


def _read(path: Path) -> tuple[str, dict[str, _Known]] | None:
    """Since which night addresses are remembered, and what is known of them."""
    if not path.is_file():
        return None
    try:
        known = {
            row["address"]: _Known(**{name: value for name, value in row.items() if name != "address"})
            for batch in read_parquet(path)
            for row in batch.to_pylist()
        }
        return (read_schema(path).metadata or {})[b"since"].decode(), known
    except (DamagedError, KeyError, TypeError) as error:
        logger.warning("what was known of addresses is lost: %s", error)
        return None
