"""Writes the table of reasons into docs/quarantine.md from the enum: run `make docs` after changing one."""

import sys
from pathlib import Path

from pairloom.storage.reasons import Reason

PAGE = Path(__file__).parent / "quarantine.md"
BEGIN, END = "<!-- reasons: begin -->", "<!-- reasons: end -->"


def table() -> str:
    """All reasons as a Markdown table."""
    rows = [f"| `{each}` | {each.outcome} | {each.meaning} | {each.remedy} |" for each in Reason]
    return "\n".join(["| reason | outcome | what it means | what usually helps |", "| --- | --- | --- | --- |", *rows])


def page() -> str:
    """The page as it is, with the table as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
