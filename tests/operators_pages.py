"""The pages that an operator follows, and the commands in them."""

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
PAGES = ("trouble.md", "operating.md", "prefect.md")


def commands(page: str) -> list[str]:
    """The lines of a page's blocks of commands, in order."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [line.partition(" #")[0].strip() for kind, block in blocks if not kind for line in block.splitlines()]
