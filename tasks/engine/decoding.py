"""Ingest's images decoded by the workers of a cluster, each with a decoding process of its own."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import INLINE_BYTES, Content, DecodingProcess, content_of, decode
from pairloom.storage.images.location import FileSlice, Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage
from pairloom.storage.images.worker import LONGEST
from pairloom.storage.ingestion.images import Decoder
from pairloom.storage.reasons import Reason
from pairloom.tasks.engine.workers import Workers, workers
from pairloom.tasks.pipeline import Pipeline

logger = logging.getLogger(__name__)

IMAGES = 64
"""Images of a job: a worker takes some 200 ms for them."""

Contents = list[Content | RejectedImage]
Images = list[DecodedImage | RejectedImage]


@contextmanager
def decoding(pipeline: Pipeline) -> Iterator[Decoder]:
    """What decodes the images of a night: processes of this machine, or the workers of the pipeline's cluster."""
    if pipeline.engine.kind == "local":
        yield decode
        return
    with (
        workers(pipeline.engine, "ingest", partial(opened_decoder, pipeline.ingest)) as run,
        closing(DecodingProcess(pipeline.ingest)) as here,
    ):
        yield SharedDecoding(run, here)


def opened_decoder(config: IngestConfig) -> Callable[[Contents], Images]:
    """What decodes images under these limits, in one process that is started when first needed."""
    return DecodingProcess(config).decoded


class SharedDecoding:
    """As `pairloom.storage.images.decoding.decode`, by workers. A file crosses by its path, where they see it.

    Those that they don't see, on a disk of this machine, are read here and sent.
    """

    def __init__(self, run: Workers[Contents, Images], here: DecodingProcess) -> None:
        self._run, self._here = run, here
        self._seen_there = True

    def __call__(
        self, items: Iterable[tuple[Any, Origin]], config: IngestConfig
    ) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
        """What to store of each image, or why not, in the order of `items`, which are read ahead. The workers have been
        opened with this `config`."""
        del config
        keys: deque[Any] = deque()
        for contents, images in self._run(self._jobs(items, keys)):
            for content, image in zip(contents, images, strict=True):
                yield keys.popleft(), self._decoded_here(content) if self._is_unseen(content, image) else image

    def _jobs(self, items: Iterable[tuple[Any, Origin]], keys: deque[Any]) -> Iterator[Contents]:
        contents: Contents = []
        length = 0
        for key, origin in items:
            content = content_of(origin)
            contents.append(content if self._seen_there else _read(content))
            keys.append(key)
            length += len(contents[-1]) if isinstance(contents[-1], bytes) else 0
            if len(contents) == IMAGES or length > INLINE_BYTES:
                yield contents
                contents, length = [], 0
        if contents:
            yield contents

    def _is_unseen(self, content: Content | RejectedImage, image: DecodedImage | RejectedImage) -> bool:
        """Whether a worker found no file where this machine has one."""
        found = isinstance(image, RejectedImage) and image.reason is Reason.IMAGE_NOT_FOUND
        return found and isinstance(content, Path | FileSlice) and _file(content).exists()

    def _decoded_here(self, content: Content | RejectedImage) -> DecodedImage | RejectedImage:
        if self._seen_there and isinstance(content, Path | FileSlice):
            logger.warning(
                "ingest: %s isn't there on the cluster's nodes: such images are read here and sent", _file(content)
            )
        self._seen_there = False
        return self._here.decoded([content])[0]


def _read(content: Content | RejectedImage) -> Content | RejectedImage:
    """The bytes of a file; where it can't be read, or is too long to be sent, whoever decodes it says what is wrong."""
    if not isinstance(content, Path | FileSlice):
        return content
    try:
        with _file(content).open("rb") as stream:
            if isinstance(content, FileSlice):
                stream.seek(content.offset)
            found = stream.read(content.length if isinstance(content, FileSlice) else LONGEST + 1)
    except (OSError, ValueError):
        return content
    return found if len(found) <= LONGEST else content


def _file(content: Path | FileSlice) -> Path:
    return content if isinstance(content, Path) else content.path
