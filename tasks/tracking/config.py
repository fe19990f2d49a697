"""What `tracking:` of a pipeline says."""

from typing import Literal

from pydantic import BaseModel, Field


class WandbConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Weights & Biases (`pip install wandb`); the key is read from `WANDB_API_KEY`."""

    project: str = Field(min_length=1, max_length=128)
    """The project that runs are put into."""
    entity: str | None = None
    """The team or user that it belongs to; the key's own without it."""
    mode: Literal["online", "offline"] = "online"
    """`offline` leaves runs in `.tracking/wandb` below the root, for `wandb sync`; nothing is sent."""


class TrackingConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Where nights that measured a challenger are logged, released or not. A tracker that fails is a warning."""

    mlflow: str | None = None
    """MLflow's tracking address (extra `mlflow`): `http://…`, `sqlite:////srv/mlflow.db`; a relative one starts at the
    root."""
    experiment: str | None = None
    """MLflow's experiment; the pipeline's name without it."""
    wandb: WandbConfig | None = None
    """Weights & Biases; not used where it is not given."""
    max_seconds: float = Field(default=120, gt=0)
    """A tracker that takes longer is given up."""
