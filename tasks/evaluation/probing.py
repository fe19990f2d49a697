"""Probing: labels of items read off a model's image embeddings, learned on the training split."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Embeddings, Indices, Values
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.probes import probe, training_rows
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.tasks.items import image_batches, second_tower_items

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """One column's values."""

    train_rows: Indices
    """Rows of `ProbeItems.train_ids` that are learned from, in the order of the ids: classifiers mind the order."""
    train: list[str]
    test: list[str | None]
    """Of `ProbeItems.test_rows`."""


@dataclass(frozen=True)
class ProbeItems:
    """What probes learn from and are asked, by column; the same for every model."""

    train_ids: list[str]
    """Training items that any column is learned from, in the corpus' order."""
    test_rows: Indices
    """Rows of the evaluated items that are no training items, in the order of their ids."""
    columns: dict[str, Labels]


def read_probe_items(
    corpus: Corpus, snapshot: Snapshot, evaluated: Sequence[str], config: EvaluationConfig
) -> ProbeItems:
    """Labels for `config.probes`, asked of the `evaluated` items. Raises ValueError where a column is not kept."""
    unknown = sorted(set(config.probes) - set(corpus.columns(snapshot)))
    if unknown:
        raise ValueError(
            f"evaluation.probes names {unknown[0]!r}, which is no column of the corpus: add it to columns.keep"
        )
    if not config.probes:
        return ProbeItems([], np.array([], np.int64), {})
    rows = corpus.table(snapshot, list(dict.fromkeys(["item_id", "split", *config.probes]))).to_pylist()
    train, by_id = [row for row in rows if row["split"] == "train"], {row["item_id"]: row for row in rows}
    asked = sorted((item, n) for n, item in enumerate(evaluated) if by_id[item]["split"] != "train")
    test_rows = np.array([n for _, n in asked], np.int64)
    ordered = np.array(sorted(range(len(train)), key=lambda row: train[row]["item_id"]), np.int64)
    learned = {
        name: ordered[training_rows([_label(train[row][name]) for row in ordered], seed=config.seed)]
        for name in config.probes
    }
    chosen = np.unique(np.concatenate([*learned.values()]))
    return ProbeItems(
        train_ids=[train[row]["item_id"] for row in chosen],
        test_rows=test_rows,
        columns={
            name: Labels(
                train_rows=np.searchsorted(chosen, rows_N),
                train=[str(_label(train[row][name])) for row in rows_N],
                test=[_label(by_id[evaluated[row]][name]) for row in test_rows],
            )
            for name, rows_N in learned.items()
        },
    )


def embed_probe_items(corpus: Corpus, snapshot: Snapshot, items: ProbeItems, encoder: Encoder) -> Embeddings:
    """Image embeddings (N, D) of `items.train_ids`."""
    second_N = second_tower_items(corpus, snapshot, items.train_ids, encoder.second)
    return encoder.embed_batches(image_batches(corpus, snapshot, items.train_ids) if items.train_ids else (), second_N)


def probe_embeddings(items: ProbeItems, train_ND: Embeddings, image_ND: Embeddings, seed: int) -> dict[str, Values]:
    """`probe_<column>_<classifier>`: 1 or 0 for every item asked (`pairloom.models.evaluation.probes`).

    `train_ND` are the image embeddings of `items.train_ids`, `image_ND` those of the evaluated items.
    """
    found: dict[str, Values] = {}
    for name, labels in items.columns.items():
        told = probe(train_ND[labels.train_rows], labels.train, image_ND[items.test_rows], labels.test, seed)
        if not told:
            logger.warning(
                "column %r can't be probed: the training items need two labels or more, and one that another item has "
                "(without columns.split, a group is never in two splits)",
                name,
            )
        found |= {f"probe_{name}_{classifier}": right_M for classifier, right_M in told.items()}
    return found


def _label(value: object) -> str | None:
    return None if value is None else str(value)
