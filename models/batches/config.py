"""What a pipeline says of its training batches."""

from typing import Literal

from pydantic import BaseModel, Field

Side = Literal["image", "text", "image_view", "text_view"]
"""What of an item is embedded; a view is a second one: other random changes of the image, another of its texts."""

Positive = "positive"


class AugmentationConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Random changes to the images of a batch."""

    shift: float = Field(default=0.08, ge=0, le=0.5)
    """Largest shift, as a fraction of the side."""
    scale: float = Field(default=0.15, ge=0, lt=1)
    """Largest relative change of size."""
    rotation: float = Field(default=10.0, ge=0, le=180)
    """Largest rotation in degrees."""
    flip: bool = False
    """Mirror half of the images; wrong where left and right matter (arrows, text)."""
    colour: float = Field(default=0.1, ge=0, lt=1)
    """Largest relative change of brightness and contrast."""
