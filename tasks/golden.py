"""Golden queries against the corpus, before anything is made for them: whether they can be answered at all."""

import logging

import pyarrow as pa

from pairloom.models.evaluation.config import GoldenQuery
from pairloom.storage.corpus import Corpus
from pairloom.tasks.pipeline import Pipeline

logger = logging.getLogger(__name__)


def require_answerable(pipeline: Pipeline, snapshot_number: int) -> None:
    """Raises ValueError where a golden query is of a picture or an item that isn't there, or too few it wants are.

    Where enough of them are there, those that aren't are only warned of: items come and go.
    """
    golden = pipeline.evaluation.golden
    there = (
        _item_ids(pipeline, snapshot_number, {item for query in golden for item in _named(query)}) if golden else set()
    )
    for query in golden:
        if query.image and not query.image.is_file():
            raise ValueError(f"evaluation.golden: {query.title}: there is no file {query.image}")
        if missing := [item for item in _named(query) if item not in there]:
            said = f"evaluation.golden: {query.title}: the corpus has no item {', '.join(map(repr, missing[:5]))}"
            if query.like in missing or len(set(query.find) - set(missing)) < query.at_least:
                raise ValueError(f"{said}; name items that it has, or take the query out")
            logger.warning("%s", said)


def _named(query: GoldenQuery) -> list[str]:
    return [*query.find, *([] if query.like is None else [query.like])]


def _item_ids(pipeline: Pipeline, snapshot_number: int, among: set[str]) -> set[str]:
    """Those of some ids that the snapshot's items have."""
    corpus = Corpus(pipeline.folder)
    snapshot, wanted = corpus.log.read(snapshot_number), pa.array(sorted(among), pa.string())
    batches = (
        batch
        for part in snapshot.parts
        for batch in corpus.read(snapshot, part, ["item_id"], among=("item_id", wanted))
    )
    return {item for batch in batches for item in batch["item_id"].to_pylist()}
