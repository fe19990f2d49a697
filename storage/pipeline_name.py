"""What a pipeline may be called: its name is the name of its folder."""

import re

PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"


def check_pipeline_name(name: str) -> None:
    """Raises ValueError for a name that is no plain folder's: `../other` would be another root's pipeline."""
    if not re.fullmatch(PATTERN, name) or name.endswith("\n"):
        raise ValueError(
            f"a pipeline can't be called {name[:80]!r}: up to 63 of a-z, 0-9, _ and -, the first no _ or -"
        )
