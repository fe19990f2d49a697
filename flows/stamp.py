"""What pipelines.yaml said when it was deployed, as short as a deployment's version: tells whether it says it still."""

import json
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
    return sorted(
        path
        for path in _flat(one.parameters) | _flat(other.parameters)
        if _flat(one.parameters).get(path) != _flat(other.parameters).get(path)
    )


def _said(written: Pipeline) -> dict[str, Any]:
    return written.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"root"})


def _flat(block: Any, path: str = "") -> dict[str, str]:
    """Every value in a mapping of mappings as JSON, by its path; lists are values."""
    if not isinstance(block, dict) or not block:
        return {path.removeprefix("pipeline."): json.dumps(block, sort_keys=True)}
    found: dict[str, str] = {}
    for key, value in block.items():
        found |= _flat(value, f"{path}.{key}" if path else key)
    return found
