"""What `engine:` of a pipeline says."""

from typing import Literal

from pydantic import BaseModel, Field, field_validator

SpreadStage = Literal["ingest", "mine", "embed", "evaluate"]
"""A stage that maps over parts."""


class RayWorkerConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What one worker of a stage takes of a Ray cluster; the local engine has no use for it."""

    num_cpus: float = Field(default=1, gt=0)
    """CPUs; a fraction where several share one."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs; a fraction where several share one. A worker without computes on its CPUs, whatever its machine has."""
    memory_mb: int | None = Field(default=None, ge=1)
    """Memory that is set aside for it, in MiB; none where it is not given."""
    workers: int | None = Field(default=None, ge=1)
    """Most workers at once; without it as many as the cluster's nodes have room for. Where the cluster grows by itself,
    so many are asked for."""

    @field_validator("num_cpus", "num_gpus")
    @classmethod
    def _several_are_whole(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise ValueError(f"{value:g} is neither a part of one nor a number of whole ones")
        return value


class EngineConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Where stages that map over parts run: docs/ray.md."""

    kind: Literal["local", "ray"] = "local"
    """`local` is this machine, `ray` a Ray cluster (extra `ray`)."""
    address: str = Field(default="auto", pattern=r"^(auto|(\[[0-9A-Fa-f:]+\]|[\w.-]+):[0-9]{1,5})$")
    """`host:port` of the cluster's head; `auto` is what RAY_ADDRESS names, else the cluster that runs on the night's
    machine."""
    ingest: RayWorkerConfig = RayWorkerConfig()
    """Workers that decode images and make thumbnails."""
    mine: RayWorkerConfig = RayWorkerConfig()
    """Workers that look for the neighbours of items. Each holds all vectors of the training items."""
    embed: RayWorkerConfig = RayWorkerConfig()
    """Workers that embed the items of corpus parts. Each loads the model once."""
    evaluate: RayWorkerConfig = RayWorkerConfig()
    """Workers that embed the validation images for a model's measures. Each loads the model once."""
    attempts: int = Field(default=4, ge=1)
    """How often a job is given out whose worker is lost, before the stage fails."""
    wait_minutes: float = Field(default=10, gt=0)
    """How long a stage waits for its first worker before it fails."""

    def of(self, stage: SpreadStage) -> RayWorkerConfig:
        """What a worker of this stage takes."""
        found: RayWorkerConfig = getattr(self, stage)
        return found
