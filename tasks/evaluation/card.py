"""Where a model comes from: its lineage as JSON and as a model card."""

from typing import Any, Self

from pydantic import BaseModel

from pairloom.models.towers.names import image_package, words_package
from pairloom.storage.escaping import markdown_text
from pairloom.storage.records import FORMAT
from pairloom.storage.runs import Run
from pairloom.storage.secrets import redacted_values
from pairloom.tasks.evaluation.retained import headline_metrics
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, PairsRef, Plan, Verdict
from pairloom.tasks.training.champion import towers

PLAIN_USE = """```python
import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:THIS_FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:THIS_FOLDER")
```"""
OWN_USE = """The text tower is an LSTM, in `text_tower/`. Plain open_clip can't build one: it loads the image tower
and refuses texts:

```python
import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:THIS_FOLDER")
model.encode_image(images)
```

Pairloom embeds both:

```python
from pathlib import Path
from pairloom.models.encoder import Encoder
Encoder.load(Path("THIS_FOLDER")).embed_texts(["a red shoe"])
```"""


class RefitFacts(BaseModel, frozen=True):
    """How a model that was measured became the one that serves."""

    of: str
    """The model that was measured."""
    items: int
    """All items of the snapshot: those that it was measured on are among them."""
    steps: int
    samples: int
    seconds: float
    metrics: dict[str, float]
    """On the validation items, after it has learned from them."""

    @classmethod
    def of_training(cls, measured: str, trained: ModelRef, items: int, metrics: dict[str, float]) -> Self:
        """Of the training that gave it."""
        return cls(
            of=measured,
            items=items,
            steps=trained.steps,
            samples=trained.samples,
            seconds=round(trained.seconds, 1),
            metrics=metrics,
        )


def lineage(pipeline: Pipeline, plan: Plan, challenger: ModelRef, verdict: Verdict) -> dict[str, Any]:
    """What `pairloom.json` holds: enough to tell how the model was made and how good it was. No secret."""
    pairs = Run(pipeline.folder, plan.run_id).read("mine", PairsRef)
    facts = {
        "format": FORMAT,
        "model_id": challenger.model_id,
        "pipeline": pipeline.name,
        "snapshot": plan.snapshot,
        "parent": plan.rival,
        "pairs": pairs.pairs_id if pairs else None,
        "model": pipeline.model.model_dump(mode="json"),
        "towers": towers(pipeline),
        "training": pipeline.training.model_dump(mode="json"),
        "mining": pipeline.mining.model_dump(mode="json"),
        "trim": pipeline.ingest.trim,
        "objective": [loss.model_dump(mode="json") for loss in pipeline.objective],
        "training_digest": plan.training_digest,
        "trunk": challenger.trunk,
        "text_trunk": challenger.text_trunk,
        "steps": challenger.steps,
        "samples": challenger.samples,
        "seconds": round(challenger.seconds, 1),
        "metrics": verdict.metrics,
        "intervals": verdict.intervals,
        "floor": verdict.floor.model_dump(mode="json") if verdict.floor else None,
    }
    found: dict[str, Any] = redacted_values(facts)
    return found


def model_card(pipeline: Pipeline, facts: dict[str, Any], *, plain: bool) -> str:
    """The model card, in Hugging Face's Markdown layout. `plain` where plain open_clip embeds texts with the model."""
    floor = facts["floor"]
    beside = [" textbook features |", " --- |"] if floor else ["", ""]
    metrics = "\n".join(
        f"| {markdown_text(name)} | {value:.4f} | {_ends(facts['intervals'], name)} |"
        + (f" {_value(floor['metrics'], name)} |" if floor else "")
        for name, value in sorted(facts["metrics"].items())
    )
    return f"""---
library_name: {"open_clip" if plain else "pairloom"}
pipeline_tag: zero-shot-image-classification
tags: [clip, pairloom]
---
# {pipeline.name} · {facts["model_id"]}

A dual encoder trained by Pairloom on snapshot {facts["snapshot"]} of the pipeline `{pipeline.name}`:
{facts["steps"]:,} steps, {facts["samples"]:,} image-text pairs, {facts["seconds"]:,} seconds.
{_began(pipeline, facts)}{_chosen(pipeline)}
{_refit(facts)}
{PLAIN_USE if plain else OWN_USE}
{_foreign_weights(pipeline)}{_second_tower(pipeline)}
| metric on the validation items | value | {pipeline.evaluation.confidence:.0%} interval |{beside[0]}
| --- | --- | --- |{beside[1]}
{metrics}
{_floor(floor)}"""


def _began(pipeline: Pipeline, facts: dict[str, Any]) -> str:
    if refit := facts.get("refit"):
        return f"That made model {refit['of']}, which was measured. This one is what became of it on all items."
    if pipeline.model.closed_form_start:
        return "Started in closed form, from no other model."
    return f"Warm-started from model {facts['parent']}." if facts["parent"] else "Trained with no champion before it."


def _chosen(pipeline: Pipeline) -> str:
    model = pipeline.model
    return (
        f" Its architecture, `{model.architecture}`, was chosen for {markdown_text(model.chosen)}."
        if model.chosen
        else ""
    )


def _refit(facts: dict[str, Any]) -> str:
    """What was measured on what, of a model that has learned from the items that it would be measured on."""
    if (refit := facts.get("refit")) is None:
        return ""
    reached = ", ".join(f"{name} {refit['metrics'][name]:.4f}" for name in headline_metrics(refit["metrics"]))
    now = f" On them it now reaches {markdown_text(reached)}: that only shows that nothing broke." if reached else ""
    return f"""
**What was measured on what.** Model {refit["of"]} was trained on the training items alone, and the figures below are
its own, on validation items that it had not seen. This model is what became of it after {refit["steps"]:,} further
steps on all {refit["items"]:,} items, the validation and test items among them, so no figure of its own can tell how it
does on others.{now} The cut-offs below which hits don't fit are measured with model {refit["of"]} as well. Later
challengers are compared with that model and start from it; this one serves.
"""


def _foreign_weights(pipeline: Pipeline) -> str:
    packages = [image_package(pipeline.model), words_package(pipeline.model)]
    credits = "; ".join(package.credit for package in packages if package)
    return f"\nIt started from weights of others: {credits}.\n" if credits else ""


def _second_tower(pipeline: Pipeline) -> str:
    if (tower := pipeline.model.second_image_tower) is None:
        return ""
    values = ", ".join(map(markdown_text, tower.values))
    column = markdown_text(tower.column)
    return f"""
This is the text tower and the first of two image towers. Images of items whose {column} is one of {values} are
encoded by the second one, of the same architecture; its weights are in `second_image_tower/`.
"""


def _floor(floor: dict[str, Any] | None) -> str:
    if floor is None:
        return ""
    drawn = f"{floor['items']:,} of " if floor["items"] < floor["of"] else ""
    return f"""
Textbook features (oriented edges and colours, words and their pieces), fitted without training on {drawn}the
{floor["of"]:,} training items and asked the same, are the floor that a model must beat.
"""


def _value(metrics: dict[str, float], name: str) -> str:
    return f"{metrics[name]:.4f}" if name in metrics else "–"


def _ends(intervals: dict[str, tuple[float, float]], name: str) -> str:
    return "{:.4f} to {:.4f}".format(*intervals[name]) if name in intervals else "–"
