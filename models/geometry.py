"""open_clip's evaluation preprocessing in Pillow and NumPy: what an image tower takes, made without torch."""

# B = batch, H = height, W = width, C = colours

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pairloom.models.pictures import Picture, opened

Pixels = npt.NDArray[np.uint8]

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
DEFAULTS: dict[str, Any] = {"size": 224, "resize_mode": "shortest", "interpolation": "bicubic", "fill_color": 0}
"""open_clip's."""
MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class Geometry:
    """The evaluation preprocessing but for its last two steps, which only turn pixels into normalised floats.

    Pixel for pixel `open_clip.transform.image_transform_v2(…, is_train=False)` (tests/test_geometry.py).
    """

    height: int
    width: int
    mode: str
    filter: Image.Resampling
    fill: tuple[int, int, int]
    """Colour around an image that `longest` makes smaller than the tower's."""

    @classmethod
    def of(cls, preprocess_cfg: Mapping[str, Any]) -> Self:
        """That of open_clip's settings. ValueError for settings that it has no transform for."""
        preprocess_cfg = DEFAULTS | {name: value for name, value in preprocess_cfg.items() if value is not None}
        mode, interpolation = preprocess_cfg["resize_mode"], preprocess_cfg["interpolation"]
        if mode not in MODES or interpolation not in FILTERS:
            raise ValueError(f"there is no preprocessing with resize_mode {mode!r} and interpolation {interpolation!r}")
        size, fill = preprocess_cfg["size"], preprocess_cfg["fill_color"]
        height, width = size if isinstance(size, Sequence) else (size, size)
        red, green, blue = fill if isinstance(fill, Sequence) else (fill, fill, fill)
        return cls(height, width, mode, FILTERS[interpolation], (red, green, blue))

    def __call__(self, picture: Picture) -> Pixels:
        """Uint8 (H, W, 3)."""
        image = opened(picture)
        image = image if image.mode == "RGB" else image.convert("RGB")
        match self.mode:
            case "squash":
                image = _resized(image, self.width, self.height, self.filter)
            case "longest":
                image = _framed(self._scaled(image, max, self.filter), self.width, self.height, self.fill)
            case _ if self.height == self.width:
                image = _framed(self._shortest(image), self.width, self.height, (0, 0, 0))
            case _:
                # open_clip passes no filter on here.
                scaled = self._scaled(image, min, FILTERS["bicubic"])
                image = _framed(scaled, self.width, self.height, (0, 0, 0))
        return np.asarray(image)

    def _scaled(self, image: Image.Image, side: Any, filter_: Image.Resampling) -> Image.Image:
        """With its proportions: by `max`, so that it fits within the tower's size; by `min`, so that it covers it."""
        ratio = side(image.height / self.height, image.width / self.width)
        return _resized(image, round(image.width / ratio), round(image.height / ratio), filter_)

    def _shortest(self, image: Image.Image) -> Image.Image:
        """torchvision's `Resize` to one number: its longer side is cut off, not rounded."""
        shorter, longer = sorted(image.size)
        length = int(self.width * longer / shorter)
        width, height = (self.width, length) if image.width <= image.height else (length, self.width)
        return _resized(image, width, height, self.filter)


def normalized(pixels_BHWC: Pixels, preprocess_cfg: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """What an image tower takes: float32 (B, 3, H, W) with the model's mean and standard deviation."""
    mean, std = (np.array(preprocess_cfg[key], np.float32).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    image_BCHW = pixels_BHWC.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    image_BCHW /= np.float32(255)
    image_BCHW -= mean
    image_BCHW /= std
    return image_BCHW


def _resized(image: Image.Image, width: int, height: int, filter_: Image.Resampling) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), filter_)


def _framed(image: Image.Image, width: int, height: int, fill: tuple[int, int, int]) -> Image.Image:
    """The middle of an image, `fill` around it where it is smaller."""
    more_x, more_y = max(0, width - image.width), max(0, height - image.height)
    if more_x or more_y:
        border = (more_x // 2, more_y // 2, (more_x + 1) // 2, (more_y + 1) // 2)
        image = ImageOps.expand(image, border, fill)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
