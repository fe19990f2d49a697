"""`drawings`: an image tower of edges and colours written by hand, and a text tower that adds up words."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from tiny import tiny_architecture, tiny_encoder, tiny_texts

from pairloom.models.closed_form.text_regression import text_regression
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.edge_start import COLOUR_SHARE, COLOURS, FAINT, HEAD_WIDTH, ORIENTATIONS, start_from_edges
from pairloom.models.towers.names import ARCHITECTURES
from pairloom.models.towers.text_sums import add_up_tokens, token_texts
from pairloom.models.towers.trunk import frozen_trunk
from pairloom.models.towers.vocabulary import END_OF_TEXT_ID

SIDE, PATCH = 64, 8
PATCHES = (SIDE // PATCH) ** 2
CONFIG = ModelConfig(architecture="drawings")


@cache
def drawings() -> DualEncoder:
    return create(CONFIG, [text for own in tiny_texts() for text in own], seed=0)


def read(pixels_BHWC: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(B, patches, 12): what the trunk says of pixels from 0 to 1, patch by patch."""
    trunk = frozen_trunk(drawings(), CONFIG)
    assert trunk is not None
    with torch.no_grad():
        found = trunk.features(torch.tensor(2 * pixels_BHWC - 1, dtype=torch.float32).permute(0, 3, 1, 2))
    return (found - constants()).numpy().reshape(-1, PATCHES, HEAD_WIDTH)


@cache
def constants() -> torch.Tensor:
    """What a picture of mid grey gives: neither edges nor colours."""
    trunk = frozen_trunk(drawings(), CONFIG)
    assert trunk is not None
    with torch.no_grad():
        return trunk.features(torch.zeros(1, 3, SIDE, SIDE))


