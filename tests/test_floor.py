"""What textbook features reach without training: fitted, measured beside a model, and heard by the gate."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_gate import metrics

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.flows.show.report import markdown
from pairloom.models.batches.relations import Relations
from pairloom.models.closed_form.image_features import SIDE
from pairloom.models.evaluation.config import EvaluationConfig, GateConfig
from pairloom.models.evaluation.floor import fit_items, textbook_features
from pairloom.models.evaluation.metrics import evaluate
from pairloom.storage.corpus import Corpus
from pairloom.storage.runs import Run
from pairloom.tasks.evaluation.floor import floor_answers, small_pictures
from pairloom.tasks.items import read_items

WritePipelines = Callable[..., Path]
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220), "yellow": (220, 210, 40)}
SHAPES = ("bar", "pole", "block", "frame")
NOTHING_LEARNED = ["gate.first=none", "training.max_steps=1", "training.learning_rate=1e-9", "evaluation.k=[1]"]
UNSEEN = {"red pole", "blue frame", "green block", "yellow bar"}


def drawing(name: str, seed: int) -> np.ndarray:
    colour, shape = name.split()
    random = np.random.default_rng(seed)
    pixels = np.full((SIDE, SIDE, 3), 255) - random.integers(0, 20, (SIDE, SIDE, 3))
    top, left = random.integers(10, 14, 2)
    height, width = {"bar": (8, 26), "pole": (26, 8)}.get(shape, (24, 24))
    pixels[top : top + height, left : left + width] = COLOURS[colour]
    if shape == "frame":
        pixels[top + 6 : top + 18, left + 6 : left + 18] = 250
    return pixels.astype(np.uint8)


def drawings(*, unseen: bool, each: int = 4) -> tuple[np.ndarray, list[str]]:
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    names = [name for name in names if (name in UNSEEN) == unseen for _ in range(each)]
    drawn = [drawing(name, seed) for seed, name in enumerate(names, 1000 * unseen)]
    return np.stack(drawn), names


def relations_of(names: list[str], *, grouped: bool = True) -> Relations:
    ids = [f"{number:04}" for number in range(len(names))]
    return Relations.build(ids, names if grouped else [None] * len(ids), [[name] for name in names], [None] * len(ids))


@pytest.mark.parametrize("grouped", [True, False])
def test_texts_find_pictures_of_concepts_that_the_fit_never_saw(grouped: bool) -> None:
    pixels, names = drawings(unseen=False)
    fitted = textbook_features(pixels, relations_of(names, grouped=grouped), seed=0)
    asked, wanted = drawings(unseen=True)
    image_ND, text_TD = fitted.embed_images(asked), fitted.embed_texts(relations_of(wanted).texts)
    assert np.allclose(np.linalg.norm(image_ND, axis=1), 1, atol=1e-6)
    found = evaluate(image_ND, text_TD, relations_of(wanted), EvaluationConfig(), {}).as_dict()
    assert found["text_to_image_recall@1"] == found["image_to_text_recall@1"] == found["image_to_image_recall@1"] == 1
    assert not fitted.embed_texts([""]).any()


def test_what_is_fitted_does_not_depend_on_the_order_of_items_given_in_the_order_of_ids() -> None:
    ids, groups = [f"{n:03}" for n in range(60)], [f"g{n // 3}" for n in range(60)]
    turned = np.random.default_rng(1).permutation(60)
    assert [ids[row] for row in fit_items(ids, groups, seed=0)] == ids
    for limit in (60, 20):
        rows = fit_items([ids[n] for n in turned], [groups[n] for n in turned], seed=0, limit=limit)
        assert [ids[turned[row]] for row in rows] == [ids[row] for row in fit_items(ids, groups, seed=0, limit=limit)]


def test_where_there_are_too_many_items_whole_groups_are_drawn() -> None:
    ids, groups = [f"{n:03}" for n in range(60)], [f"g{n // 3}" for n in range(60)]
    drawn = fit_items(ids, groups, seed=0, limit=20)
    assert len(drawn) == len(set(drawn.tolist())) == 20
    assert len({groups[row] for row in drawn}) == 7
    assert fit_items(ids, groups, seed=0, limit=20).tolist() == drawn.tolist()
    assert fit_items(ids, groups, seed=1, limit=20).tolist() != drawn.tolist()
    assert len(set(fit_items(ids, [None] * 60, seed=0, limit=20).tolist())) == 20


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_items_gives_a_floor_too(count: int) -> None:
    pixels, names = drawings(unseen=False)
    fitted = textbook_features(pixels[:count], relations_of(names[:count]), seed=0)
    image_ND, text_TD = fitted.embed_images(pixels), fitted.embed_texts(relations_of(names).texts)
    assert evaluate(image_ND, text_TD, relations_of(names), EvaluationConfig(), {}).as_dict()
    with pytest.raises(ValueError, match="1 pictures of 48 items"):
        textbook_features(pixels[:1], relations_of(names), seed=0)


def test_a_model_below_the_floor_is_warned_of_or_held_and_one_that_is_not_surely_below_neither() -> None:
    from pairloom.models.evaluation.gate import gate

    weak, floor = metrics(30, 60), metrics(60, 60)
    warned = gate(weak, {}, GateConfig(), floor)
    (sentence,) = warned.warnings
    assert (warned.passed, warned.reasons) == (True, ())
    assert sentence.startswith(
        "text_to_image_recall@10 is 0.3000, below the 0.6000 that textbook features reach without training "
        "(difference -0.3000, interval -0."
    )
    held = gate(weak, {}, GateConfig(floor="hold"), floor)
    assert (held.passed, held.reasons, held.warnings) == (False, (sentence,), ())
    for enough in (metrics(60, 60), metrics(59, 60), metrics(80, 60)):
        said = gate(enough, {}, GateConfig(floor="hold"), floor)
        assert (said.passed, said.warnings) == (True, ())


def test_a_night_that_trains_measures_the_floor_and_tells_of_it_everywhere(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines
) -> None:
    file = write_pipelines(tmp_path, shapes, ingest={"max_side": 64, "workers": 1, "val_fraction": 0.4})
    night = nightly(load_pipeline(file, overrides=NOTHING_LEARNED))
    assert night.outcome == "released"
    assert night.floor.keys() == {name for name in night.metrics if "_corrected_" not in name}
    assert night.floor_said.startswith("textbook features without training reach 0.")
    assert all(0 <= value <= 1 for name, value in night.floor.items() if "rank" not in name)
    assert json.loads(night.model_dump_json())["floor"] == night.floor
    assert any("that textbook features reach without training" in each for each in night.comparisons)
    said = markdown(night, [])
    assert "| textbook features | text → image |" in said
    pipeline = load_pipeline(file)
    folder = pipeline.folder / "models" / str(night.model_id)
    assert json.loads((folder / "pairloom.json").read_bytes())["floor"]["metrics"] == night.floor
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| 95% interval | textbook features |" in card
    assert "are the floor that a model must beat" in card
    again = nightly(load_pipeline(file, overrides=NOTHING_LEARNED))
    assert (again.outcome, again.floor, again.floor_said) == ("unchanged", {}, "")


def test_a_floor_that_holds_holds_and_one_that_is_off_is_not_measured(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines
) -> None:
    file = write_pipelines(tmp_path, shapes, ingest={"max_side": 64, "workers": 1, "val_fraction": 0.4})
    held = nightly(load_pipeline(file, overrides=[*NOTHING_LEARNED, "gate.floor=hold"]))
    assert (held.outcome, held.release) == ("held", None)
    assert "that textbook features reach without training" in held.reason
    pipeline = load_pipeline(file)
    (folder,) = (pipeline.folder / "runs").iterdir()
    run = Run(pipeline.folder, folder.name)
    corpus, snapshot = Corpus(pipeline.folder), Corpus(pipeline.folder).current()
    asked = read_items(corpus, snapshot, "val")
    kept = floor_answers(run, corpus, snapshot, asked, seed=0)
    (run.folder / "floor-0.npz").unlink()
    anew = floor_answers(run, corpus, snapshot, asked, seed=0)
    assert np.allclose(kept.image_ND, anew.image_ND, atol=1e-6)
    assert np.allclose(kept.text_TD, anew.text_TD, atol=1e-6)
    assert (kept.items, kept.of) == (anew.items, anew.of)
    pictures = small_pictures(corpus, snapshot, asked.item_ids[::-1])
    assert pictures.shape == (len(asked.item_ids), SIDE, SIDE, 3)
    assert np.array_equal(pictures[0], small_pictures(corpus, snapshot, asked.item_ids[-1:])[0])
    off = nightly(load_pipeline(file, overrides=[*NOTHING_LEARNED, "gate.floor=off"]))
    assert (off.outcome, off.floor) == ("released", {})


def test_a_large_picture_is_drawn_small_from_a_reduced_decode(tmp_path: Path) -> None:
    from pairloom.storage.images.decoding import open_stored

    y, x = np.mgrid[:512, :512]
    pixels = np.stack([x / 2, y / 2, (x + y) / 4], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.jpg", quality=95)
    content = (tmp_path / "large.jpg").read_bytes()
    whole, reduced = open_stored(content), open_stored(content, side=96)
    assert whole.size == (512, 512)
    assert 96 <= reduced.size[0] < 512
    small = [np.asarray(each.resize((SIDE, SIDE)), np.int64) for each in (whole, reduced)]
    assert abs(small[0] - small[1]).mean() < 2
