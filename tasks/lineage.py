"""How a release came about: by which code, under which configuration, in what time and at what cost."""

from collections.abc import Mapping
from typing import Any

from pairloom.storage.digest import digest
from pairloom.storage.releases import Lineage
from pairloom.storage.secrets import redacted_values
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import seconds_so_far
from pairloom.tasks.version import version

_TAGS = ("kind", "loss")
"""Keys that say which of several blocks one is: told although each is its block's default."""


def lineage(pipeline: Pipeline) -> Lineage:
    """Tonight's, as far as the night has come."""
    every, changed = (flat_config(pipeline, exclude_defaults=only) for only in (False, True))
    tags = {key: value for key, value in every.items() if key.rpartition(".")[2] in _TAGS}
    blocks = {key.rpartition(".")[0] for key in changed}
    seconds = seconds_so_far()
    return Lineage(
        version=version(),
        config_digest=digest(every),
        config=changed | {key: value for key, value in tags.items() if key.rpartition(".")[0] in blocks},
        seconds=seconds,
        cost=cost(pipeline, seconds),
        currency=pipeline.cost.currency if pipeline.cost.per_hour else "",
    )


def flat_config(pipeline: Pipeline, *, exclude_defaults: bool) -> dict[str, Any]:
    """The configuration by keys as after `--set`, without its secrets and without name, root and day."""
    apart = {"name", "root", "as_of"}
    blocks = pipeline.model_dump(mode="json", by_alias=True, exclude=apart, exclude_defaults=exclude_defaults)
    return dict(sorted(_flat(redacted_values(blocks), "").items()))


def cost(pipeline: Pipeline, seconds: Mapping[str, float]) -> dict[str, float]:
    """What each stage cost, of those whose work pool has a price."""
    workers, prices = pipeline.workers, pipeline.cost.per_hour
    pools = {stage: getattr(workers, stage, None) or workers.default for stage in seconds}
    return {stage: round(seconds[stage] / 3600 * prices[pool], 6) for stage, pool in pools.items() if pool in prices}


def _flat(value: Any, key: str) -> dict[str, Any]:
    inside = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(inside, dict) or not inside:
        return {key: value}
    return {
        name: each
        for own, below in inside.items()
        for name, each in _flat(below, f"{key}.{own}" if key else str(own)).items()
    }
