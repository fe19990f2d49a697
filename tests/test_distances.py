"""Target distances that mining computes, by hand on small grids and in a pipeline."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image
from scipy.optimize import linprog  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.flows.config import load_pipeline
from pairloom.models.mining import distances as mining
from pairloom.models.mining.config import DistancesConfig
from pairloom.models.mining.distances import distances, grid_costs, masses, sampled_pairs, wasserstein
from pairloom.storage.corpus import Corpus
from pairloom.storage.pairs import PairStore
from pairloom.tasks.decide import decide, snapshot_ref
from pairloom.tasks.ingest import ingest
from pairloom.tasks.items import read_items
from pairloom.tasks.mine import mine
from pairloom.tasks.mining.distances import target_pairs
from pairloom.tasks.training.pairs import pairs_of

pytest.importorskip("ot", reason="POT is an extra")


def inked(*cells: tuple[int, int, float], side: int = 3) -> np.ndarray:
    grid = np.zeros((side, side))
    for row, column, mass in cells:
        grid[row, column] = mass
    mass_G: np.ndarray = (grid / grid.sum()).ravel()
    return mass_G


@pytest.mark.parametrize("order", [1, 2])
def test_distances_match_a_linear_program(order: int) -> None:
    random, cost_GG = np.random.default_rng(0), grid_costs(3, order)
    for _ in range(5):
        first_G, second_G = random.dirichlet(np.ones(9), size=2) * (random.random((2, 9)) > 0.3)
        first_G, second_G = first_G / first_G.sum(), second_G / second_G.sum()
        rows, columns = np.kron(np.eye(9), np.ones(9)), np.kron(np.ones(9), np.eye(9))
        program = linprog(
            cost_GG.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=np.concatenate([first_G, second_G])
        )
        assert wasserstein(first_G, second_G, cost_GG, order) == pytest.approx(program.fun ** (1 / order), abs=1e-8)


def test_a_moved_picture_is_as_far_as_it_was_moved() -> None:
    first_G, second_G = inked((0, 0, 1), (1, 1, 2)), inked((1, 1, 1), (2, 2, 2))
    for order in (1, 2):
        assert wasserstein(first_G, second_G, grid_costs(3, order), order) == pytest.approx(2**0.5)


def test_ink_is_what_is_dark_or_bright_and_sums_to_one() -> None:
    picture = Image.new("RGB", (8, 8), "white")
    picture.paste("black", (0, 0, 4, 4))
    dark, bright = (masses([picture], DistancesConfig(side=2, ink=ink))[0] for ink in ("dark", "bright"))
    assert dark.tolist() == [1, 0, 0, 0]
    assert bright.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert masses([Image.new("RGB", (8, 8), "white")], DistancesConfig(side=2))[0].tolist() == [0.25] * 4


def test_every_item_is_paired_and_no_pair_comes_twice() -> None:
    firsts_M, seconds_M = sampled_pairs(30, 4, seed=0)
    assert (firsts_M < seconds_M).all()
    assert len(set(zip(firsts_M, seconds_M, strict=True))) == len(firsts_M) <= 120
    ends = np.concatenate([firsts_M, seconds_M])
    assert np.bincount(ends, minlength=30).min() >= 3  # one may have been drawn twice
    np.testing.assert_array_equal(sampled_pairs(30, 4, seed=0), (firsts_M, seconds_M))
    assert not np.array_equal(sampled_pairs(30, 4, seed=1)[0][:20], firsts_M[:20])
    assert [len(each) for each in sampled_pairs(1, 4, seed=0)] == [0, 0]
    assert set(zip(*(each.tolist() for each in sampled_pairs(2, 4, seed=0)), strict=True)) == {(0, 1)}


def test_several_processes_give_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    mass_NG = np.random.default_rng(0).dirichlet(np.ones(9), size=12)
    pairs, config = sampled_pairs(12, 5, seed=0), DistancesConfig(side=3)
    expected = [wasserstein(mass_NG[a], mass_NG[b], grid_costs(3, 2), 2) for a, b in zip(*pairs, strict=True)]
    monkeypatch.setattr(mining, "_PAIRS_AT_ONCE", 10)
    for processes in (1, 2):
        monkeypatch.setattr(mining, "available_cpus", lambda processes=processes: processes)
        shares: list[float] = []
        np.testing.assert_allclose(distances(mass_NG, pairs, config, shares.append), expected, rtol=1e-6)
        assert shares == sorted(shares)
        assert shares[-1] == 1


def test_a_night_writes_distances_once_for_the_same_images(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    wanted = {"distances": {"pairs_per_item": 3, "side": 4, "order": 1}}
    pipeline = load_pipeline(write_pipelines(tmp_path, shapes, mining=wanted))
    ingest(pipeline)
    ref = mine(pipeline, decide(pipeline, snapshot_ref(pipeline)))
    stored = PairStore(pipeline.folder).read(ref.pairs_id)
    rows = stored.filter(pc.equal(stored["relation"], "target"))
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.current()
    items = read_items(corpus, snapshot, "train")
    assert PairStore(pipeline.folder).audit(ref.pairs_id)["distances"] == len(rows) > len(items.item_ids)
    assert set(rows["kind"].to_pylist()) == {"wasserstein"}
    row = rows.to_pylist()[0]
    assert pipeline.mining.distances is not None
    pictures = [Image.open(shapes / f"{row[end]}.png").resize((64, 64), 1) for end in ("anchor", "other")]
    first_G, second_G = masses(pictures, pipeline.mining.distances)
    near = wasserstein(first_G, second_G, grid_costs(4, 1), 1)
    assert row["target"] == pytest.approx(near, abs=0.05)
    found = pairs_of(stored, items)["target"]
    assert found.targets_M.tolist() == rows["target"].to_pylist()
    (kept,) = (pipeline.folder / "distances").iterdir()
    (part,) = kept.glob("*.parquet")
    written = part.stat().st_mtime_ns
    again = target_pairs(pipeline, corpus, snapshot, items.item_ids)
    assert again.equals(rows)
    assert part.stat().st_mtime_ns == written
    assert (
        len(
            target_pairs(
                load_pipeline(tmp_path / "pipelines.yaml", overrides=["mining={}"]), corpus, snapshot, items.item_ids
            )
        )
        == 0
    )
