"""Collections that the project draws."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.distance import agreement
from benchmarks.rendered import GAMES, game, outcome
from pairloom.storage.sources.config import GivenPairsConfig
from pairloom.storage.sources.given_pairs import GivenPair, read_given_pairs


def test_every_kind_beats_one_other_and_loses_to_the_third() -> None:
    kinds = GAMES["rock-paper-scissors"]
    beats = {kinds[a]: [kinds[b] for b in range(3) if outcome(a, b) == 1] for a in range(3)}
    assert beats == {"rock": ["scissors"], "paper": ["rock"], "scissors": ["paper"]}
    assert all(outcome(a, b) == -outcome(b, a) for a in range(3) for b in range(3))


@pytest.mark.parametrize("name", GAMES)
def test_labels_are_of_training_pairs_and_no_text_tells_a_kind(name: str, tmp_path: Path) -> None:
    kinds = GAMES[name]
    game(kinds, tmp_path, count=40, pairs_per_item=3)
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text("utf-8").splitlines()]
    assert not any(kind in row["text"] for row in rows for kind in kinds)
    splits = {row["id"]: row["split"] for row in rows}
    kind_of = {row["id"]: kinds.index(row["kind"]) for row in rows}
    pairs = list(read_given_pairs([GivenPairsConfig(path=tmp_path / "pairs.csv")], splits))
    assert len(pairs) == 3 * list(splits.values()).count("train") == 90
    for pair in pairs:
        assert isinstance(pair, GivenPair)
        assert pair.relation == "ordered"
        assert pair.target == outcome(kind_of[pair.anchor], kind_of[pair.other])


def test_agreement_counts_common_neighbours() -> None:
    place_N = np.array([0.0, 1.0, 2.1, 3.3, 10.0])
    exact_NN = np.abs(place_N[:, None] - place_N[None])
    assert agreement(exact_NN, 2 * exact_NN, 2) == 1
    other_NN = exact_NN.copy()
    other_NN[0, 1] = 100  # the first one's two nearest are now 2 and 3, not 1 and 2
    assert agreement(exact_NN, other_NN, 2) == 0.9
