"""What `pairloom evaluate --model … --data …` asks for, as a pipeline that stores nothing for longer than it runs."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairloom.flows.config import block_pipeline, pipeline_block, pipeline_folder
from pairloom.flows.show.progress import stage_bars
from pairloom.storage.modelstore import ModelStore
from pairloom.tasks.evaluation.scoring import Scores, score

NAME = "evaluate"
# No smaller than what open_clip's models look at, and whole: nothing is lost before their preprocessing.
PLAIN = {"max_side": 512, "trim": False}
KINDS: dict[str, dict[str, Any]] = {
    ".jsonl": {"kind": "jsonl"},
    ".ndjson": {"kind": "jsonl"},
    ".csv": {"kind": "csv"},
    ".tsv": {"kind": "tsv"},
}


@dataclass(frozen=True)
class Owner:
    """The pipeline whose columns, image limits and measures are taken over, and whose models can be named."""

    file: Path
    name: str
    root: Path | None


@dataclass(frozen=True)
class Question:
    """One model, one source, and what to ask."""

    model: str
    """An OpenCLIP folder, a model_id of the owner, or what `model.architecture` takes."""
    pretrained: str | None
    data: Path
    """A caption file or a folder of images."""
    base: Path | None = None
    where: str | None = None
    columns: Sequence[str] = ()
    """`KEY=COLUMN`, with the keys of a pipeline's `columns` and, for several texts, commas."""
    split: str | None = None
    k: Sequence[int] = ()
    slices: Sequence[str] = ()
    probes: Sequence[str] = ()


def score_question(question: Question, owner: Owner | None, overrides: Sequence[str], *, quiet: bool) -> Scores:
    """Ask, in a temporary folder. Raises ValueError for what cannot be asked."""
    with tempfile.TemporaryDirectory(prefix="pairloom-") as folder, stage_bars(quiet=quiet):
        pipeline = block_pipeline({**block_of(question, owner), "root": folder}, overrides)
        return score(pipeline, question.split)


def block_of(question: Question, owner: Owner | None) -> dict[str, Any]:
    """The raw block of a pipeline over `question.data` alone."""
    owned = pipeline_block(owner.file, owner.name) if owner else {"ingest": PLAIN}
    columns = _mapping(owned, "columns") | _columns(question.columns)
    evaluation = _mapping(owned, "evaluation")
    if question.k:
        evaluation["k"] = sorted(set(question.k))
    evaluation |= {
        key: list(asked) for key, asked in (("slices", question.slices), ("probes", question.probes)) if asked
    }
    kept = columns["keep"] = _mapping(columns, "keep")
    for name in (*question.slices, *question.probes):
        if name not in ("group", "split"):
            kept.setdefault(name, "string")
    architecture = _architecture(question.model, owner)
    return {
        "name": NAME,
        "sources": [_source(question)],
        "columns": columns,
        "ingest": _mapping(owned, "ingest") | _as_trained(architecture),
        "model": {"architecture": architecture, "pretrained": question.pretrained},
        "evaluation": evaluation,
    }


def _source(question: Question) -> dict[str, Any]:
    data = question.data
    if not data.exists():
        raise ValueError(f"--data: there is no file or folder {data}")
    kind = {"kind": "folder"} if data.is_dir() else KINDS.get(Path(data.name.lower().removesuffix(".gz")).suffix)
    if kind is None:
        raise ValueError(f"--data: {data} is neither a folder nor one of {', '.join(KINDS)}")
    if question.base and kind["kind"] == "folder":
        raise ValueError("--base is where a caption file's image paths start; a folder has none")
    named = {"path": data, "base": question.base, "where": question.where}
    return {**kind, **{key: str(value) for key, value in named.items() if value is not None}}


def _architecture(model: str, owner: Owner | None) -> str:
    if Path(model).is_dir():
        return f"local-dir:{model}"
    if owner:
        models = ModelStore(pipeline_folder(owner.file, owner.name, root=owner.root))
        if model in models.ids():
            return f"local-dir:{models.whole(model)}"
    return model


def _as_trained(architecture: str) -> dict[str, Any]:
    """How one of our own models has the pictures cut that it learned from; nothing of any other."""
    try:
        facts = json.loads((Path(architecture.removeprefix("local-dir:")) / "pairloom.json").read_bytes())
        return {"trim": facts.get("trim") is True}
    except (OSError, ValueError, AttributeError):
        return {}


def _columns(pairs: Sequence[str]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for pair in pairs:
        key, equals, column = pair.partition("=")
        if not equals or not key or not column:
            raise ValueError(f"--column {pair!r} is not of the form KEY=COLUMN, like texts=caption")
        named[key] = column.split(",") if key == "texts" else column
    return named


def _mapping(block: dict[str, Any], key: str) -> dict[str, Any]:
    """A copy of the mapping at `key`, empty where there is none."""
    found = block.get(key) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{key} must be a mapping of keys, not {found!r}")
    return dict(found)
