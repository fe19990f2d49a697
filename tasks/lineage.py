"""How a release came about: by which code, under which configuration, in what time and at what cost."""

from collections.abc import Mapping
from typing import Any

from pairloom.storage.digest import digest
from pairloom.storage.releases import Lineage
from pairloom.storage.secrets import redacted_values
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import seconds_so_far
from pairloom.tasks.version import version

_APART = ("name", "root", "as_of")
"""Of a run, not of its configuration."""


def lineage(pipeline: Pipeline) -> Lineage:
    """Tonight's, as far as the night has come."""
    seconds = seconds_so_far()
    return Lineage(
        version=version(),
        config_digest=digest(flat_config(pipeline)),
        config=_settings(pipeline.said),
        seconds=seconds,
        cost=cost(pipeline, seconds),
        currency=pipeline.cost.currency if pipeline.cost.per_hour else "",
    )


def flat_config(pipeline: Pipeline) -> dict[str, Any]:
    """The configuration by keys as after `--set`, without its secrets and without name, root and day."""
    return _settings(pipeline.parameters["pipeline"])


def cost(pipeline: Pipeline, seconds: Mapping[str, float]) -> dict[str, float]:
    """What each stage cost, of those whose work pool has a price."""
    workers, prices = pipeline.workers, pipeline.cost.per_hour
    pools = {stage: getattr(workers, stage, None) or workers.default for stage in seconds}
    return {stage: round(seconds[stage] / 3600 * prices[pool], 6) for stage, pool in pools.items() if pool in prices}


def _settings(blocks: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in blocks.items() if key not in _APART}
    return dict(sorted(_flat(redacted_values(kept), "").items()))


def _flat(value: Any, key: str) -> dict[str, Any]:
    inside = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(inside, dict) or not inside:
        return {key: value}
    return {
        name: each
        for own, below in inside.items()
        for name, each in _flat(below, f"{key}.{own}" if key else str(own)).items()
    }
