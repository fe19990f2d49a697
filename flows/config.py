"""pipelines.yaml: read, overridden by `--set`, checked; every error names file, pipeline and key."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pairloom.flows.plain_yaml import plain_yaml
from pairloom.storage.objects import is_address, path_at
from pairloom.storage.pipeline_name import check_pipeline_name
from pairloom.tasks.nearest import nearest

if TYPE_CHECKING:
    from pairloom.tasks.pipeline import Pipeline

TEMPLATE = Path(__file__).with_name("template.yaml")
DEFAULT_ROOT = ".pairloom"

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# Tried with Lance 14.0.2 (tests/test_config.py): for its tags it makes a second folder, with %23 for # and so on, and
# fails where it may not; control characters it refuses.
_ODD = re.compile(r"[^ -~]|[#%?\[\]*{}~\"`|^<>\\]")
_OUTSIDE = "it stands outside of the pipelines"
_ELSEWHERE = {"name": _OUTSIDE, "root": _OUTSIDE, "as_of": "it is said of a run, with --as-of"}


def write_template(file: Path, *, force: bool = False) -> None:
    """Write a file of pipelines to start from. Raises ValueError where `file` exists, unless forced."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError:
        raise ValueError(f"{file} is there already: name another file, or write over it with --force") from None


def pipeline_names(file: Path) -> list[str]:
    """The names of the pipelines that a file holds, in its order."""
    return list(_blocks(file, _read(file)))


def pipeline_folder(file: Path, name: str | None = None, *, root: Path | None = None) -> Path:
    """Where the pipeline `name` of a file, or its only one, is stored; nothing else of it is looked at."""
    name, _, stored = _chosen(file, name, root)
    return stored / name


def folder_at(place: Path, name: str | None = None) -> Path:
    """Where a pipeline is stored, by a file of pipelines, the root they store under, or its own folder.

    Raises ValueError where `place` holds several and no `name` chooses, or not the one named.
    """
    place = path_at(place)
    if not place.is_dir():
        return pipeline_folder(place, name)
    place = place.resolve()
    if name is None and (place / "releases").is_dir():
        return place
    stored = sorted(path.parent.name for path in place.glob("*/releases"))
    if name is None and len(stored) == 1:
        return place / stored[0]
    if not stored:
        raise ValueError(f"{place} holds no pipeline that has a release")
    if name is None:
        raise ValueError(f"{place} holds several pipelines: choose one ({', '.join(stored)})")
    if name not in stored:
        raise ValueError(f"{place} has no pipeline {name!r}{nearest(name, stored)}: it holds {', '.join(stored)}")
    return place / name


def load_pipeline(
    file: Path, name: str | None = None, *, root: Path | None = None, overrides: Sequence[str] = ()
) -> "Pipeline":
    """The pipeline `name` of a file, or its only one; paths in the file are relative to the file.

    `overrides` are `key.path=value` with YAML values. Raises ValueError with one line for every fault.
    """
    name, block, stored = _chosen(file, name, root)
    for override in overrides:
        _override(block, override)
    _check_keys(file, name, block)
    _check_root(stored, f"{file}: ")
    block = {**_resolved(block, file.parent.resolve()), "name": name, "root": stored}
    return _checked(block, f"{file}: pipeline {name!r}: ")


def written_pipeline(file: Path, name: str, *, root: Path | None = None) -> "Pipeline":
    """The pipeline `name` of a file with its paths as they are written, so that it means the same on every machine.

    What `located` makes of it is checked, too: raises ValueError with one line for every fault.
    """
    load_pipeline(file, name, root=root)
    stored = path_at(root).resolve() if root else _read(file).get("root", DEFAULT_ROOT)
    block = {**pipeline_block(file, name), "name": name, "root": str(stored)}
    return _checked(block, f"{file}: pipeline {name!r}: ")


def located(pipeline: "Pipeline", folder: Path, *, root: Path | None = None) -> "Pipeline":
    """A pipeline with its paths as they are on this machine: relative ones start from `folder`; `root` stands for its.

    Raises ValueError where nothing can be stored there.
    """
    folder, written = folder.resolve(), pipeline.model_dump(mode="json", by_alias=True)
    stored = _stored(folder, root or pipeline.root)
    _check_root(stored, "")
    return _checked({**_resolved(written, folder), "root": stored}, f"pipeline {pipeline.name!r}: ")


def pipeline_block(file: Path, name: str | None) -> dict[str, Any]:
    """What a file says of the pipeline `name`, or its only one, unchecked and with its paths as they are written."""
    return _chosen(file, name, None)[1]


