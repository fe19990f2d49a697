"""What `notify:` of a pipeline says: who hears of its nights."""

import re
from typing import Literal

from pydantic import BaseModel, Field, model_validator

Heard = Literal["released", "unchanged", "held", "waiting", "failed"]

_BLOCK = re.compile(r"[a-z0-9-]+/[a-z0-9-]+")


class NotifyConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Who hears what the nights of a deployment came to: `pairloom deploy` makes Prefect automations of it."""

    block: str
    """A notification block of the Prefect server, as `type/name`: `slack-webhook/alerts`, `sendgrid-email/team`,
    `custom-webhook/ops`. Addresses and passwords stand in the block, never here."""
    when: tuple[Heard, ...] = ("held", "waiting", "failed")
    """What is told: a new release, a night without news, what a gate held, a challenger that waits for a person, a
    night that failed or crashed."""
    hours_without_release: float | None = Field(default=None, ge=0.003, le=8784)
    """Tell, too, when the last release is so many hours old; never where it is not given."""

    @model_validator(mode="after")
    def _block_is_a_name(self) -> "NotifyConfig":
        # Of the whole, so that nobody is shown what was written in its place: it may be a secret address.
        if not _BLOCK.fullmatch(self.block):
            raise ValueError(
                "block: name a notification block of the Prefect server as type/name, like slack-webhook/alerts; its "
                "address stands there, and not in a file"
            )
        return self
