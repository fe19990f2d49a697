"""What pipelines.yaml said when it was deployed, as short as a deployment's version: tells whether it says it still."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pairloom.storage.digest import digest
from pairloom.tasks.pipeline import Pipeline


@dataclass(frozen=True)
class Stamp:
    """Digests of a pipeline with its paths as they are written."""

    config: str
    root: str

    @classmethod
    def of(cls, written: Pipeline) -> Self:
        """Of a pipeline; what it leaves at its default may be unknown to the version that deploys it."""
        return cls(digest(_said(written))[:12], digest(str(written.root))[:4])

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """What `str` gave; None where that is something else."""
        config, dash, root = (text or "").partition("-")
        return cls(config, root) if dash else None

    def __str__(self) -> str:
        return f"{self.config}-{self.root}"


def differing(one: Pipeline, other: Pipeline) -> list[str]:
    """The keys, such as `training.max_minutes`, that two pipelines give different values."""
    ours, theirs = (_flat(each.parameters["pipeline"]) for each in (one, other))
    return sorted(path for path in ours | theirs if ours.get(path) != theirs.get(path))


def _said(written: Pipeline) -> dict[str, Any]:
    return {key: value for key, value in written.said.items() if key != "root"}


def _flat(block: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Every value in a mapping of mappings as JSON, by its path; lists are values."""
    found: dict[str, str] = {}
    for key, value in block.items():
        own = f"{path}{key}"
        found |= _flat(value, f"{own}.") if isinstance(value, dict) else {own: json.dumps(value, sort_keys=True)}
    return found
