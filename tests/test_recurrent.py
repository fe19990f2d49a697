import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from tiny import interrupt_after_checkpoint, lstm_architecture, tiny_images, tiny_items, tiny_texts

from pairloom.flows.config import load_pipeline
from pairloom.flows.here import run_here
from pairloom.flows.nightly import nightly
from pairloom.models.encoder import Encoder
from pairloom.models.towers.config import LoraConfig, ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.finetuning import finish, parameter_groups, prepare
from pairloom.models.towers.recurrent import LstmTextTower
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, TrainingResult, train
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.modelstore import is_plain
from pairloom.storage.table.vectors import names_model, table_metadata

TEXTS = [text for own in tiny_texts() for text in own]


def lstm_encoder(folder: Path, **settings: Any) -> tuple[DualEncoder, ModelConfig]:
    config = ModelConfig(architecture=lstm_architecture(folder), **settings)
    return create(config, TEXTS, seed=0), config


def text_tower(encoder: DualEncoder) -> LstmTextTower:
    tower = encoder.network.text
    assert isinstance(tower, LstmTextTower)
    return tower


def one_direction(tower: LstmTextTower, rows: list[torch.Tensor], layer: int, suffix: str) -> list[torch.Tensor]:
    """Hidden states of one LSTM, gate by gate."""
    weights = {name: tower.lstm.get_parameter(f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh")}
    biases = tower.lstm.get_parameter(f"bias_ih_l{layer}{suffix}") + tower.lstm.get_parameter(
        f"bias_hh_l{layer}{suffix}"
    )
    hidden = cell = torch.zeros(12)
    states = []
    for row in rows:
        i, f, g, o = (weights["weight_ih"] @ row + weights["weight_hh"] @ hidden + biases).chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        states.append(hidden)
    return states


def test_the_tower_is_the_lstm_written_out(tmp_path: Path) -> None:
    encoder, _ = lstm_encoder(tmp_path)
    tower = text_tower(encoder)
    token_BL = encoder.tokenize(["red bar", "a square in grey", ""])
    with torch.no_grad():
        for tokens, found_D in zip(token_BL.tolist(), tower(token_BL), strict=True):
            rows = [tower.token_embedding.weight[token] for token in tokens[: tokens.index(1) + 1]]
            for layer in range(2):
                forth = one_direction(tower, rows, layer, "")
                back = one_direction(tower, rows[::-1], layer, "_reverse")[::-1]
                rows = [torch.cat(each) for each in zip(forth, back, strict=True)]
            largest = torch.stack(rows).max(dim=0).values
            expected_D = tower.text_projection.weight @ torch.nn.functional.layer_norm(largest, (24,))
            torch.testing.assert_close(found_D, expected_D, atol=1e-5, rtol=0)


def test_trimming_changes_no_bit_and_padding_is_never_looked_at(tmp_path: Path) -> None:
    encoder, _ = lstm_encoder(tmp_path)
    token_BL = encoder.tokenize(["red bar", "bar"])
    trimmed_BL = encoder.trim(token_BL)
    assert trimmed_BL.shape[1] < token_BL.shape[1]
    with torch.no_grad():
        assert torch.equal(encoder.encode_texts(trimmed_BL), encoder.encode_texts(token_BL))
        noisy_BL = torch.where(torch.arange(8) < trimmed_BL.shape[1], token_BL, 7)
        assert torch.equal(encoder.encode_texts(noisy_BL), encoder.encode_texts(token_BL))


def test_plain_open_clip_loads_the_image_tower_and_refuses_texts(tmp_path: Path) -> None:
    encoder, _ = lstm_encoder(tmp_path)
    encoder.save(tmp_path / "model")
    name = f"local-dir:{tmp_path / 'model'}"
    network, _, preprocess = open_clip.create_model_and_transforms(name)
    picture = tiny_images()[0]
    with torch.no_grad():
        image_1D = network.encode_image(preprocess(picture).unsqueeze(0), normalize=True).numpy()
    np.testing.assert_allclose(Encoder.load(tmp_path / "model").embed_images([picture]), image_1D, atol=1e-6)
    token_BL = open_clip.get_tokenizer(name)(TEXTS[:3])
    assert torch.equal(token_BL, encoder.tokenize(TEXTS[:3]))
    with pytest.raises(RuntimeError):
        network.encode_text(token_BL)


def test_saving_a_loaded_model_gives_the_same_bytes_and_embeddings(tmp_path: Path) -> None:
    encoder, _ = lstm_encoder(tmp_path)
    encoder.save(tmp_path / "a")
    load(tmp_path / "a").save(tmp_path / "b")
    contents = [
        {file.relative_to(tmp_path / name).as_posix(): file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in "ab"
    ]
    assert contents[0] == contents[1]
    assert {"open_clip_config.json", "text_tower/config.json", "text_tower/model.safetensors"} <= set(contents[0])
    np.testing.assert_array_equal(
        Encoder.load(tmp_path / "a").embed_texts(TEXTS[:9]), Encoder(encoder).embed_texts(TEXTS[:9])
    )
    (tmp_path / "b" / "text_tower" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"text_tower: the text tower's weights can't be loaded"):
        load(tmp_path / "b")


def test_layer_decay_counts_the_layers_of_an_lstm(tmp_path: Path) -> None:
    encoder, config = lstm_encoder(tmp_path, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in encoder.network.named_parameters()}
    groups = parameter_groups(encoder, config, learning_rate=0.1, weight_decay=0.2)
    found = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert set(found) == set(names.values())
    table = {
        "text.token_embedding.weight": 0.125,
        "text.lstm.weight_ih_l0": 0.25,
        "text.lstm.bias_hh_l1_reverse": 0.5,
        "text.ln_final.weight": 1,
        "text.text_projection.weight": 1,
    }
    assert {name: found[name] for name in table} == table


@pytest.mark.parametrize(
    ("groups", "parts"),
    [(1, {"text_projection"}), (2, {"text_projection", "ln_final", "_l1"}), (4, {"token_embedding", "_l0"})],
)
def test_a_locked_lstm_trains_its_unlocked_groups(groups: int, parts: set[str], tmp_path: Path) -> None:
    encoder, config = lstm_encoder(tmp_path, lock_text=True, unlocked_text_groups=groups)
    prepare(encoder, config, seed=0)
    tower = text_tower(encoder)
    trained = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert all(any(part in name for name in trained) for part in parts)
    assert groups == 4 or all(any(part in name for part in parts) for name in trained)
    encoder.encode_texts(encoder.tokenize(TEXTS[:4])).sum().backward()  # type: ignore[no-untyped-call]
    assert {name for name, parameter in tower.named_parameters() if parameter.grad is not None} == trained
    finish(encoder, config)
    assert all(parameter.requires_grad for parameter in encoder.network.parameters())


def test_adapters_want_the_lstm_locked(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    encoder, config = lstm_encoder(tmp_path, lora=LoraConfig(rank=2))
    with pytest.raises(ValueError, match=r"model.lora: an LSTM has no linear layers .*lock_text: true"):
        prepare(encoder, config, seed=0)
    encoder, config = lstm_encoder(tmp_path, lora=LoraConfig(rank=2), lock_text=True)
    prepare(encoder, config, seed=0)
    adapted = {name for name, parameter in encoder.network.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("visual.") for name in adapted - {"logit_scale"})
    finish(encoder, config)
    encoder.save(tmp_path / "model")


@pytest.mark.parametrize("bad", [{"heads": 2}, {"lstm": {"width": 0}}, {"hf_tokenizer_name": "bert"}])
def test_a_bad_shape_names_its_key(bad: dict[str, Any], tmp_path: Path) -> None:
    path = Path(lstm_architecture(tmp_path))
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"] |= bad
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"text_cfg\.{next(iter(bad))}"):
        create(ModelConfig(architecture=str(path)), TEXTS, seed=0)


def run(folder: Path, name: str, *, cut: bool = False) -> TrainingResult:
    start, model = lstm_encoder(folder)
    if cut:
        interrupt_after_checkpoint(start, folder / name)
    config = TrainingConfig(max_minutes=None, max_steps=40, batch_size=16, threads=1, checkpoint_seconds=1e-6)
    return train(start, tiny_items(folder, start), Recipe(config, model=model), workdir=folder / name)


def test_a_resumed_training_ends_bit_identical(tmp_path: Path) -> None:
    expected = run(tmp_path, "whole").encoder.network.state_dict()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "cut", cut=True)
    result = run(tmp_path, "cut")
    assert 0 < result.resumed_from_step < 40
    found = result.encoder.network.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_table_of_a_recurrent_model_promises_lancedb_nothing(tmp_path: Path) -> None:
    encoder, _ = lstm_encoder(tmp_path)
    encoder.save(tmp_path / "models" / "abc")
    assert not is_plain(tmp_path / "models" / "abc")
    metadata = {key.encode(): each.encode() for key, each in table_metadata(tmp_path / "models" / "abc").items()}
    assert b"embedding_functions" not in metadata
    assert names_model(metadata, "abc")
    assert not names_model(metadata, "bc")
    assert not names_model(None, "abc")


def test_a_night_releases_a_recurrent_model_that_search_reads(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    file = write_pipelines(tmp_path, shapes, model={"architecture": lstm_architecture(tmp_path)})
    pipeline = load_pipeline(file)
    assert run_here(nightly, pipeline, quiet=True).outcome == "released"
    release = OpenRelease.open(pipeline.folder)
    assert search(release, Query(text="a large red circle"), k=3).hits
    model = pipeline.folder / "models" / release.record.model_id
    assert load_file(model / "text_tower" / "model.safetensors")
    assert "refuses texts" in " ".join((model / "README.md").read_text(encoding="utf-8").split())
    table = lancedb.connect(pipeline.folder / "vectors").open_table(release.record.model_id)
    # With no embedding function, LanceDB takes a text for words to find.
    found = table.search("large").limit(60).to_list()
    assert found
    assert all("large" in " ".join(row["texts"]) for row in found)
