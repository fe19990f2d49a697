"""`architecture: auto`: chosen by the pictures, and kept with the model that is served."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from nights import current, folder

from pairloom.flows.config import load_pipeline
from pairloom.models.towers.choosing import AUTO, choose, flat_share
from pairloom.models.towers.config import FITTED, ModelConfig
from pairloom.models.towers.names import require_towers
from pairloom.tasks.decide import LATER, training_digest
from pairloom.tasks.readiness import require_readiness
from pairloom.tasks.settle import settle


@pytest.fixture
def file(first_night: Path, tmp_path: Path) -> Path:
    """A pipeline after its first night."""
    shutil.copytree(first_night, tmp_path / "night")
    return tmp_path / "night" / "pipelines.yaml"


def test_flat_places_match_a_loop_over_neighbours() -> None:
    pixels = np.random.default_rng(0).choice([10, 12, 15], size=(5, 7, 3)).astype(np.uint8)
    flat = [
        all(
            abs(int(pixels[y, x, c]) - int(pixels[y + down, x + right, c])) <= 2
            for c in range(3)
            for down, right in ((0, 1), (1, 0))
        )
        for y in range(4)
        for x in range(6)
    ]
    assert flat_share(pixels) == pytest.approx(np.mean(flat))
    assert flat_share(np.full((8, 8, 3), 255, np.uint8)) == flat_share(pixels[:1]) == 1.0


@pytest.mark.parametrize(
    ("shares", "weights", "architecture"),
    [
        ([0.8, 0.7, 0.1], False, "drawings"),
        ([0.8, 0.7, 0.1], True, "drawings-pretrained"),
        ([0.1, 0.0, 0.9], False, "photographs-plain"),
        ([0.1, 0.0, 0.9], True, "photographs"),
    ],
)
def test_the_middle_picture_and_the_packages_choose(shares: list[float], weights: bool, architecture: str) -> None:
    choice = choose(shares, weights=weights)
    assert choice.architecture == architecture
    assert f"{np.median(shares):.0%} of the middle one of 3" in choice.why
    assert ModelConfig(architecture=architecture)


def test_nothing_is_chosen_without_pictures_and_outside_of_a_pipeline() -> None:
    with pytest.raises(ValueError, match="no picture to choose an architecture by"):
        choose([], weights=True)
    with pytest.raises(ValueError, match="'auto' is decided by a pipeline's own pictures"):
        require_towers(ModelConfig(architecture=AUTO))


def test_flat_shapes_are_drawn_and_what_goes_with_the_choice_is_set_where_it_was_not_given(file: Path) -> None:
    pipeline = load_pipeline(
        file,
        overrides=[
            f"model.architecture={AUTO}",
            "model.export=false",
            "training.max_steps=null",
            "training.max_minutes=1",
        ],
    )
    require_readiness(pipeline)
    settled = settle(pipeline)
    assert settled.model.architecture in ("drawings", "drawings-pretrained")
    assert settled.model.chosen is not None
    assert "drawn pictures" in settled.model.chosen
    assert settled.model.closed_form_start
    assert not settled.model.export
    fitted = FITTED[settled.model.architecture]
    assert {key: getattr(settled.training, key) for key in fitted} == fitted
    assert settle(settled) is settled
    named = load_pipeline(file)
    assert settle(named) is named
    unexplained = settled.model_copy(update={"model": settled.model.model_copy(update={"chosen": None})})
    assert training_digest(unexplained) == training_digest(settled) == training_digest(pipeline)


def test_steps_that_an_architecture_wants_are_taken_where_none_are_given(tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    file.write_text(
        "pipelines: {icons: {sources: [{kind: folder, path: pictures}], model: {architecture: drawings}}}\n"
    )
    for name, steps in (("drawings", 100), ("drawings-pretrained", 0)):
        assert load_pipeline(file, overrides=[f"model.architecture={name}"]).training.max_steps == steps
    given = load_pipeline(file, overrides=["model.architecture=drawings-pretrained", "training.max_steps=30"])
    assert given.training.max_steps == 30


def test_keys_of_a_later_version_shape_a_model_only_where_they_say_something(tmp_path: Path) -> None:
    assert not any(ModelConfig.model_fields[key].default for key in LATER)
    file = tmp_path / "pipelines.yaml"
    source, model = "{kind: folder, path: pictures}", "{architecture: drawings, moved_copies: 0}"
    file.write_text(
        f"pipelines: {{icons: {{sources: [{source}], columns: {{keep: {{tags: string}}}}, model: {model}}}}}\n"
    )
    changes = ((), ("model.moved_copies=5",), ("model.keywords=tags",))
    assert len({training_digest(load_pipeline(file, overrides=list(each))) for each in changes}) == 3
    with pytest.raises(ValueError, match="keywords: the items have no 'labels'"):
        load_pipeline(file, overrides=["model.keywords=labels"])


def test_what_was_chosen_stays_with_the_model_that_is_served_whatever_the_pictures_are_like_now(file: Path) -> None:
    facts = folder(file) / "models" / current(file).model_id / "pairloom.json"
    made = json.loads(facts.read_bytes())
    made["model"] |= {"architecture": "photographs", "chosen": "photographs it was"}
    facts.write_text(json.dumps(made))
    model = settle(load_pipeline(file, overrides=[f"model.architecture={AUTO}"])).model
    assert (model.architecture, model.chosen) == ("photographs", "photographs it was")
