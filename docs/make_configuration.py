"""Writes docs/configuration.md from the config models: run `make docs` after changing a field."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pairloom.tasks.pipeline import Pipeline

PAGE = Path(__file__).parent / "configuration.md"
OUTSIDE = ("name", "root", "as_of")
"""Fields of a pipeline that stand outside of its block in the file."""
TAGS = ("kind", "loss")
"""Keys that say which of several blocks one is."""

HEAD = """# Configuration

`pipelines.yaml` holds a `root:` (the folder that everything is stored under, relative to the file) and `pipelines:`, a
block for each pipeline by its name. Unknown keys are refused. Any key can be overridden for one run with
`--set key.path=value`. This page is made from the models that check the file (`make docs`).
"""


def page() -> str:
    """The whole reference page as Markdown."""
    blocks = [HEAD, "## A pipeline", *_table(Pipeline, OUTSIDE)]
    found = list(_models("", Pipeline))
    for title, model in found:
        # Columns of a source are those of the pipeline: a block is described once, where it stands highest.
        if title != min((other for other, each in found if each is model), key=lambda other: other.count(".")):
            continue
        blocks += ["", f"## `{title}`", "", _about(model), *_table(model, ())]
    return "\n".join(blocks) + "\n"


def fields(path: str) -> set[str]:
    """The keys of the block at a key path, of every kind it may be."""
    found = [model for title, model in _models("", Pipeline) if title.partition(" ")[0] == path]
    return {field.alias or name for model in found for name, field in model.model_fields.items()}


def _models(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every model below `model`, with the key path it stands at."""
    for name, field in model.model_fields.items():
        if model is Pipeline and name in OUTSIDE:
            continue
        below = [kind for kind in _inside(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for each in below:
            tag = next((tag for tag in TAGS if len(below) > 1 and tag in each.model_fields), None)
            title = f"{path}{field.alias or name}" + (f" ({tag}: {each.model_fields[tag].default})" if tag else "")
            yield title, each
            yield from _models(f"{title}.", each)


def _inside(annotation: Any) -> list[Any]:
    return [annotation, *(each for argument in get_args(annotation) for each in _inside(argument))]


def _table(model: type[BaseModel], without: tuple[str, ...]) -> list[str]:
    rows = [
        f"| `{field.alias or name}` | {_type(field.annotation)}{_bounds(field)} | {_default(field)} | {_text(field)} |"
        for name, field in model.model_fields.items()
        if name not in without
    ]
    return ["", "| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows]


def _about(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(each) for each in arguments))
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if origin is not None:
        return _type(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "block"
    names = {str: "text", Path: "path", int: "integer", float: "number", bool: "true or false", type(None): "null"}
    return names[annotation]


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(each, name)}"
        for each in field.metadata
        for name, sign in signs.items()
        if hasattr(each, name)
    ]
    return f", {', '.join(found)}" if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel) or (
        isinstance(field.default, tuple) and field.default and isinstance(field.default[0], BaseModel)
    ):
        return "see below"
    plain = list(field.default) if isinstance(field.default, tuple) else field.default
    return "`null`" if plain is None else f"`{plain}`"


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
