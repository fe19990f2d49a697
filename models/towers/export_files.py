"""What an exported model is: its files beside the OpenCLIP directory, and what `onnx.json` says of them.

onnx.json            what is exported, and how its inputs are made
text.onnx            the text tower, token ids → embeddings; its weights are read from the safetensors files
text_tokens.json     what makes token ids, for the library `tokenizers`
image.onnx           the image tower, normalised pixels → embeddings
second_image.onnx    the second one, where there are two
"""

from typing import Any

from pydantic import BaseModel

from pairloom.models.towers.config import SecondImageTowerConfig
from pairloom.models.towers.text_cleaning import Cleaning
from pairloom.models.towers.text_end import TextEnd

MANIFEST, TEXT, TOKENIZER = "onnx.json", "text.onnx", "text_tokens.json"
IMAGE, SECOND_IMAGE = "image.onnx", "second_image.onnx"


class TextSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How the text tower's input is made."""

    cleaning: Cleaning
    """What is done to a text before it is cut into tokens."""
    end: TextEnd | None
    """Where a text ends, where tokens after that can be left out."""


class Manifest(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What `onnx.json` says."""

    dimension: int
    """Length of an embedding."""
    text: TextSettings | None = None
    """None where the text tower could not be exported."""
    image: dict[str, Any] | None = None
    """open_clip's preprocessing settings; None where the image towers could not be exported."""
    second: SecondImageTowerConfig | None = None
    """Which items the second image tower encodes, where there is one."""
    tolerance: float
    """By how much no number of an embedding differed from torch's when it was exported."""
    reasons: tuple[str, ...] = ()
    """Why what is not exported could not be."""
    torch: str
    """The version that exported it."""

    @property
    def files(self) -> list[str]:
        """The files that it stands for, itself included."""
        text = [TEXT, TOKENIZER] if self.text else []
        image = [IMAGE, *([SECOND_IMAGE] if self.second else [])] if self.image else []
        return [MANIFEST, *text, *image]