def stripes(angle: float, *, shade: float = 1.0) -> npt.NDArray[np.float64]:
    """A picture (H, W, C) whose lightness changes along `angle`, from edge to edge of each stripe smoothly."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    light_HW = 0.5 + 0.4 * shade * np.sin((columns * np.cos(angle) + rows * np.sin(angle)) / 2)
    return np.repeat(light_HW[:, :, None], 3, axis=2)


@pytest.mark.parametrize("orientation", [0, 2, 4, 7])
def test_a_patch_tells_along_which_orientation_its_edges_change(orientation: int) -> None:
    edges_PO = read(stripes(np.pi * orientation / ORIENTATIONS)[None])[0, :, :ORIENTATIONS]
    assert (edges_PO.argmax(axis=1) == orientation).all()
    opposite = (orientation + ORIENTATIONS // 2) % ORIENTATIONS
    assert (edges_PO[:, opposite] < 0.2 * edges_PO[:, orientation]).all()


def test_edges_are_normalised_patch_by_patch_and_do_not_depend_on_the_sign_of_the_contrast() -> None:
    strong, weak, turned = read(np.stack([stripes(0.3), stripes(0.3, shade=0.5), stripes(0.3, shade=-1)]))[
        :, :, :ORIENTATIONS
    ]
    np.testing.assert_allclose(strong, turned, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(strong, axis=1), 1, atol=0.05)
    assert np.abs(np.linalg.norm(weak, axis=1) - np.linalg.norm(strong, axis=1)).max() < 0.1
    assert FAINT < 0.01


def test_each_patch_is_read_at_its_own_place() -> None:
    blank = np.full((SIDE, SIDE, 3), 0.5)
    drawn = blank.copy()
    drawn[16:24, 40:48] = stripes(0)[16:24, 40:48] * [1.0, 0.5, 0.5]
    moved = np.roll(drawn, (8, -16), axis=(0, 1))
    found, elsewhere = read(np.stack([drawn, moved]))
    own, other = 2 * 8 + 5, 3 * 8 + 3
    np.testing.assert_allclose(found[own], elsewhere[other], atol=2e-3)
    assert np.abs(found[own]).max() > 0.5
    for rest, place in ((found, own), (elsewhere, other)):
        assert np.abs(np.delete(rest, place, axis=0)).max() < 2e-3


def test_colours_are_the_mean_lightness_and_two_opponents_of_a_patch() -> None:
    pixels_BHWC = np.random.default_rng(0).uniform(size=(2, SIDE, SIDE, 3))
    mean_BPC = pixels_BHWC.reshape(2, 8, PATCH, 8, PATCH, 3).mean(axis=(2, 4)).reshape(2, PATCHES, 3)
    expected = COLOUR_SHARE * (2 * mean_BPC - 1) @ np.array(COLOURS).T
    np.testing.assert_allclose(read(pixels_BHWC)[:, :, ORIENTATIONS:], expected, atol=0.01)


def test_the_tower_is_a_plain_one_that_open_clip_loads(tmp_path: Path) -> None:
    encoder = drawings()
    encoder.save(tmp_path)
    plain, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    image_BCHW = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(plain.encode_image(image_BCHW, normalize=True), encoder.encode_images(image_BCHW))


def test_a_tower_of_another_shape_cannot_start_from_edges(tmp_path: Path) -> None:
    architecture = json.loads((ARCHITECTURES / "drawings.json").read_text())
    architecture["model_cfg"]["vision_cfg"] |= {"layers": 3, "no_ln_pre": False}
    file = tmp_path / "deep.json"
    file.write_text(json.dumps(architecture))
    with pytest.raises(ValueError, match='"start": "edges"` needs 2 layers; no_ln_pre: true'):
        create(ModelConfig(architecture=str(file)), ["a"], seed=0)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ValueError, match="head_width 12, a head for each of 4 patches"):
        start_from_edges(tiny_encoder(tmp_path / "tiny").network.visual)


def test_a_text_lies_where_the_sum_of_its_words_points_whatever_their_order(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    token_VD = np.random.default_rng(0).normal(size=(len(token_texts(encoder)), 16))
    token_VD[END_OF_TEXT_ID] = 0
    add_up_tokens(encoder, token_VD)
    texts = ["red square", "square red", "a corner in blue"]
    with torch.no_grad():
        found_TD = encoder.encode_texts(encoder.tokenize(texts)).numpy()
    ids = [encoder.tokenizer.tokenizer.encode(text) for text in texts]
    expected_TD = np.stack([token_VD[own].sum(axis=0) for own in ids])
    expected_TD /= np.linalg.norm(expected_TD, axis=1, keepdims=True)
    np.testing.assert_allclose(found_TD, expected_TD, atol=0.01)
    np.testing.assert_allclose(found_TD[0], found_TD[1], atol=1e-5)


def test_tokens_spell_words_and_nothing_for_marks_and_parts_of_letters(tmp_path: Path) -> None:
    spelled = token_texts(tiny_encoder(tmp_path))
    assert spelled[:2] == ["", ""]
    assert {"red", "square", "corner"} <= set(spelled)
    assert all("\N{REPLACEMENT CHARACTER}" not in text for text in spelled)


def test_vectors_of_words_add_up_to_the_direction_of_their_text() -> None:
    texts = ["red square", "blue square", "red bar", "green corner"]
    regression = text_regression(texts, np.random.default_rng(0).normal(size=(4, 5)), seed=0)
    (whole_D,) = regression(["red corner"])
    summed_D = regression.sums(["red", "corner"]).sum(axis=0)
    np.testing.assert_allclose(whole_D / np.linalg.norm(whole_D), summed_D / np.linalg.norm(summed_D), atol=1e-9)


def test_a_text_tower_that_is_too_narrow_for_sums_is_refused(tmp_path: Path) -> None:
    path = Path(tiny_architecture(tmp_path))
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"]["width"] = 18
    path.write_text(json.dumps(content))
    encoder = create(ModelConfig(architecture=str(path)), ["red"], seed=0)
    with pytest.raises(ValueError, match=r"text_cfg.width of embed_dim \+ 3 = 19 or more"):
        add_up_tokens(encoder, np.zeros((3, 16)))