def block_pipeline(block: dict[str, Any], overrides: Sequence[str]) -> "Pipeline":
    """A pipeline that stands in no file; paths are relative to the working directory."""
    for override in overrides:
        _override(block, override)
    return _checked(_resolved(block, Path.cwd()), "")


def _check_keys(file: Path, name: str, block: dict[str, Any]) -> None:
    if taken := sorted(_ELSEWHERE.keys() & set(block)):
        raise ValueError(f"{file}: pipeline {name!r}: unknown key {taken[0]!r}: {_ELSEWHERE[taken[0]]}")


def _check_root(stored: Path, where: str) -> None:
    if odd := sorted(set(_ODD.findall(str(stored)))):
        raise ValueError(
            f"{where}root {stored}: Lance can't keep a table below a folder with {' '.join(odd)} in its name: name "
            "another root, such as --root /srv/pairloom"
        )


def _checked(block: dict[str, Any], where: str) -> "Pipeline":
    # Imported here: who only reads a release need not wait seconds for torch.
    from pairloom.tasks.pipeline import Pipeline

    try:
        return Pipeline.model_validate(block)
    except ValidationError as error:
        raise ValueError("\n".join(where + fault for fault in _faults(error, block, Pipeline))) from error


def _chosen(file: Path, name: str | None, root: Path | None) -> tuple[str, dict[str, Any], Path]:
    """Name and raw block of one pipeline, and the root it is stored under."""
    document = _read(file)
    blocks = _blocks(file, document)
    if name is None and len(blocks) > 1:
        raise ValueError(f"{file} holds several pipelines: choose one with -p ({', '.join(blocks)})")
    name = name if name is not None else next(iter(blocks))
    if name not in blocks:
        raise ValueError(f"{file} has no pipeline {name!r}{nearest(name, blocks)}: it holds {', '.join(blocks)}")
    try:
        check_pipeline_name(name)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(blocks[name], dict):
        raise ValueError(f"{file}: pipeline {name!r} must be a mapping of keys, not {blocks[name]!r}")
    written = str(root or document.get("root", DEFAULT_ROOT))
    if _ADDRESS.match(written) and not is_address(written):
        raise ValueError(f"{file}: root {written}: it can be a folder of this machine, s3://…, gs://… or az://…")
    return name, blocks[name], _stored(Path() if root else file.parent, written)


def _stored(folder: Path, written: Path | str) -> Path:
    """Where a root is: an address, or relative to a folder of this machine."""
    return path_at(written) if is_address(str(written)) else (folder / written).resolve()


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            f"no file {file}: name yours with --file, or let `pairloom init` write one to start from"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} can't be read: {error}") from error
    try:
        document = plain_yaml(text)
    except ValueError as error:
        raise ValueError(f"{file} is no valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{file} must be a mapping with the key 'pipelines'")
    for key in document:
        if key not in ("root", "pipelines"):
            raise ValueError(f"{file}: unknown key {key!r}{nearest(str(key), ['root', 'pipelines'])}")
    return document


def _blocks(file: Path, document: dict[str, Any]) -> dict[str, Any]:
    blocks = document.get("pipelines")
    if not isinstance(blocks, dict) or not blocks:
        raise ValueError(f"{file}: 'pipelines' must hold at least one pipeline by its name")
    return {str(name): block for name, block in blocks.items()}


def _override(block: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in a pipeline's raw block; a number in the path picks from a list."""
    path, equals, value = override.partition("=")
    if not equals or not path.strip():
        raise ValueError(f"--set {override!r} is not of the form key.path=value, like training.max_minutes=1")
    *parents, last = path.strip().split(".")
    place: Any = block
    try:
        parsed = plain_yaml(value)
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        if isinstance(place, list):
            place[int(last)] = parsed
        else:
            place[last] = parsed
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"--set {override!r} can't be applied: {' '.join(str(error).split())}") from error


