"""What `model.architecture` and `model.pretrained` may name, told without importing torch or open_clip."""

import difflib
import json
from importlib.util import find_spec
from pathlib import Path

from pairloom.models.towers.choosing import AUTO
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.layout import require_files
from pairloom.models.towers.packages import IMAGE_TOWERS, PREFIX, WORD_VECTORS, WeightsPackage, named_package

ARCHITECTURES = Path(__file__).parent / "architectures"
WEIGHTS_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")


def require_towers(config: ModelConfig) -> None:
    """Raises ValueError where nothing has the architecture's name, or a file that the towers start from is missing.

    Weights are not looked into, no hub is asked, and a tag of pretrained weights is taken for one.
    """
    name, weights = config.architecture, config.pretrained
    if words := words_package(config):
        _ = words.distribution
    if name.startswith("local-dir:"):
        return require_files(Path(name.removeprefix("local-dir:")))
    file = architecture_file(name)
    if package := image_package(config):
        _ = package.distribution
        return None
    if weights is None or Path(weights).is_file():
        return None
    if file is not None:
        raise ValueError(f"model.pretrained: {weights!r} is no file; {name!r} is no open_clip model, so it has no tags")
    if "/" in weights or weights.endswith(WEIGHTS_SUFFIXES):
        raise ValueError(f"model.pretrained: there is no file {weights}")
    return None


def image_package(config: ModelConfig) -> WeightsPackage | None:
    """The package that the image tower's weights come from; None where they come from elsewhere.

    ValueError where `pretrained: package:NAME` names none that we know, or one of another architecture's tower.
    """
    weights = config.pretrained
    if weights is None or not weights.startswith(PREFIX):
        return None
    package = named_package("model.pretrained", weights, tuple(IMAGE_TOWERS.values()))
    file = architecture_file(config.architecture)
    tower = None if file is None else timm_tower(file)
    if tower is None or IMAGE_TOWERS.get(tower) is not package:
        fitting = next(name for name, each in IMAGE_TOWERS.items() if each is package)
        raise ValueError(
            f"model.pretrained: {weights!r} holds weights of timm's {fitting}, and {config.architecture!r} is no "
            f"architecture with that image tower; take `photographs`, or a .json file with timm_model_name: {fitting}"
        )
    return package


def words_package(config: ModelConfig) -> WeightsPackage | None:
    """The package that word vectors come from; None where none does. ValueError where we don't know it."""
    words = config.word_vectors
    return named_package("model.word_vectors", words, WORD_VECTORS) if isinstance(words, str) else None


def timm_tower(file: Path) -> str | None:
    """The timm model that an architecture's file names as its image tower."""
    config = json.loads(file.read_text(encoding="utf-8"))
    named = config.get("model_cfg", config).get("vision_cfg", {}).get("timm_model_name")
    return None if named is None else str(named)


def architecture_file(name: str) -> Path | None:
    """Our config file, or one that is named; none where open_clip knows the name. ValueError where nothing has it."""
    ours = {file.stem: file for file in sorted(ARCHITECTURES.glob("*.json"))}
    if name in ours:
        return ours[name]
    if name == AUTO:
        raise ValueError("model.architecture: 'auto' is decided by a pipeline's own pictures; name one here")
    if name.endswith(".json"):
        if Path(name).is_file():
            return Path(name)
        raise ValueError(f"model.architecture: there is no file {name}; our own architectures are {', '.join(ours)}")
    theirs = open_clip_names()
    if name.startswith("hf-hub:") or name.replace("/", "-") in theirs:
        return None
    near = difflib.get_close_matches(name, [*ours, *theirs], n=3, cutoff=0.3)
    raise ValueError(
        f"model.architecture: nothing is called {name!r}; nearest: {', '.join(near) or 'none'}. Our own are "
        f"{', '.join(ours)}; also any open_clip model, a .json file, local-dir:DIR or hf-hub:ORG/NAME"
    )


def open_clip_names() -> list[str]:
    """What `open_clip.list_models` lists: it names them after its files, too."""
    spec = find_spec("open_clip")
    assert spec is not None, "Pairloom requires it"
    folders = [Path(folder) / "model_configs" for folder in spec.submodule_search_locations or ()]
    return sorted(file.stem for folder in folders for file in folder.glob("*.json"))
