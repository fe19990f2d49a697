"""The tags of flow runs and automations, by which ours are told from what else a Prefect server has."""

OURS = "pairloom"


def run_tags(pipeline: str) -> list[str]:
    """Those of what belongs to one pipeline."""
    return [OURS, pipeline]
