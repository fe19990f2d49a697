"""Preprocessing in Pillow and NumPy against open_clip's transforms."""

import itertools
from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from pairloom.models.geometry import Geometry, normalized

SIZES = (32, (32, 32), (24, 40), [41, 17])
IMAGES = ((32, 32), (31, 33), (64, 48), (17, 200), (5, 7), (33, 32), (100, 67), (1, 3))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_images_are_made_ready_bit_for_bit_as_open_clip_does_it(mode: str, interpolation: str) -> None:
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in IMAGES]
    for size, fill in itertools.product(SIZES, (0, 255, (10, 200, 30))):
        cfg: dict[str, Any] = {"size": size, "resize_mode": mode, "interpolation": interpolation, "fill_color": fill}
        cfg |= {"mode": "RGB", "mean": (0.48, 0.45, 0.4), "std": (0.26, 0.27, 0.28)}
        transform, geometry = image_transform_v2(PreprocessCfg(**cfg), is_train=False), Geometry.of(cfg)
        for image in images:
            (found_CHW,) = normalized(geometry(image)[None], cfg)
            np.testing.assert_array_equal(found_CHW, transform(image).numpy(), err_msg=f"{size} {fill} {image.size}")


def test_settings_that_open_clip_has_no_transform_for_are_refused() -> None:
    with pytest.raises(ValueError, match="no preprocessing with resize_mode 'random'"):
        Geometry.of({"size": 32, "resize_mode": "random", "interpolation": "bicubic", "fill_color": 0})
