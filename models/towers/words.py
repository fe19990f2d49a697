"""A text's words, as vocabularies and word vectors take them apart."""

import re
import unicodedata

WORD = re.compile(r"[^\W\d_]+|\d+")  # the pieces that a fitted vocabulary splits texts into, without punctuation
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no spaces between words."""


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case: runs of letters, and runs of digits."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def known_words(text: str) -> list[str]:
    """What may be known of a text's words: they themselves, and the letters of scripts that don't part words."""
    return [piece for word in split_words(text) for piece in (UNSPACED.findall(word) or [word])]
