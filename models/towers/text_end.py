"""Where a text's tokens end: what follows can be left out, where a tower never looks at it."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel


class TextEnd(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How a text tower finds the end of a text, at which it pools."""

    by: Literal["largest", "first"]
    """At the largest token, or at the first one that is `id`."""
    id: int = -1

    @classmethod
    def of(cls, text_cfg: Mapping[str, Any]) -> Self | None:
        """That of a `text_cfg`; none where what follows the end counts, or where no end is looked for."""
        if "hf_model_name" in text_cfg or text_cfg.get("embed_cls") or text_cfg.get("no_causal_mask"):
            return None
        match "eos" if "lstm" in text_cfg else text_cfg.get("pool_type", "argmax"):
            case "argmax":
                return cls(by="largest")
            case "eos":
                return cls(by="first", id=text_cfg.get("eos_id", 2))
        return None
