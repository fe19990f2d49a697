"""What is wrong with something stored, who needs it, and what can be done."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

Kind = Literal[
    "release record",
    "snapshot record",
    "manifest",
    "corpus part",
    "quarantine part",
    "model",
    "measured model",
    "model card",
    "exported tower",
    "table",
    "tag",
    "embeddings part",
    "features part",
    "pairs",
    "neighbours",
    "known rows",
    "word vectors",
    "class examples",
    "class vectors",
]

Repair = Literal["none", "delete", "set aside", "copy", "hold", "rebuild", "export"]
"""`delete`: it is made again when it is asked for. `set aside`: what is whole serves without it. `copy`: the same bytes
are whole elsewhere. `hold`: a tag is written from the record. `rebuild`: the table is built anew and released.
`export`: it is made from the model again."""

SERVED: frozenset[Kind] = frozenset({"release record", "model", "table"})
"""What a release can't be served without."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file, before anything is known of the others."""

    path: str
    """Relative to the pipeline's folder."""
    kind: Kind
    wrong: str
    releases: tuple[int, ...] = ()
    """Kept releases that name or need it, oldest first."""
    snapshots: tuple[int, ...] = ()
    """Snapshots of kept releases, and the current one, that name it."""


class Finding(BaseModel, frozen=True, extra="forbid"):
    """A fault, and what can be done about it."""

    path: str
    kind: Kind
    wrong: str
    releases: tuple[int, ...]
    snapshots: tuple[int, ...]
    remedy: str
    """What `repair` does, or what a person can."""
    repair: Repair
    source: str = ""
    """For `copy`: the file with the same bytes."""

    @property
    def repairable(self) -> bool:
        """Whether `pairloom verify --repair` does something about it."""
        return self.repair != "none"


class Verification(BaseModel, frozen=True, extra="forbid"):
    """Everything that one pipeline keeps, read through."""

    files: int
    bytes: int
    unneeded: int
    """Files that nothing kept names and that were not read: what clean-up may take."""
    newest: int | None
    """Number of the newest release whose record can be read."""
    serves: int | None
    """Number of the newest release that is whole: the one that readers are given."""
    findings: tuple[Finding, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.findings

    @property
    def served_damage(self) -> list[str]:
        """What is wrong with the newest release that can be read; empty where it is whole."""
        return [
            f"{each.path} {each.wrong}"
            for each in self.findings
            if each.kind in ("model", "table") and self.newest in each.releases
        ]

    @property
    def summary(self) -> str:
        """In a sentence."""
        if self.whole:
            return f"{self.files:,} files are whole"
        some = ", ".join(f"{each.path} {each.wrong}" for each in self.findings[:3])
        more = f" and {len(self.findings) - 3} more" if len(self.findings) > 3 else ""
        return f"damaged: {some}{more}; `pairloom verify` says what can be done"
