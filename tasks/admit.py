"""Admit: tonight's rows beside the release that they would replace; where they don't fit, nothing follows from them."""

from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import Admission, Plan
from pairloom.tasks.stage import stage


@stage()
def admit(pipeline: Pipeline, plan: Plan) -> Admission:
    """The word on the rows, by what is released and what the sources hold tonight, however that came about."""
    # NumPy, SciPy and torch, for a night that brings rows.
    from pairloom.tasks.admission.gate import judged

    return judged(pipeline, plan)
