"""A project that is moved, or read on another machine, where all paths are other ones: nothing is learned anew."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nights import current, folder, night
from tiny import tiny_architecture

from pairloom.flows.config import load_pipeline
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.identity import by_content
from pairloom.storage.modelstore import ModelStore
from pairloom.tasks.training.champion import fitting_champion


def test_a_project_that_was_moved_is_unchanged_until_a_file_of_its_model_says_something_else(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    here = tmp_path / "here"
    shutil.copytree(shapes, here / "shapes")
    tiny_architecture(here)
    night(write_pipelines(here, Path("shapes"), model={"architecture": "tiny-16.json"}))
    there = tmp_path / "there"
    here.rename(there)
    file = there / "pipelines.yaml"

    again = night(file)
    assert (again.outcome, again.rows["seen"], again.rows["new"]) == ("unchanged", 60, 0)
    model_id = current(file).model_id
    assert fitting_champion(load_pipeline(file), model_id) == ModelStore(folder(file)).whole(model_id)

    architecture = there / "tiny-16.json"
    content = json.loads(architecture.read_text())
    content["model_cfg"]["embed_dim"] = 8
    architecture.write_text(json.dumps(content))
    retrained = night(file, "gate.max_regression=1.0", "gate.first=none")
    assert (retrained.outcome, retrained.reason) == ("released", "the training configuration changed")


def test_what_shapes_a_model_is_what_its_files_hold_and_where_they_lie_is_not(tmp_path: Path) -> None:
    def of_folder(place: Path) -> dict[str, Any]:
        return by_content(ModelConfig(architecture=f"local-dir:{place / 'vit'}"), {})

    def of_weights(place: Path) -> dict[str, Any]:
        return by_content(ModelConfig(architecture="ViT-B-32", pretrained=str(place / "weights.pt")), {})

    here, there = (tmp_path / name for name in ("here", "there"))
    for place in (here, there):
        (place / "vit").mkdir(parents=True)
        (place / "vit" / "open_clip_config.json").write_text("{}")
        (place / "vit" / "open_clip_model.safetensors").write_bytes(b"weights")
        (place / "weights.pt").write_bytes(b"weights")
    for of in (of_folder, of_weights):
        assert of(here) == of(there)
        assert str(tmp_path) not in str(of(here))
    made = of_folder(there)
    (there / "vit" / "open_clip_config.json").write_text("{ }")
    (there / "weights.pt").write_bytes(b"other weights")
    assert of_folder(there) != of_folder(here)
    assert of_weights(there) != of_weights(here)
    (there / "vit" / "open_clip_model.safetensors").unlink()
    gone = ModelConfig(architecture=f"local-dir:{there / 'vit'}")
    lineage = {"model": {"architecture": f"local-dir:{here / 'vit'}"}, "towers": made}
    assert by_content(gone, lineage) == made, "the champion, which training starts from, was made of it"
    misspelt = ModelConfig(architecture=f"local-dir:{there / 'vlt'}")
    assert by_content(misspelt, lineage)["architecture"] == misspelt.architecture
    named = ModelConfig(architecture="drawings")
    assert by_content(named, {}) == named.model_dump(mode="json"), "earlier versions' roots are not trained anew for it"
