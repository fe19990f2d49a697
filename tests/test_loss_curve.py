import io

import numpy as np
from PIL import Image

from pairloom.flows.show.loss_curve import curve_picture


def test_the_curve_shows_the_sides_that_were_trained() -> None:
    lines = [{"step": step, "loss": 3 - step, "lr": 0.1, "grad_norm": 1.0, "image_variance": 0.5} for step in (1, 2)]
    both = [line | {"text_variance": 0.9} for line in lines]
    pictures = [Image.open(io.BytesIO(curve_picture(each))).convert("RGB") for each in (lines, both)]
    assert [picture.size for picture in pictures] == [(900, 220)] * 2
    assert not np.array_equal(np.asarray(pictures[0]), np.asarray(pictures[1]))
