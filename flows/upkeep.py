"""What is damaged of a pipeline, and all of it mended that can be."""

from typing import Any

from pairloom.tasks.pipeline import Pipeline


def state(pipeline: Pipeline) -> dict[str, Any]:
    """What a pipeline's files are like: `whole`, a `summary` and the findings, in JSON."""
    from pairloom.tasks.verify import verified

    found = verified(pipeline)
    return {"pipeline": pipeline.name, "whole": found.whole, **found.model_dump(mode="json"), "repaired": []}


def mended(pipeline: Pipeline) -> dict[str, Any]:
    """The same after all was done that can be, which `repaired` lists."""
    from pairloom.storage.repair import repair
    from pairloom.tasks.verify import export_again, rebuild, verified

    found, done = verified(pipeline), []
    # What was mended may be what something else is made of.
    while again := repair(pipeline.folder, [each for each in found.findings if each.path not in done]):
        done += [each.path for each in again]
        found = verified(pipeline)
    done += export_again(pipeline, found)
    if release := rebuild(pipeline, found):
        done.append(f"releases/{release.number:06d}.json")
    return state(pipeline) | {"repaired": done}
