"""What `index:` of a pipeline says."""

from typing import Literal

from pydantic import BaseModel, Field


class IndexConfig(
    BaseModel,
    frozen=True,
    extra="forbid",
    use_attribute_docstrings=True,
    validate_by_name=True,
    validate_by_alias=True,
    serialize_by_alias=True,
):
    """How the released table is indexed."""

    kind: Literal["ivf_rq", "ivf_pq", "ivf_hnsw_sq", "none"] = "ivf_rq"
    """Kind of the vector index; `none` answers every query exactly, by reading all vectors."""
    min_rows: int = Field(default=20_000, ge=1_000)
    """Below this many rows no index is built: reading all vectors is exact and takes milliseconds."""
    min_ann_recall: float = Field(default=0.95, ge=0, le=1, alias="min_ann_recall@10")
    """Least share of the exact ten nearest items that the index must find, on a seeded sample of items."""
    full_text: bool = True
    """Whether the words of the texts are indexed too, for searches by keyword; without, such a search indexes them in
    memory first."""
    columns: bool = True
    """Whether `item_id`, the group, the split, the source, the pictures' sizes and the pipeline's own columns are
    indexed too, from `min_rows` on, so that filters find their rows without reading all."""
