"""How long a pipeline keeps what it stored."""

from pydantic import BaseModel, Field


class RetentionConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What is kept."""

    releases: int = Field(default=7, ge=1)
    """Releases that can be served again, the current one included; beside them stay those that they name, by a rollback
    or as the best that was measured. What no kept release needs is collected."""
    grace_hours: float = Field(default=24, ge=0)
    """Nothing younger is collected, and no release that was the current one until then: readers finish, and nights that
    run meanwhile."""
    verify_every_nights: int = Field(default=7, ge=1)
    """After so many days a night reads everything that is kept, and says what is damaged."""
