"""Pairs that people bring: read from three formats, checked row by row, written beside the mined ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from test_cli import error

from pairloom.flows.config import load_pipeline
from pairloom.models.batches.relations import KINDS, Edges, Relations
from pairloom.storage.corpus import Corpus
from pairloom.storage.pairs import PairStore
from pairloom.storage.sources.config import GivenPairsConfig
from pairloom.storage.sources.given_pairs import GivenPair, RejectedPair, read_given_pairs
from pairloom.tasks.decide import decide, snapshot_ref, training_digest
from pairloom.tasks.ingest import ingest
from pairloom.tasks.items import read_items
from pairloom.tasks.mine import mine
from pairloom.tasks.mining.edges import stored_edges
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.training.pairs import stored_negatives

WritePipelines = Callable[..., Path]
SPLITS = {"a": "train", "b": "train", "c": "train", "1": "train", "held back": "val"}
ROWS: list[dict[str, object]] = [
    {"anchor": "a", "other": "b", "relation": "positive"},
    {"anchor": "b", "other": "c", "relation": "Negative", "weight": 2.5},
    {"anchor": "a", "other": "c", "relation": "ordered"},
    {"anchor": "c", "other": "1", "relation": "target", "target": 0.25, "weight": 0.5},
]


def written(path: Path, rows: list[dict[str, object]]) -> GivenPairsConfig:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        names = ["anchor", "other", "relation", "target", "weight"]
        lines = [",".join("" if row.get(name) is None else str(row[name]) for name in names) for row in rows]
        path.write_text("\n".join([",".join(names), *lines]) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return GivenPairsConfig(path=path)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_the_same_pairs_are_read_from_every_format(tmp_path: Path, suffix: str) -> None:
    everywhere: list[dict[str, object]] = [{"target": None, "weight": None, **row} for row in ROWS]
    found = list(read_given_pairs([written(tmp_path / f"pairs.{suffix}", everywhere)], SPLITS))
    assert all(isinstance(pair, GivenPair) for pair in found), found
    said = [(p.anchor, p.other, p.relation, p.target, p.weight) for p in found if isinstance(p, GivenPair)]
    assert said == [
        ("a", "b", "positive", None, 1.0),
        ("b", "c", "negative", None, 2.5),
        ("a", "c", "ordered", None, 1.0),
        ("c", "1", "target", 0.25, 0.5),
    ]


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("item-unknown", {"other": "z"}),
        ("other-split", {"other": "held back"}),
        ("self-pair", {"other": "a"}),
        ("id-missing", {"anchor": " "}),
        ("malformed-row", {"anchor": ["a"]}),
        ("relation-unknown", {"relation": "opposite"}),
        ("relation-unknown", {"relation": None}),
        ("weight-bad", {"weight": 0}),
        ("weight-bad", {"weight": "much"}),
        ("weight-bad", {"weight": "-inf"}),
        ("weight-bad", {"weight": "1e999"}),
        ("weight-bad", {"weight": 1e-300}),
        ("target-bad", {"relation": "target"}),
        ("target-bad", {"target": 0.5}),
        ("target-bad", {"relation": "target", "target": "1e999"}),
        ("repeated", {"weight": 3}),
    ],
)
def test_a_bad_row_is_told_with_its_reason_and_costs_only_itself(
    tmp_path: Path, reason: str, row: dict[str, object]
) -> None:
    bad: dict[str, object] = {"anchor": "a", "other": "b", "relation": "positive", **row}
    config = written(tmp_path / "pairs.jsonl", [ROWS[0], bad, ROWS[1]])
    first, rejected, last = read_given_pairs([config], SPLITS)
    assert isinstance(first, GivenPair)
    assert isinstance(last, GivenPair)
    assert isinstance(rejected, RejectedPair)
    assert (rejected.reason, rejected.file, rejected.row) == (reason, "pairs.jsonl", 2)


def test_a_line_that_is_no_json_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("{\n" + json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    rejected, pair = read_given_pairs([GivenPairsConfig(path=path)], SPLITS)
    assert isinstance(rejected, RejectedPair)
    assert rejected.reason == "malformed-row"
    assert isinstance(pair, GivenPair)


def test_pairs_of_items_are_positives_where_the_mask_says_so() -> None:
    texts = [["red"], ["Red"], ["green"], ["blue"], ["grey"]]
    relations = Relations.build(list("abcde"), ["g", None, "g", None, None], texts, [None] * 5)
    edge = np.array([3]), np.array([4]), np.array([4], np.int8), np.array([0.5], np.float32)
    relations = relations.with_edges(Edges(*edge))
    every = np.arange(5)
    firsts, seconds = np.repeat(every, 5), np.tile(every, 5)
    expected = relations.positive_mask(every, every)
    np.testing.assert_array_equal(relations.are_positives(firsts, seconds), expected.ravel())
    assert relations.are_positives(firsts[:0], seconds[:0]).shape == (0,)


@pytest.fixture
def pipeline(tmp_path: Path, shapes: Path, write_pipelines: WritePipelines) -> Pipeline:
    """A corpus of shapes, and `pairs.csv` beside its pipelines.yaml."""
    file = write_pipelines(tmp_path, shapes, pairs=["pairs.csv"])
    pipeline = load_pipeline(file)
    ingest(pipeline)
    corpus = Corpus(pipeline.folder)
    items = read_items(corpus, corpus.current(), "train")
    first = {group: items.item_ids[items.groups.index(group)] for group in dict.fromkeys(items.groups)}
    a, b, c, d, *_ = first.values()
    mate = next(i for i, g in zip(items.item_ids, items.groups, strict=True) if g == items.groups[0] and i != a)
    written(
        tmp_path / "pairs.csv",
        [
            {"anchor": a, "other": b, "relation": "positive", "weight": 0.5},
            {"anchor": b, "other": a, "relation": "negative"},
            {"anchor": a, "other": mate, "relation": "negative"},
            {"anchor": a, "other": c, "relation": "negative", "weight": 2},
            {"anchor": c, "other": d, "relation": "ordered"},
            {"anchor": d, "other": c, "relation": "target", "target": 0.75},
            {"anchor": "nobody", "other": c, "relation": "positive"},
        ],
    )
    return pipeline


def test_given_pairs_join_the_mined_ones_and_every_row_is_accounted_for(pipeline: Pipeline) -> None:
    ref = mine(pipeline, decide(pipeline, snapshot_ref(pipeline)))
    store = PairStore(pipeline.folder)
    pairs, audit = store.read(ref.pairs_id), store.audit(ref.pairs_id)
    given = pairs.filter(pc.equal(pairs["kind"], "given")).to_pylist()
    assert [(row["relation"], row["target"], row["weight"]) for row in given] == [
        ("positive", None, 0.5), ("positive", None, 0.5), ("negative", None, 2), ("ordered", None, 1),
        ("target", 0.75, 1),
    ]  # fmt: skip
    assert audit["given"]["rows"] == 7
    assert audit["given"]["used"] == {"positive": 1, "negative": 1, "ordered": 1, "target": 1}
    assert audit["given"]["rejected"] == {"item-unknown": 1, "contradiction": 2}
    assert [(each["row"], each["reason"]) for each in audit["given"]["examples"]] == [
        (8, "item-unknown"), (3, "contradiction"), (4, "contradiction")
    ]  # fmt: skip
    assert audit["false_negatives"]["share"] == 0

    corpus = Corpus(pipeline.folder)
    ids = read_items(corpus, corpus.current(), "train").item_ids
    edges, negatives_NK = stored_edges(pairs, ids), stored_negatives(pairs, ids)
    kind = edges.kinds_M == KINDS.index("given")
    assert edges.weights_M[kind].tolist() == [0.5]
    anchor, other = (ids.index(given[2][side]) for side in ("anchor", "other"))
    assert negatives_NK[anchor, 0] == other


def test_pairs_that_changed_are_mined_and_trained_anew(pipeline: Pipeline) -> None:
    before = decide(pipeline, snapshot_ref(pipeline))
    mined = mine(pipeline, before)
    file = pipeline.pairs[0].path
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    after = decide(pipeline, snapshot_ref(pipeline))
    assert after.run_id != before.run_id
    assert after.training_digest == training_digest(pipeline) != before.training_digest
    assert mine(pipeline, after).pairs_id != mined.pairs_id
    without = pipeline.model_copy(update={"pairs": ()})
    assert training_digest(without) not in (before.training_digest, after.training_digest)


@pytest.mark.parametrize(
    ("said", "name", "content"),
    [
        ("pairs.txt: say how it is written, kind: parquet or csv or jsonl", "pairs.txt", ""),
        ("can't be read: No such file or directory", "absent.csv", ""),
        ("has no column relation; it has anchor, other", "pairs.csv", "anchor,other\na,b\n"),
        ("can't be read: ", "pairs.parquet", "no Parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines, said: str, name: str, content: str
) -> None:
    if content:
        (tmp_path / name).write_text(content)
    file = write_pipelines(tmp_path, shapes, pairs=[name])
    assert said in error(2, "run", "--file", str(file))
