"""Exported towers against the whole model, what is left to torch, and what a reader does where one is damaged."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from open_clip.tokenizer import get_clean_fn
from PIL import Image
from transformers import RobertaConfig, RobertaModel

from pairloom.flows.config import load_pipeline
from pairloom.models.encoder import Encoder
from pairloom.models.export import Compared, export
from pairloom.models.exported import ExportedEncoder
from pairloom.models.towers.config import ModelConfig, SecondImageTowerConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.export_files import IMAGE, MANIFEST, SECOND_IMAGE, TEXT, TOKENIZER, Manifest, TextSettings
from pairloom.models.towers.layout import CONFIG_NAME, WEIGHTS_NAME
from pairloom.models.towers.names import ARCHITECTURES
from pairloom.models.towers.text_cleaning import CLEANINGS, Cleaning, cleaned
from pairloom.search.release import OpenRelease
from pairloom.storage.files import FileDigest
from pairloom.storage.modelstore import EXPORT_FILES, model_digest
from pairloom.tasks.verify import export_again, verified

TEXTS = [
    "a red apple", "x", "", " \t\n ", "A RED\nAPPLE!!", "red " * 80, "séance Ã©tÃ© l’été", "红色的鞋 👟🏽",
    "&lt;b&gt; &amp;amp; <eot> red <pad>", "zero\u200bwidth\ufeff", "<start_of_text> don't <END_OF_TEXT>",
]  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 40, 56, 3), dtype=np.uint8)
IMAGES = [Image.fromarray(each) for each in PIXELS]


def architecture(folder: Path, *, image: dict[str, Any] | None = None, **text: Any) -> str:
    """`tiny-32` with some settings changed; None takes one away."""
    config = json.loads((ARCHITECTURES / "tiny-32.json").read_bytes())
    model = config["model_cfg"]
    model["vision_cfg"] = image or model["vision_cfg"]
    model["text_cfg"] = {name: value for name, value in (model["text_cfg"] | text).items() if value is not None}
    model["custom_text"] = True
    (folder / "changed.json").write_text(json.dumps(config))
    return str(folder / "changed.json")


def saved(folder: Path, name: str, **settings: Any) -> Path:
    """A model whose weights are far from where they start: biases and norms count."""
    encoder = create(ModelConfig(architecture=name, **settings), TEXTS, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    encoder.save(folder)
    return folder


def roberta(folder: Path) -> str:
    """An architecture with a small Hugging Face text tower."""
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=300, max_position_embeddings=32, **shape)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder / "roberta")
    gone: dict[str, Any] = dict.fromkeys(("width", "heads", "layers", "pool_type"))
    settings: dict[str, Any] = {
        "hf_model_name": str(folder / "roberta"),
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
    }
    return architecture(folder, **gone, **settings)


TIMM = {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}


@pytest.mark.parametrize(
    "of",
    [
        lambda _: "tiny-32",
        lambda _: "tiny-32-lstm",
        lambda folder: architecture(folder, layers=3, heads=8, context_length=9),
        lambda folder: architecture(folder, no_causal_mask=True, pool_type="last"),
        lambda folder: architecture(folder, hf_tokenizer_name=None, vocab_size=49408, pool_type="argmax"),
        lambda folder: architecture(folder, image=TIMM),
        roberta,
    ],
    ids=["tiny-32", "recurrent", "deeper", "bidirectional", "built-in vocabulary", "timm", "Hugging Face"],
)
def test_its_embeddings_are_those_of_the_whole_model(of: Callable[[Path], str], tmp_path: Path) -> None:
    model = saved(tmp_path / "model", of(tmp_path))
    before = model_digest(model)
    manifest = export(model, Compared(TEXTS, PIXELS))
    assert manifest.reasons == ()
    assert model_digest(model) == before, "what is exported has no part in what a model is"
    made, whole = ExportedEncoder.load(model), Encoder.load(model)
    assert (made.dimension, made.second) == (whole.dimension, None)
    for some in (TEXTS, TEXTS[:1], TEXTS[3:5]):
        np.testing.assert_allclose(made.embed_texts(some), whole.embed_texts(some), atol=1e-5, rtol=0)
        assert made.embed_texts(some).dtype == np.float32
    for batch_size in (1, 4, 32):
        found_ND = made.embed_images(IMAGES, batch_size=batch_size)
        np.testing.assert_allclose(found_ND, whole.embed_images(IMAGES), atol=1e-5, rtol=0)
    # Equal inputs apart, the embeddings must differ, or the comparison would say nothing.
    assert np.abs(made.embed_texts(TEXTS)[0] - made.embed_texts(TEXTS)[6]).max() > 0.01
    assert np.abs(found_ND[0] - found_ND[1]).max() > 1e-4


def test_a_second_image_tower_encodes_the_images_that_are_its_own(tmp_path: Path) -> None:
    tower = SecondImageTowerConfig(column="kind", values=("drawing",), seed=3)
    model = saved(tmp_path / "model", "tiny-32", second_image_tower=tower)
    assert SECOND_IMAGE in export(model, Compared(TEXTS, PIXELS)).files
    made, whole = ExportedEncoder.load(model), Encoder.load(model)
    second_N = np.arange(len(IMAGES)) % 2 == 1
    found_ND, wanted_ND = (each.embed_images(IMAGES, second_N) for each in (made, whole))
    np.testing.assert_allclose(found_ND, wanted_ND, atol=1e-5, rtol=0)
    assert np.abs(found_ND - made.embed_images(IMAGES)).max(axis=1).tolist() == pytest.approx(
        np.where(second_N, np.abs(wanted_ND - whole.embed_images(IMAGES)).max(axis=1), 0), abs=1e-5
    )


def test_the_graphs_hold_no_weights_and_are_the_same_whenever_they_are_made(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "tiny-32")
    names = export(model, Compared(TEXTS, PIXELS)).files
    first = {name: (model / name).read_bytes() for name in names}
    for name in (TEXT, IMAGE):
        held = onnx.load(model / name, load_external_data=False).graph.initializer
        assert {each.external_data[0].value for each in held if np.prod(each.dims) > 600} == {WEIGHTS_NAME}
    export(model, Compared(["quite another text"], PIXELS[:2]))
    assert {name: (model / name).read_bytes() for name in names} == first


def test_what_gives_other_embeddings_is_left_to_torch_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = saved(tmp_path / "model", "tiny-32")
    encode = DualEncoder.encode_images
    monkeypatch.setattr(DualEncoder, "encode_images", lambda *given: encode(*given) + 0.001)
    manifest = export(model, Compared(TEXTS, PIXELS))
    assert manifest.image is None
    assert manifest.text is not None
    assert "the image tower can't be exported" in caplog.text
    assert "differ from torch's by 0.001" in caplog.text
    assert set(manifest.files) == {MANIFEST, TEXT, TOKENIZER}
    assert not (model / IMAGE).exists()


@pytest.mark.parametrize("how", CLEANINGS)
def test_texts_are_cleaned_as_open_clip_does_it(how: Cleaning) -> None:
    draw = np.random.default_rng(0)
    ascii_ = ["".join(map(chr, draw.integers(0, 128, 12))) for _ in range(300)]
    printed = ["".join(map(chr, draw.integers(32, 127, 12))) for _ in range(300)]
    for text in [*TEXTS, *ascii_, *printed, "&amp;amp;lt; &eacute; it''s 'so' -- \"so\""]:
        assert cleaned(text, how) == get_clean_fn(how)(text), repr(text)


def test_both_sides_name_the_same_files() -> None:
    everything = Manifest(
        dimension=1,
        text=TextSettings(cleaning="lower", end=None),
        image={"size": 32},
        second=SecondImageTowerConfig(column="kind", values=("drawing",)),
        tolerance=1e-5,
        torch="2",
    )
    assert sorted(everything.files) == sorted(EXPORT_FILES)


@pytest.fixture
def folder(first_night: Path, tmp_path: Path) -> Path:
    """A copy of the pipeline's folder."""
    shutil.copytree(first_night / "stored" / "shapes", tmp_path / "stored" / "shapes")
    return tmp_path / "stored" / "shapes"


