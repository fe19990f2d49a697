"""Work that threads do a little ahead: as one after another would be, and nobody is left waiting."""

import _thread
import gc
import io
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from child_processes import wait_until
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from tiny import tiny_encoder

from pairloom.models import pictures
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.encoder import Encoder
from pairloom.models.pictures import Picture, mapped, opened
from pairloom.storage.images.decoding import open_stored


def contents(count: int) -> list[bytes]:
    """JPEG files of many sizes."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        stream = io.BytesIO()
        side = int(rng.integers(8, 200))
        Image.fromarray(rng.integers(0, 256, (side, 60, 3), np.uint8)).save(stream, "JPEG")
        found.append(stream.getvalue())
    return found


def wait_for_threads(count: int) -> None:
    """Return once no more than these threads run."""
    gc.collect()
    wait_until(lambda: _thread._count() <= count)


def test_results_come_in_the_order_of_what_they_are_made_of() -> None:
    files = contents(100)
    found = mapped(lambda content: open_stored(content).tobytes(), files, ahead=7)
    assert list(found) == [open_stored(content).tobytes() for content in files]
    assert list(mapped(len, [])) == []


def test_no_more_is_read_than_is_asked_for_and_a_little() -> None:
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1_000):
            read.append(number)
            yield number

    found = mapped(str, numbers(), ahead=5)
    assert [next(found), next(found)] == ["0", "1"]
    assert len(read) == 7


def test_what_the_making_raises_comes_in_its_turn() -> None:
    found = mapped(lambda number: 6 // (3 - number), range(10))
    assert [next(found) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_several_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "available_cpus", lambda: 3)
    together = threading.Barrier(3)
    assert sorted(mapped(lambda _: together.wait(), range(3))) == [0, 1, 2]


def test_threads_end_with_who_asked_them() -> None:
    threads = _thread._count()
    found = mapped(str, range(1_000))
    assert next(found) == "0"
    del found
    wait_for_threads(threads)
    assert len(list(mapped(str, range(10)))) == 10
    wait_for_threads(threads)


def test_one_image_that_nobody_has_loaded_may_come_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "available_cpus", lambda: 4)
    (content,) = contents(1)
    expected = np.asarray(open_stored(content))
    for _ in range(20):
        image = Image.open(io.BytesIO(content))
        for found in mapped(lambda picture: np.asarray(opened(picture)), [image] * 8):
            np.testing.assert_array_equal(found, expected)


def test_pixels_are_those_of_open_clips_transform_bit_for_bit(tmp_path: Path) -> None:
    dual = tiny_encoder(tmp_path)
    files = contents(70)
    transform = image_transform_v2(PreprocessCfg(**dual.preprocess_cfg), is_train=False)
    expected_NCHW = torch.stack([transform(open_stored(content)) for content in files])
    lazy: list[Picture] = [partial(open_stored, content) for content in files]
    found_NCHW = Encoder(dual).pixels(lazy)
    assert torch.equal(found_NCHW, expected_NCHW)
    assert found_NCHW.is_contiguous()
    write_pixels(lazy, len(lazy), dual.preprocess_cfg, tmp_path / "pixels.npy")
    whole_NCHW = (expected_NCHW * torch.tensor(dual.preprocess_cfg["std"]).view(3, 1, 1)).add(
        torch.tensor(dual.preprocess_cfg["mean"]).view(3, 1, 1)
    )
    np.testing.assert_array_equal(
        open_pixels(tmp_path / "pixels.npy"), (whole_NCHW * 255).round().byte().permute(0, 2, 3, 1).numpy()
    )


def test_batches_ahead_are_embedded_as_each_alone(tmp_path: Path) -> None:
    encoder = Encoder(tiny_encoder(tmp_path))
    lazy: list[Picture] = [partial(open_stored, content) for content in contents(40)]
    batches = [lazy[:17], [], lazy[17:18], lazy[18:]]
    alone = np.concatenate([encoder.embed_images(batch, batch_size=7) for batch in batches])
    together = encoder.embed_batches(iter(batches), batch_size=7)
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert encoder.embed_batches([]).shape == (0, encoder.dimension)