def _resolved(block: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The block with its paths made absolute, so that it means the same in every process."""
    resolved = dict(block)
    if isinstance(sources := block.get("sources"), list):
        resolved["sources"] = [
            {key: _absolute(value, folder) if key in ("path", "base") else value for key, value in source.items()}
            if isinstance(source, dict)
            else source
            for source in sources
        ]
    if isinstance(pairs := block.get("pairs"), list):
        resolved["pairs"] = [_pairs_file(each, folder) for each in pairs]
    if isinstance(evaluation := block.get("evaluation"), dict) and isinstance(golden := evaluation.get("golden"), list):
        resolved["evaluation"] = {**evaluation, "golden": [_golden_image(each, folder) for each in golden]}
    model = block.get("model")
    if isinstance(model, dict):
        resolved["model"] = model = dict(model)
        if isinstance(name := model.get("architecture"), str):
            prefix, path = ("local-dir:", name[10:]) if name.startswith("local-dir:") else ("", name)
            if prefix or path.endswith(".json"):
                model["architecture"] = f"{prefix}{(folder / path).resolve()}"
        if isinstance(weights := model.get("pretrained"), str) and (folder / weights).is_file():
            model["pretrained"] = str((folder / weights).resolve())
    return resolved


def _absolute(paths: Any, folder: Path) -> Any:
    """A path, a pattern or a list of them, made absolute."""
    if isinstance(paths, list):
        return [_absolute(each, folder) for each in paths]
    return str((folder / paths).resolve()) if isinstance(paths, str) else paths


def _pairs_file(pairs: Any, folder: Path) -> Any:
    if isinstance(pairs, str):
        return {"path": str((folder / pairs).resolve())}
    if isinstance(pairs, dict) and isinstance(path := pairs.get("path"), str):
        return {**pairs, "path": str((folder / path).resolve())}
    return pairs


def _golden_image(query: Any, folder: Path) -> Any:
    if isinstance(query, dict) and isinstance(image := query.get("image"), str):
        return {**query, "image": str((folder / image).resolve())}
    return query


def _faults(error: ValidationError, block: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """Every fault as one line. Where a value may be of several kinds, pydantic says what is wrong with it for each."""
    found: dict[tuple[str | int, ...], ErrorDetails] = {}
    for fault in error.errors(include_url=False):
        found.setdefault(_place(fault, block), fault)
    # What is wrong inside of a value says more than that the value is none of another kind.
    deepest = [place for place in found if not any(place != other and place == other[: len(place)] for other in found)]
    return [_fault(".".join(str(key) for key in place), found[place], model) for place in deepest]


def _place(fault: ErrorDetails, block: Any) -> tuple[str | int, ...]:
    """The keys of a fault, without pydantic's names for the kinds that a value was taken for."""
    keys: list[str | int] = []
    for key in fault["loc"]:
        inside: Any = block if isinstance(block, dict | list | tuple) else {}
        try:
            block = inside[key]
        except (LookupError, TypeError):
            if fault["type"] != "missing" or key != fault["loc"][-1]:
                continue
        keys.append(key)
    return tuple(keys)


def _fault(path: str, fault: ErrorDetails, model: type[BaseModel]) -> str:
    """One pydantic error as one line: the key, what is wrong with the value, what is right."""
    if not path:  # of the pipeline as a whole
        return str(fault["msg"].removeprefix("Value error, "))
    if fault["type"] == "extra_forbidden":
        return f"unknown key {path!r}{nearest(str(fault['loc'][-1]), _names(model, fault['loc'][:-1]))}"
    if fault["type"] == "union_tag_invalid":
        context = fault["ctx"]
        tags = re.findall(r"'([^']*)'", context["expected_tags"])
        key = context["discriminator"].strip("'")
        return f"{path}.{key}: {context['tag']!r} is none of {', '.join(tags)}{nearest(context['tag'], tags)}"
    if fault["type"] == "union_tag_not_found":
        return f"{path}.{fault['ctx']['discriminator'].strip(chr(39))}: Field required"
    value = fault.get("input")
    got = "" if fault["type"] == "missing" or isinstance(value, dict | list) else f", not {value!r}"
    return f"{path}: {fault['msg'].removeprefix('Value error, ')}{got}"


def _names(model: Any, path: Sequence[Any]) -> list[str]:
    """The keys that are allowed at `path` below `model`."""
    candidates = [model]
    for key in path:
        below = [
            field.annotation
            for each in candidates
            if isinstance(each, type) and issubclass(each, BaseModel)
            for name, field in each.model_fields.items()
            if key in (name, field.alias)
        ]
        candidates = [kind for annotation in below for kind in _kinds(annotation)] or candidates
    models = [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]
    return [field.alias or name for each in models for name, field in each.model_fields.items()]


def _kinds(annotation: Any) -> list[Any]:
    """An annotation and all types inside it: the models that a list, union or optional may hold."""
    return [annotation, *(kind for inside in get_args(annotation) for kind in _kinds(inside))]
