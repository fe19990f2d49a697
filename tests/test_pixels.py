from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from tiny import tiny_encoder, tiny_images

from pairloom.models.batches.augmentation import augment, draw_changes
from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.pixels import normalize_pixels, open_pixels, write_pixels


def test_cached_pixels_equal_open_clips_preprocessing(tmp_path: Path) -> None:
    cfg = tiny_encoder(tmp_path).preprocess_cfg
    images = [*tiny_images(), Image.new("L", (3, 50), 7)]
    write_pixels(images, len(images), cfg, tmp_path / "pixels.npy")
    transform = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    expected = torch.stack([transform(image) for image in images])
    torch.testing.assert_close(normalize_pixels(open_pixels(tmp_path / "pixels.npy"), cfg), expected)


def test_a_wrong_count_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="40 images were announced, 32 came"):
        write_pixels(tiny_images(), 40, {"size": 16}, tmp_path / "pixels.npy")


def test_augmentation_of_size_zero_changes_nothing() -> None:
    image_BCHW = torch.rand(3, 3, 16, 16)
    still = AugmentationConfig(shift=0, scale=0, rotation=0, colour=0)
    torch.testing.assert_close(
        augment(image_BCHW, draw_changes(len(image_BCHW), still, torch.Generator())), image_BCHW, atol=1e-5, rtol=0
    )


def test_augmentation_depends_on_its_generator_alone() -> None:
    image_BCHW = torch.rand(3, 3, 16, 16)
    first, again, other = (
        augment(image_BCHW, draw_changes(3, AugmentationConfig(flip=True), torch.Generator().manual_seed(seed)))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert np.isfinite(first.numpy()).all()
