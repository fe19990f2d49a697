"""What open_clip's tokenizers do to a text before they cut it into tokens, without torch."""

import html
import string
from typing import Literal, get_args

Cleaning = Literal["whitespace", "lower", "canonicalize"]
"""open_clip's names of its ways to clean a text."""
CLEANINGS: tuple[Cleaning, ...] = get_args(Cleaning)

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def cleaned(text: str, how: Cleaning) -> str:
    """`text` with its encoding mended, entities resolved, and each run of white space made one space.

    `lower` and `canonicalize` make it lower case, the latter without underscores and ASCII punctuation, too.
    """
    # ASCII without entities is what ftfy would leave, which takes longer to import than a query to encode.
    if not (text.isascii() and text.isprintable()) or "&" in text:
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if how == "canonicalize":
        text = text.strip().replace("_", " ").translate(_PUNCTUATION).lower()
    text = " ".join(text.split())
    return text.lower() if how == "lower" else text
