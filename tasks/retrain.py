"""What `retrain:` of a pipeline says."""

from pydantic import BaseModel, Field


class RetrainConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """When a night trains a challenger. Otherwise the champion embeds the new rows."""

    min_new_fraction: float = Field(default=0.02, ge=0)
    """Retrain once this share of the items is newer than the last training."""
    every_nights: int = Field(default=7, ge=1)
    """Retrain at least this often, in days."""
