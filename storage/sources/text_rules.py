"""Which texts are none: too short or long, signs, an address, a file's name; judged from the text alone."""

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, Field

from pairloom.storage.reasons import Reason

TextRule = Literal["control_characters", "no_letters", "address", "file_name"]


class TextRules(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Which texts are none. A text that is refused is left out of its item; a row left without any is filtered."""

    min_characters: int | None = Field(default=None, ge=1)
    """Texts of fewer characters are refused."""
    max_characters: int | None = Field(default=None, ge=1)
    """Texts of more characters are refused."""
    min_words: int | None = Field(default=None, ge=1)
    """Texts of fewer words are refused; words are what blanks part."""
    max_words: int | None = Field(default=None, ge=1)
    """Texts of more words are refused."""
    refuse: tuple[TextRule, ...] = ("control_characters",)
    """Texts that are nothing but `control_characters` and the like, which nobody sees; digits, punctuation and signs
    (`no_letters`); an `address`; the name of a file or the number of a camera's picture (`file_name`)."""

    def refusal(self, text: str) -> Reason | None:
        """Why `text`, without blanks at its ends, is none; None where it is one."""
        for rule, (reason, holds) in _RULES.items():
            if rule in self.refuse and holds(text):
                return reason
        words = len(text.split()) if self.min_words or self.max_words else 0
        if len(text) < (self.min_characters or 0) or words < (self.min_words or 0):
            return Reason.TEXT_TOO_SHORT
        if len(text) > (self.max_characters or len(text)) or words > (self.max_words or words):
            return Reason.TEXT_TOO_LONG
        return None


_LONGEST_ADDRESS = 2_000
"""In characters: what is longer says more than that."""
_LONGEST_NAME = 255
_ADDRESS = re.compile(r"(?:(?:https?|ftp)://|www\.)\S+|[^\s@]+@[^\s@.]+(?:\.[^\s@.]+)+", re.IGNORECASE)
_SUFFIX = re.compile(
    r"\.(?:jpe?g|jpe|jfif|png|gif|webp|bmp|dib|tiff?|avif|hei[cf]|svg|jp2|ico|pdf|psd|raw|dng|nef|cr[23]|arw|mp4|mov)$",
    re.IGNORECASE,
)
# As cameras and phones number their pictures.
_CAMERA = re.compile(r"_?(?:IMG|DSC[NF]?|PXL|MVI|SAM|GOPR|DJI|PICT|CIMG|HPIM|MG)[-_ ]?[-_\d]{3,}", re.IGNORECASE)


def _invisible(text: str) -> bool:
    return all(unicodedata.category(char)[0] in "CZ" for char in text)


def _without_letters(text: str) -> bool:
    # Emoji are "other symbols": they say something.
    return all(unicodedata.category(char) in _SIGNS or unicodedata.category(char)[0] in "CNPZ" for char in text)


def _is_address(text: str) -> bool:
    return len(text) <= _LONGEST_ADDRESS and _ADDRESS.fullmatch(text) is not None


def _is_file_name(text: str) -> bool:
    return (len(text) <= _LONGEST_NAME and _SUFFIX.search(text) is not None) or _CAMERA.fullmatch(text) is not None


_SIGNS = ("Sc", "Sk", "Sm", "Mn", "Me")
_RULES: dict[TextRule, tuple[Reason, Callable[[str], bool]]] = {
    "control_characters": (Reason.TEXT_CONTROL_CHARACTERS, _invisible),
    "no_letters": (Reason.TEXT_NO_LETTERS, _without_letters),
    "address": (Reason.TEXT_ADDRESS, _is_address),
    "file_name": (Reason.TEXT_FILE_NAME, _is_file_name),
}
"""In the order in which they are asked, whatever the order they are written in."""
