"""What a release will serve: all items embedded by one model, in a table that is indexed and checked."""

from pairloom.flows.placement import placed
from pairloom.tasks.embed import embed
from pairloom.tasks.index import index
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import TableRef


def build(pipeline: Pipeline, snapshot: int, model_id: str) -> TableRef:
    """The candidate table of one model. Raises UnfitModelError where vectors are no numbers or the check fails."""
    return index(pipeline, placed(embed, pipeline)(pipeline, snapshot, model_id))