def test_a_night_exports_what_it_keeps_and_the_release_names_it(folder: Path) -> None:
    release = OpenRelease.open(folder)
    named = {Path(name).name for name in release.record.export_files}
    assert named == {MANIFEST, TEXT, TOKENIZER, IMAGE}
    assert not release.record.export_files.keys() & release.record.needed.keys()


def flip(file: Path) -> None:
    """Change the first byte."""
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize(("name", "hurt"), [(MANIFEST, flip), (TEXT, Path.unlink), (IMAGE, flip)])
def test_a_damaged_export_is_told_and_torch_answers(
    folder: Path, name: str, hurt: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    whole = OpenRelease.open(folder).embed_texts(["a red circle"])
    hurt(folder / "models" / OpenRelease.open(folder).record.model_id / name)
    release = OpenRelease.open(folder)
    np.testing.assert_allclose(release.embed_texts(["a red circle"]), whole, atol=1e-5, rtol=0)
    assert "encoder" in vars(release)
    (said,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert said.startswith("queries load torch, since models/")
    assert name in said


def test_a_damaged_export_is_found_and_made_again(first_night: Path, folder: Path) -> None:
    pipeline = load_pipeline(first_night / "pipelines.yaml", root=folder.parent)
    model = folder / "models" / OpenRelease.open(folder).record.model_id
    (model / TEXT).write_bytes(bytes((model / TEXT).stat().st_size))
    (model / MANIFEST).unlink()
    found = verified(pipeline)
    assert {(Path(each.path).name, each.kind, each.repair) for each in found.findings} == {
        (TEXT, "exported tower", "export"),
        (MANIFEST, "exported tower", "export"),
    }
    assert not found.served_damage
    assert {Path(name).name for name in export_again(pipeline, found)} == {TEXT, MANIFEST}
    assert verified(pipeline).whole
    release = OpenRelease.open(folder)
    release.embed_texts(["a red circle"])
    assert "encoder" not in vars(release)


def test_a_release_without_an_export_is_answered_by_torch(first_night: Path, folder: Path) -> None:
    record = OpenRelease.open(folder).record
    older = record.model_copy(update={"files": record.needed})
    release = OpenRelease(folder, older)
    release.embed_texts(["a red circle"])
    assert "encoder" in vars(release)
    assert load_pipeline(first_night / "pipelines.yaml").model.export
    assert FileDigest.of(folder / "models" / record.model_id / CONFIG_NAME) in record.needed.values()
