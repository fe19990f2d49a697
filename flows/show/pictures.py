"""Small pictures in a terminal, by textual-image, which is an extra."""

import importlib.util
import io
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

HEIGHT = 4
"""Lines that a picture takes."""


def require_pictures() -> None:
    """Raises ValueError where the extra isn't there."""
    if importlib.util.find_spec("textual_image") is None:
        raise ValueError("pictures in the terminal need `pip install 'pairloom[terminal]'`")


def shown_pictures(thumbnails: Sequence[bytes], *, wanted: bool | None = None) -> list[RenderableType] | None:
    """The pictures as a terminal shows them; None where it is to show none.

    `wanted` None: where standard output is a terminal that shows real pictures (Sixel, Kitty) and the extra is there.
    True: also made of coloured characters, where there is nothing better.
    """
    if wanted is False or (wanted is None and not _may_show()):
        return None
    # Asks the terminal, at its import, what it can show.
    from textual_image import renderable

    best: Any = renderable.Image
    if wanted is None and best not in (renderable.SixelImage, renderable.TGPImage):
        return None
    return [best(io.BytesIO(content), height=HEIGHT, width="auto") for content in thumbnails]


def _may_show() -> bool:
    terminal = sys.stdout.isatty() and sys.stdin.isatty()
    return terminal and importlib.util.find_spec("textual_image") is not None
