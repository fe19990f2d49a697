"""Attacks: files that run something when they are unpickled, at every place where a file is read from the root, from a
model's folder or by configuration."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_architecture, tiny_encoder

from pairloom.models.batches.pixels import open_pixels
from pairloom.models.encoder import Encoder
from pairloom.models.exported import ExportedEncoder
from pairloom.models.objectives.kept import read_kept
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.export_files import Manifest
from pairloom.models.towers.second_tower import load_second_tower
from pairloom.models.training.checkpoint import Checkpoints
from pairloom.storage.classes import ClassStore
from pairloom.storage.images.worker import message, read_message
from pairloom.storage.parquet import read_parquet
from pairloom.storage.releases import release_log

Made = Callable[[Path], bytes]


class Touch:
    """Creates a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


class Script(Touch):
    """Runs a line of Python where it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.marker)!r}, 'w')",)


def plain(protocol: int) -> Made:
    return lambda marker: pickle.dumps({"state_dict": Script(marker)}, protocol=protocol)


def by_torch(marker: Path, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save({"state_dict": {"visual.proj": torch.zeros(2)}, "epoch": Touch(marker)}, out, **options)
    return out.getvalue()


def by_numpy(marker: Path, save: Callable[..., None]) -> bytes:
    out = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = Touch(marker)
    save(out, array)
    return out.getvalue()


PICKLES: dict[str, Made] = {
    "pickle of protocol 0": plain(0),
    "pickle of protocol 2": plain(2),
    "pickle of protocol 5": plain(5),
    "torch.save": by_torch,
    "torch.save of before 1.6": lambda marker: by_torch(marker, _use_new_zipfile_serialization=False),
    "numpy.save of objects": lambda marker: by_numpy(marker, np.save),
    "numpy.savez of objects": lambda marker: by_numpy(marker, np.savez),
}


def start_from(file: str) -> Callable[[Path, bytes], object]:
    """A pipeline whose `model.pretrained` is that file."""

    def read(folder: Path, content: bytes) -> object:
        (folder / file).write_bytes(content)
        return create(
            ModelConfig(architecture=tiny_architecture(folder), pretrained=str(folder / file)), ["red"], seed=0
        )

    return read


def local_dir(file: str) -> Callable[[Path, bytes], object]:
    """A pipeline whose `model.architecture` is a folder with that file."""

    def read(folder: Path, content: bytes) -> object:
        model = folder / "model"
        tiny_encoder(folder).save(model)
        (model / "open_clip_model.safetensors").unlink()
        (model / file).write_bytes(content)
        return create(ModelConfig(architecture=f"local-dir:{model}"), ["red"], seed=0)

    return read


def checkpoint(folder: Path, content: bytes) -> object:
    """A night that resumes: whoever can write the tensors can write their digest."""
    saved = folder / "checkpoints" / "step-000000001"
    saved.mkdir(parents=True)
    (saved / "state.safetensors").write_bytes(content)
    record = {"position": {"step": 1}, "fingerprint": "f", "sha256": hashlib.sha256(content).hexdigest()}
    (saved / "state.json").write_text(json.dumps(record))
    network = torch.nn.Linear(1, 1)
    assert Checkpoints(saved.parent, "f", network, torch.optim.AdamW(network.parameters())).resume() is None
    return None


def kept(folder: Path, content: bytes) -> object:
    (folder / "objectives").mkdir()
    (folder / "objectives" / "state.safetensors").write_bytes(content)
    return read_kept(folder)


def exported(folder: Path, content: bytes) -> object:
    (folder / "image.onnx").write_bytes(content)
    image = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    manifest = Manifest(dimension=8, image=image, tolerance=1e-5, torch="2")
    return ExportedEncoder(folder, manifest).embed_images([Image.new("RGB", (32, 32))])


def second_tower(folder: Path, content: bytes) -> object:
    (folder / "second_image_tower").mkdir()
    (folder / "second_image_tower" / "image_tower.safetensors").write_bytes(content)
    (folder / "second_image_tower" / "items.json").write_text('{"column": "kind", "values": ["a"]}')
    return load_second_tower(folder, tiny_encoder(folder).network)


def released(folder: Path, content: bytes) -> object:
    tiny_encoder(folder).save(folder / "model")
    (folder / "model" / "open_clip_model.safetensors").write_bytes(content)
    return Encoder.load(folder / "model")


def stored(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def write_and_read(folder: Path, content: bytes) -> object:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        return read(folder)

    return write_and_read


PLACES: dict[str, Callable[[Path, bytes], object]] = {
    "model.pretrained: .pt": start_from("weights.pt"),
    "model.pretrained: .bin": start_from("weights.bin"),
    "model.pretrained: no suffix": start_from("weights"),
    "model.pretrained: .npz": start_from("weights.npz"),
    "model.pretrained: .npy": start_from("weights.npy"),
    "model.pretrained: .safetensors": start_from("weights.safetensors"),
    "local-dir: open_clip_pytorch_model.bin": local_dir("open_clip_pytorch_model.bin"),
    "local-dir: open_clip_pytorch_model.pth": local_dir("open_clip_pytorch_model.pth"),
    "a model's second tower": second_tower,
    "a model's own terms": kept,
    "a model's exported tower": exported,
    "a model's weights": released,
    "a checkpoint": checkpoint,
    "pixels.npy": stored("pixels.npy", lambda folder: open_pixels(folder / "pixels.npy")),
    "Parquet": stored("part.parquet", lambda folder: list(read_parquet(folder / "part.parquet"))),
    "a release record": stored("releases/000001.json", lambda folder: release_log(folder).read(1)),
    "an added class": stored("classes/examples/000001.json", lambda folder: ClassStore(folder).examples("group")),
    "a message of a decoder": lambda _, content: read_message(io.BytesIO(message({}, b"")[:8] + content).read),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_run_nowhere(kind: str, place: str, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    content = PICKLES[kind](marker)
    folder = tmp_path / "read"
    folder.mkdir()
    try:
        PLACES[place](folder, content)
    except (ValueError, RuntimeError, OSError) as error:
        said = str(error)
    else:
        assert place == "a checkpoint", "it was taken for what it is not"
        said = ""
    assert not marker.exists()
    for advice in ("weights_only", "allow_pickle", "safe_globals"):
        assert advice not in said


def test_these_pickles_do_run_where_they_are_unpickled(tmp_path: Path) -> None:
    for number, (kind, made) in enumerate(PICKLES.items()):
        marker = tmp_path / str(number)
        stream = io.BytesIO(made(marker))
        if kind.startswith("torch"):
            torch.load(stream, weights_only=False)
        elif kind.startswith("numpy"):
            loaded = np.load(stream, allow_pickle=True)
            list(loaded.values()) if hasattr(loaded, "values") else loaded
        else:
            pickle.load(stream)
        assert marker.exists(), kind


def test_an_environment_that_asks_for_unsafe_loading_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "it ran"
    with pytest.raises(ValueError, match="only tensors are loaded"):
        start_from("weights.pt")(tmp_path, by_torch(marker))
    assert not marker.exists()


CODE = "import pathlib\npathlib.Path({marker!r}).touch()\nclass Tokenizer: pass\nclass Config: pass\n"


@pytest.mark.parametrize("asked", [{}, {"trust_remote_code": True}])
def test_code_beside_a_models_tokenizer_is_not_run(
    asked: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("builtins.input", lambda _: "y")
    marker, model = tmp_path / "it ran", tmp_path / "model"
    tiny_encoder(tmp_path).save(model)
    config = json.loads((model / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = asked
    (model / "open_clip_config.json").write_text(json.dumps(config))
    settings = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": [None, "own.Tokenizer"]}}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "own.py").write_text(CODE.format(marker=str(marker)))
    with pytest.raises(ValueError, match="code of its own, and none is run"):
        create(ModelConfig(architecture=f"local-dir:{model}"), ["red"], seed=0)
    assert not marker.exists()


def test_code_beside_a_hugging_face_text_tower_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("builtins.input", lambda _: "y")
    marker, text_tower = tmp_path / "it ran", tmp_path / "text"
    text_tower.mkdir()
    (text_tower / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "own.Config"}}))
    (text_tower / "own.py").write_text(CODE.format(marker=str(marker)))
    file = Path(tiny_architecture(tmp_path))
    content = json.loads(file.read_text())
    content["model_cfg"]["text_cfg"] = {"hf_model_name": str(text_tower), "hf_tokenizer_name": "fitted"}
    content["model_cfg"]["text_cfg"] |= {"vocab_size": 300, "context_length": 8}
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="code of its own, and none is run"):
        create(ModelConfig(architecture=str(file)), ["red"], seed=0)
    assert not marker.exists()
