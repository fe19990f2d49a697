"""What `search:` of a pipeline says."""

from pydantic import BaseModel, Field


class SearchConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How the releases that follow are searched."""

    hubness: bool | None = None
    """Whether images that are near many texts stand further back for each of them: hits for texts are ordered by twice
    the cosine less the image's mean cosine to the ten nearest training texts. The scores stay cosines. None says yes
    with the architectures `drawings` and `drawings-pretrained`, no with others."""
    max_false_finds: float | None = Field(default=0.05, gt=0, lt=1)
    """Share of the validation queries that may find something that fits although nothing of their own concept is there:
    where the cut-off of a release comes from. `null` makes none."""
