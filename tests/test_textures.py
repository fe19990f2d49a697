"""`photographs-plain`: an image tower of colours, edges and textures written by hand."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_encoder, tiny_texts

from pairloom.models.export import Compared, export
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.names import ARCHITECTURES
from pairloom.models.towers.texture_start import (
    BENDS,
    REGIONS,
    SIDE,
    SLOPES,
    SPARE,
    STEP,
    THRESHOLD,
    dictionary,
    regions,
    start_from_textures,
)
from pairloom.models.towers.trunk import frozen_trunk

PICTURE, PATCH, FILTERS = 64, 8, 192
CONFIG = ModelConfig(architecture="photographs-plain")


@cache
def photographs() -> DualEncoder:
    return create(CONFIG, [text for own in tiny_texts() for text in own], seed=0)


def read(image_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, regions, K): what the trunk says of pixels from -1 to 1."""
    trunk = frozen_trunk(photographs(), CONFIG)
    assert trunk is not None
    with torch.no_grad():
        found_BW = trunk.features(image_BCHW)
    return found_BW.reshape(len(image_BCHW), REGIONS, -1)[:, :, :-SPARE]


def pictures(count: int) -> torch.Tensor:
    """Blotches of all sizes, as photographs have them."""
    draw = np.random.default_rng(0)
    sizes = [torch.tensor(draw.normal(size=(count, 3, side, side)), dtype=torch.float32) for side in (2, 8, 32, 64)]
    found = torch.stack([F.interpolate(each, size=PICTURE, mode="bilinear") for each in sizes]).sum(dim=0)
    return torch.clamp(found / 3, -1, 1)


def test_the_tower_tells_bent_mean_responses_of_each_filter_region_by_region() -> None:
    image_BCHW = pictures(3)
    kernel_KCRR, offset_K = (torch.tensor(each, dtype=torch.float32) for each in dictionary(FILTERS))
    side = PICTURE // PATCH
    mean_BHK = torch.zeros(3, REGIONS, FILTERS)
    counted = torch.zeros(REGIONS)
    for place, region in enumerate(regions(side)):
        row, column = PATCH * (place // side), PATCH * (place % side)
        patch = image_BCHW[:, :, row : row + PATCH, column : column + PATCH]
        for kernel in (kernel_KCRR, kernel_KCRR.flip(3)):
            response = F.conv2d(patch, kernel, stride=STEP) - (offset_K + THRESHOLD)[:, None, None]
            mean_BHK[:, region] += response.clamp(min=0).mean(dim=(2, 3)) / 2
        counted[region] += 1
    mean_BHK /= counted[:, None]
    bent_BHK = mean_BHK.clone()
    for start, before, after in zip(BENDS, SLOPES[:-1], SLOPES[1:], strict=True):
        bent_BHK += (after - before) * (mean_BHK - start).clamp(min=0)
    torch.testing.assert_close(read(image_BCHW), bent_BHK, rtol=0, atol=2e-3)
    assert bent_BHK.std(dim=0).mean() > 5e-3


def test_bends_follow_the_square_root() -> None:
    ends = [0.0, *BENDS, 4 * BENDS[-1]]
    chords = np.diff(np.sqrt(ends)) / np.diff(ends)
    np.testing.assert_allclose(SLOPES, chords / chords[0])


def test_the_last_norm_rounds_little_of_what_tells_pictures_apart() -> None:
    trunk = frozen_trunk(photographs(), CONFIG)
    assert trunk is not None
    with torch.no_grad():
        feature_BW = trunk.features(pictures(4))
    exact_BW = F.layer_norm(feature_BW.double(), feature_BW.shape[1:])
    rounded_BW = F.layer_norm(feature_BW, feature_BW.shape[1:])
    assert (rounded_BW - exact_BW).abs().max() < 1e-3 * exact_BW.std(dim=0).median()


def test_a_picture_and_its_mirror_image_are_the_same_and_one_upside_down_is_not() -> None:
    image_BCHW = pictures(2)
    found = read(image_BCHW)
    torch.testing.assert_close(read(image_BCHW.flip(3)), found, rtol=0, atol=1e-4)
    assert (read(image_BCHW.flip(2)) - found).abs().mean() > 1e-3


def test_filters_differ_and_answer_usual_pictures_by_one() -> None:
    kernel_KCRR, _ = dictionary(FILTERS)
    flat_KI = kernel_KCRR.reshape(FILTERS, -1)
    unit_KI = flat_KI / np.linalg.norm(flat_KI, axis=1, keepdims=True)
    alike_KK = np.abs(unit_KI @ unit_KI.T) - np.eye(FILTERS)
    assert alike_KK.max() < 0.999
    assert alike_KK.mean() < 0.3
    again, _ = dictionary(FILTERS)
    np.testing.assert_array_equal(kernel_KCRR, again)
    assert kernel_KCRR.shape == (FILTERS, 3, SIDE, SIDE)


def test_the_tower_is_a_plain_one_that_open_clip_loads_and_is_exported(tmp_path: Path) -> None:
    encoder, image_BCHW = photographs(), pictures(2)
    encoder.save(tmp_path)
    plain, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    with torch.no_grad():
        torch.testing.assert_close(plain.encode_image(image_BCHW, normalize=True), encoder.encode_images(image_BCHW))
        # LanceDB's function never leaves training mode.
        found = plain.train().encode_image(image_BCHW, normalize=True)
        torch.testing.assert_close(found, encoder.encode_images(image_BCHW))
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (4, PICTURE, PICTURE, 3), dtype=np.uint8)
    made = export(tmp_path, Compared(["red square", "a corner in blue"], pixels_NHWC))
    assert (made.reasons, made.image is None) == ((), False)


def test_a_tower_of_another_shape_cannot_start_from_textures(tmp_path: Path) -> None:
    architecture = json.loads((ARCHITECTURES / "photographs-plain.json").read_text())
    architecture["model_cfg"]["vision_cfg"] |= {"layers": 3, "mlp_ratio": 4.0}
    file = tmp_path / "deep.json"
    file.write_text(json.dumps(architecture))
    with pytest.raises(ValueError, match='"start": "textures"` needs 2 layers; 3456 hidden units or more'):
        create(ModelConfig(architecture=str(file)), ["a"], seed=0)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ValueError, match="a head for each of 4 regions"):
        start_from_textures(tiny_encoder(tmp_path / "tiny").network.visual)
