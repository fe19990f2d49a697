import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from tiny import tiny_architecture, tiny_encoder, tiny_images, tiny_texts

from pairloom.models.encoder import Encoder
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import load
from pairloom.models.towers.names import ARCHITECTURES, open_clip_names
from pairloom.models.towers.vocabulary import END_OF_TEXT_ID, fit_vocabulary

# The LSTM's texts are not open_clip's, and towers with foreign weights want evaluation mode: test_recurrent.py,
# test_pretrained.py.
OTHERS = ("photographs", "drawings-pretrained")
SIMPLE = [each.stem for each in ARCHITECTURES.glob("*.json") if "lstm" not in each.stem and each.stem not in OTHERS]


@pytest.mark.parametrize("name", SIMPLE)
def test_plain_open_clip_gives_the_same_embeddings(name: str, tmp_path: Path) -> None:
    encoder = create(ModelConfig(architecture=name), ["a red apple", "green pear"], seed=0)
    encoder.save(tmp_path)
    ours = Encoder.load(tmp_path)
    # Left in training mode, as lancedb does: no layer of ours may behave differently there.
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a red apple"])
    picture = tiny_images()[0]
    with torch.no_grad():
        image_1D = network.encode_image(preprocess(picture).unsqueeze(0), normalize=True).numpy()
        text_1D = network.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(ours.embed_images([picture]), image_1D, atol=1e-6)
    np.testing.assert_allclose(ours.embed_texts(["a red apple"]), text_1D, atol=1e-6)


def test_lancedb_embedding_function_gives_the_same_embeddings(tmp_path: Path) -> None:
    registry = pytest.importorskip("lancedb.embeddings").get_registry()
    tiny_encoder(tmp_path).save(tmp_path / "model")
    ours = Encoder.load(tmp_path / "model")
    theirs = registry.get("open-clip").create(name=f"local-dir:{(tmp_path / 'model').resolve()}", pretrained="")
    picture = tiny_images()[3]
    np.testing.assert_allclose(ours.embed_images([picture])[0], theirs.compute_query_embeddings(picture)[0], atol=1e-6)
    np.testing.assert_allclose(
        ours.embed_texts(["red bar"])[0], theirs.compute_query_embeddings("red bar")[0], atol=1e-6
    )
    assert theirs.ndims() == ours.dimension


def test_saving_a_loaded_model_gives_the_same_bytes(tmp_path: Path) -> None:
    tiny_encoder(tmp_path).save(tmp_path / "a")
    load(tmp_path / "a").save(tmp_path / "b")
    tiny_encoder(tmp_path).save(tmp_path / "c")
    contents = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "abc"]
    assert contents[0] == contents[1] == contents[2]
    assert {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"} <= set(contents[0])


def test_an_open_clip_model_is_saved_and_loaded(tmp_path: Path) -> None:
    architecture = json.loads(Path(tiny_architecture(tmp_path)).read_text())
    # open_clip's own architectures are bare model_cfg files with its built-in tokenizer.
    model_cfg = architecture["model_cfg"]
    model_cfg["text_cfg"] = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "bare.json").write_text(json.dumps(model_cfg))
    encoder = create(ModelConfig(architecture=str(tmp_path / "bare.json")), [], seed=0)
    encoder.save(tmp_path / "model")
    expected = Encoder(encoder).embed_texts(["a cat", "a much longer text about a dog and a cat"])
    np.testing.assert_allclose(Encoder.load(tmp_path / "model").embed_texts(["a cat"]), expected[:1], atol=1e-6)


def test_trimming_is_exact(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    token_BL = encoder.tokenize(["red bar", "bar"])
    trimmed_BL = encoder.trim(token_BL)
    assert trimmed_BL.shape[1] < token_BL.shape[1]
    torch.testing.assert_close(encoder.encode_texts(trimmed_BL), encoder.encode_texts(token_BL), atol=1e-6, rtol=0)


def test_a_text_tower_with_a_class_token_embeds_whole_texts(tmp_path: Path) -> None:
    path = Path(tiny_architecture(tmp_path))
    content = json.loads(path.read_text())
    content["model_cfg"]["custom_text"] = True
    content["model_cfg"]["text_cfg"] |= {"embed_cls": True, "pool_type": "argmax", "pad_id": 0}
    path.write_text(json.dumps(content))
    encoder = create(ModelConfig(architecture=str(path)), ["red bar", "bar"], seed=0)
    token_BL = encoder.tokenize(["red bar", "bar"])
    assert encoder.trim(token_BL).shape == token_BL.shape
    expected = encoder.network.encode_text(token_BL, normalize=True)  # type: ignore[operator]
    torch.testing.assert_close(encoder.encode_texts(token_BL), expected)


def test_a_long_text_keeps_its_end_of_text(tmp_path: Path) -> None:
    token_BL = tiny_encoder(tmp_path).tokenize(["日本 " * 100, ""])
    assert token_BL.shape == (2, 8)
    assert token_BL[0, -1] == END_OF_TEXT_ID
    assert token_BL[1, 0] == END_OF_TEXT_ID


def test_vocabulary_ignores_the_order_of_texts_and_spells_any_text() -> None:
    texts = [text for own in tiny_texts() for text in own]
    tokenizer = fit_vocabulary(texts, 300)
    assert tokenizer.to_str() == fit_vocabulary(texts[::-1], 300).to_str()
    unseen = "Ünïcödé 🍎 ﬁ"
    assert tokenizer.decode(tokenizer.encode(unseen).ids).strip() == "ünïcödé 🍎 fi"


def test_seed_decides_the_initial_weights(tmp_path: Path) -> None:
    weights = [tiny_encoder(tmp_path, seed=seed).network.state_dict()["visual.proj"] for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'tiny-46'.*tiny-64"):
        create(ModelConfig(architecture="tiny-46"), [], seed=0)
    with pytest.raises(ValueError, match=r"no file missing\.json"):
        create(ModelConfig(architecture="missing.json"), [], seed=0)
    with pytest.raises(ValueError, match=r"'laion3b' is neither a file nor one of ViT-B-32's tags: openai"):
        create(ModelConfig(architecture="ViT-B-32", pretrained="laion3b"), [], seed=0)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"open_clip_config\.json"):
        load(tmp_path)


def test_the_names_told_without_open_clip_are_those_it_lists() -> None:
    assert open_clip_names() == sorted(open_clip.list_models())
