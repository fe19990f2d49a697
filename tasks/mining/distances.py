"""Target distances of sampled pairs as rows of the pairs' Parquet, computed once for the same images and settings."""

from itertools import chain

import pyarrow as pa

from pairloom.models.mining.config import DistancesConfig
from pairloom.models.mining.distances import distances, masses, sampled_pairs
from pairloom.models.pictures import mapped, opened
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.digest import digest
from pairloom.storage.pairs import PairStore
from pairloom.storage.schema import PAIRS
from pairloom.tasks.items import split_images
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import report_progress

FOLDER = "distances"


def target_pairs(pipeline: Pipeline, corpus: Corpus, snapshot: Snapshot, item_ids: list[str]) -> pa.Table:
    """What `mining.distances` asks for, of the training items; no rows where it asks for nothing."""
    config, store = pipeline.mining.distances, PairStore(pipeline.folder, FOLDER)
    if config is None:
        return PAIRS.empty_table()
    seed = pipeline.training.seed
    known = digest([snapshot.digest, config.model_dump(mode="json"), seed])
    if not store.complete(known):
        images = mapped(opened, chain.from_iterable(split_images(corpus, snapshot, "train")))
        mass_NG = masses(images, config)
        firsts_M, seconds_M = pairs = sampled_pairs(len(item_ids), config.pairs_per_item, seed=seed)
        note = f"{len(firsts_M):,} {config.metric} distances"
        target_M = distances(mass_NG, pairs, config, lambda share: report_progress("mine", share, 1, note))
        ids = pa.array(item_ids, pa.string())
        anchors, others = ids.take(pa.array(firsts_M)), ids.take(pa.array(seconds_M))
        store.write(known, [_rows(anchors, others, config, pa.array(target_M))], {"pairs": len(target_M)})
    return store.read(known)


def _rows(anchors: pa.Array, others: pa.Array, config: DistancesConfig, targets: pa.Array) -> pa.Table:
    count, nulls = len(anchors), pa.nulls(len(anchors), pa.float32())
    columns = [anchors, others, pa.repeat("target", count), pa.repeat(config.metric, count), nulls, targets, nulls]
    return pa.table(columns, schema=PAIRS)
