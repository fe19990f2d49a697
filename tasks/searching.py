"""What `search:` of a pipeline says."""

from pydantic import BaseModel


class SearchConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How the releases that follow are searched."""

    hubness: bool = True
    """Whether images that are near many texts stand further back for each of them: hits for texts are ordered by twice
    the cosine less the image's mean cosine to the ten nearest training texts. The scores stay cosines."""
