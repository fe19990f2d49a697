"""What a night writes of its pairs, over a small collection with near-duplicates."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from pairloom.flows.config import load_pipeline
from pairloom.flows.show.mining_report import hardest_picture, mining_section
from pairloom.models.batches.relations import KINDS, Edges
from pairloom.models.mining.negatives import Negatives
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.neighbours import NeighbourStore
from pairloom.storage.pairs import PairStore
from pairloom.storage.schema import PAIRS
from pairloom.tasks.decide import decide, snapshot_ref
from pairloom.tasks.ingest import ingest
from pairloom.tasks.items import Items, read_items
from pairloom.tasks.mine import mine
from pairloom.tasks.mining.audit import HARDEST, audit
from pairloom.tasks.mining.edges import near_duplicate_edges, stored_edges
from pairloom.tasks.mining.tonight import hard_negatives, negative_pairs, positive_pairs
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.training.pairs import stored_negatives

COPIED = "large-red-square"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: Callable[..., Path]) -> Pipeline:
    """A corpus of shapes without groups; one picture is there again, slightly darker, under another text."""
    folder = tmp_path_factory.mktemp("mine")
    shutil.copytree(shapes, folder / "shapes")
    with Image.open(folder / "shapes" / f"{COPIED}.png") as image:
        image.point(lambda value: max(0, value - 3)).save(folder / "shapes" / "copy.png")
    with (folder / "shapes" / "captions.jsonl").open("a", encoding="utf-8") as captions:
        captions.write('{"id": "copy", "image": "copy.png", "text": "warning sign", "colour": "red", "size": 40}\n')
    columns = {"id": "id", "keep": {"colour": "string", "size": "int64"}}
    pipeline = load_pipeline(write_pipelines(folder, folder / "shapes", columns=columns))
    ingest(pipeline)
    return pipeline


def items_of(pipeline: Pipeline) -> Items:
    corpus = Corpus(pipeline.folder)
    return read_items(corpus, corpus.current(), "train")


def test_near_duplicates_are_found_written_with_their_kind_and_never_negatives(pipeline: Pipeline) -> None:
    items = items_of(pipeline)
    assert {COPIED, "copy"} <= set(items.item_ids)
    corpus = Corpus(pipeline.folder)
    edges = near_duplicate_edges(corpus, corpus.current(), "train", 4)
    found = {
        frozenset((items.item_ids[a], items.item_ids[b])) for a, b in zip(edges.firsts_M, edges.seconds_M, strict=True)
    }
    assert found == {frozenset((COPIED, "copy"))}
    ref = mine(pipeline, decide(pipeline, snapshot_ref(pipeline)))
    pairs = PairStore(pipeline.folder).read(ref.pairs_id)
    near = pairs.filter(pc.equal(pairs["kind"], "near_duplicate")).to_pylist()
    assert {(pair["anchor"], pair["other"]) for pair in near} == {(COPIED, "copy"), ("copy", COPIED)}
    again = stored_edges(pairs, items.item_ids)
    for name in ("firsts_M", "seconds_M", "kinds_M", "weights_M"):
        np.testing.assert_array_equal(getattr(again, name), getattr(edges, name))
    stored = PairStore(pipeline.folder).audit(ref.pairs_id)
    assert stored["false_negatives"]["share"] == 0
    assert stored["negatives"]["lexical"] == ref.negatives > 0
    assert stored["positives"] == {"near_duplicate": 2}


def test_no_bits_mean_no_near_duplicates(pipeline: Pipeline) -> None:
    corpus = Corpus(pipeline.folder)
    assert len(near_duplicate_edges(corpus, corpus.current(), "train", None).firsts_M) == 0


def test_an_edge_is_stored_beside_what_a_pair_shares_anyway(pipeline: Pipeline) -> None:
    items = items_of(pipeline)
    kinds = np.array([KINDS.index("near_duplicate"), KINDS.index("given")], dtype=np.int8)
    edges = Edges(np.array([0, 2]), np.array([1, 3]), kinds, np.ones(2, dtype=np.float32))
    grouped = replace(items.relations, group_N=np.zeros(len(items.item_ids), dtype=np.int64))
    again = stored_edges(positive_pairs(grouped, edges), items.item_ids)
    np.testing.assert_array_equal(np.stack([again.firsts_M, again.seconds_M, again.kinds_M]), [[0, 2], [1, 3], kinds])


def test_the_champions_negatives_come_in_three_directions_and_its_lists_are_kept(pipeline: Pipeline) -> None:
    corpus, items = Corpus(pipeline.folder), items_of(pipeline)
    snapshot = corpus.current()
    random = np.random.default_rng(0)
    for part in snapshot.parts:
        ids = corpus.part_ids(snapshot, part).to_pylist()
        vectors = random.standard_normal((2, len(ids), 8)).astype(np.float32) + 1
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        EmbeddingStore(pipeline.folder, "model").write(part, ids, *vectors)
    first = hard_negatives(pipeline, "model", snapshot, items.relations)
    again = hard_negatives(pipeline, "model", snapshot, items.relations)
    assert list(first) == ["image_to_text", "text_to_image", "image_to_image"]
    lists = NeighbourStore(pipeline.folder).newest("model")
    assert lists is not None
    assert lists["item_id"].to_pylist() == items.item_ids
    for direction, each in first.items():
        np.testing.assert_array_equal(each.indices_NK, again[direction].indices_NK)
    mined = stored_negatives(negative_pairs(first, items.item_ids), items.item_ids)
    rows = [[each.indices_NK[0, place] for place in range(4) for each in first.values()]]
    expected = [row for row in dict.fromkeys(rows[0]) if row >= 0]
    assert mined[0, : len(expected)].tolist() == expected


def test_an_audit_counts_false_negatives_from_the_written_pairs(pipeline: Pipeline) -> None:
    items = items_of(pipeline)
    ids, count = items.item_ids, len(items.item_ids)
    groups = ["one", "one", *items.groups[2:]]
    texts = [["a"], ["b"], ["c"], [" C "], *items.texts[4:]]
    items = replace(items, groups=groups, texts=texts)
    ends = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 8), (10, 11), (12, 13), (0, 20)]
    rows = [{"anchor": ids[a], "other": ids[b], "relation": "negative", "kind": "lexical"} for a, b in ends]
    for (a, b), kind in {(4, 5): "near_duplicate", (6, 7): "given", (14, 15): "pixels"}.items():
        rows.append({"anchor": ids[a], "other": ids[b], "relation": "positive", "kind": kind})
    negatives = Negatives.of_pairs(
        np.array([a for a, _ in ends]),
        np.array([b for _, b in ends]),
        np.linspace(0.9, 0.2, 8, dtype=np.float32),
        count,
    )
    negatives = replace(negatives, positive_N=np.full(count, 0.97, dtype=np.float32))
    found = audit(pa.Table.from_pylist([{"score": None, **row} for row in rows], PAIRS), items, {"lexical": negatives})
    assert found["false_negatives"] == {
        "item": 1, "group": 2, "text": 2, "near_duplicate": 1, "known_positive": 2, "share": 5 / 8
    }  # fmt: skip
    assert found["negatives"] == {"lexical": 8}
    assert found["positives"] == {"near_duplicate": 1, "given": 1, "pixels": 1}
    assert found["coverage"]["lexical"] == {"some": round(7 / count, 4), "all": round(1 / count, 4)}
    histograms = found["histograms"]
    assert len(histograms["edges"]) == 41
    assert sum(histograms["lexical"]["negatives"]) == 8
    assert histograms["lexical"]["positives"][-1] == count
    hardest = found["hardest"]
    assert [pair["score"] for pair in hardest] == sorted((pair["score"] for pair in hardest), reverse=True)
    assert (hardest[0]["anchor"], hardest[0]["other"], hardest[0]["anchor_text"]) == (ids[0], ids[1], "a")
    assert len(hardest) == 7 <= HARDEST  # the last would show an item again


def test_the_report_shows_the_audit_and_the_hardest_pairs(pipeline: Pipeline) -> None:
    ref = mine(pipeline, decide(pipeline, snapshot_ref(pipeline)))
    lines = mining_section(pipeline, ref.pairs_id)
    text = "\n".join(lines)
    assert f"| lexical | {ref.negatives:,} |" in text
    assert "| group | item | known positive | near duplicate | share | text |" in text
    assert "data:image/webp;base64," in text
    audit = PairStore(pipeline.folder).audit(ref.pairs_id)
    with Image.open(io.BytesIO(hardest_picture(pipeline, audit["hardest"]))) as picture:
        assert picture.size == (4 * 216 + 8, 5 * 136 + 8)
    assert mining_section(pipeline, None) == []
