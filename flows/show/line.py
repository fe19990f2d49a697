"""Text for a terminal that strangers may have written: what it would obey is shown instead."""

from typing import Any

from rich.text import Text

from pairloom.storage.escaping import plain


class Line(Text):
    """Rich's text on one line, without escape sequences, overrides of direction and whatever else isn't seen."""

    def __init__(self, text: str = "", *args: Any, **options: Any) -> None:
        super().__init__(plain(text), *args, **options)

    def append(self, text: "Text | str", style: Any = None) -> "Line":
        """As rich's own, of which it takes the styled parts."""
        super().append(plain(text) if isinstance(text, str) else text, style)
        return self
