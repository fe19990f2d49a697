"""A frozen trunk: computed once an image, put aside while the rest is trained, and nothing is otherwise for it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import lstm_architecture, timm_architecture, tiny_architecture, tiny_images, tiny_items, tiny_texts

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.models.batches.augmentation import augment, draw_changes
from pairloom.models.closed_form.class_space import class_space
from pairloom.models.encoder import Encoder
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.text_trunk import TextTrunk, frozen_text_trunk
from pairloom.models.towers.trunk import Trunk, frozen_trunk
from pairloom.models.training.closed_start import start_in_closed_form
from pairloom.models.training.moved import MOVES, chosen, moved_apart
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.features import FeatureStore, TextFeatureStore
from pairloom.storage.garbage import collect_garbage
from pairloom.storage.images.decoding import open_stored
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import release_log
from pairloom.storage.retention import RetentionConfig
from pairloom.storage.verify import verify
from pairloom.tasks.embed import embed
from pairloom.tasks.embedding.features import kept_features, kept_text_features
from pairloom.tasks.embedding.parts import embed_item_texts
from pairloom.tasks.items import image_batches, read_items

TEXTS = [text for own in tiny_texts() for text in own]


def frozen(folder: Path, **vision: object) -> ModelConfig:
    return ModelConfig(architecture=timm_architecture(folder, **vision), lock_image=True, closed_form_start=True)


def test_embeddings_of_features_are_those_of_the_images(tmp_path: Path) -> None:
    config = frozen(tmp_path)
    encoder = Encoder(create(config, TEXTS, seed=0))
    trunk = frozen_trunk(encoder.dual_encoder, config)
    assert trunk is not None
    feature_NF = encoder.features(trunk, [tiny_images()[:20], tiny_images()[20:]])
    assert feature_NF.shape == (32, trunk.width)
    before = list(encoder.dual_encoder.network.state_dict())
    embedding_ND = encoder.embed_features(trunk, feature_NF)
    np.testing.assert_allclose(embedding_ND, encoder.embed_images(tiny_images()), atol=1e-5)
    assert list(encoder.dual_encoder.network.state_dict()) == before
    assert encoder.features(trunk, []).shape == (0, trunk.width)


def test_only_a_trunk_that_no_training_moves_is_frozen(tmp_path: Path) -> None:
    config = frozen(tmp_path)
    encoder = create(config, TEXTS, seed=0)
    assert frozen_trunk(encoder, ModelConfig(architecture=config.architecture)) is None
    unlocked = ModelConfig(architecture=config.architecture, lock_image=True, unlocked_image_groups=1)
    assert frozen_trunk(encoder, unlocked) is None
    (tmp_path / "plain").mkdir()
    plain = ModelConfig(architecture=tiny_architecture(tmp_path / "plain"), lock_image=True)
    assert frozen_trunk(create(plain, TEXTS, seed=0), plain) is None
    with pytest.raises(ValueError, match="closed_form_start needs an image tower that stays"):
        ModelConfig(architecture=config.architecture, closed_form_start=True)
    with pytest.raises(ValueError, match="keywords: 'tags' are for a start in closed form"):
        ModelConfig(keywords="tags")


def test_a_trunks_digest_follows_from_its_weights_and_preprocessing_alone(tmp_path: Path) -> None:
    def digest(seed: int, moved: str = "", **vision: object) -> str:
        config = frozen(tmp_path, **vision)
        encoder = create(config, TEXTS, seed=seed)
        with torch.no_grad():
            for name, tensor in encoder.network.named_parameters():
                if moved and name.startswith(moved):
                    tensor.add_(0.1)
        trunk = frozen_trunk(encoder, config)
        assert trunk is not None
        return trunk.digest

    assert digest(0) == digest(0, moved="visual.head") == digest(0, timm_drop=0.5)
    others = [digest(1), digest(0, moved="visual.trunk"), digest(0, image_size=64)]
    assert len({digest(0), *others}) == 4


def roberta_architecture(folder: Path) -> str:
    """Path of a config file: a Hugging Face text tower of random weights, with a projection of two layers."""
    from transformers import RobertaConfig, RobertaModel

    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=300, max_position_embeddings=32, **shape)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder / "roberta")
    path = Path(tiny_architecture(folder))
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"] = {
        "context_length": 8,
        "vocab_size": 300,
        "hf_tokenizer_name": "fitted",
        "hf_model_name": str(folder / "roberta"),
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
    }
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("architecture", "groups"), [(tiny_architecture, 1), (lstm_architecture, 1), (roberta_architecture, 0)]
)
def test_embeddings_of_text_features_are_those_of_the_texts(
    tmp_path: Path, architecture: Callable[[Path], str], groups: int
) -> None:
    name = architecture(tmp_path)
    config = ModelConfig(architecture=name, lock_text=True, unlocked_text_groups=groups)
    encoder = Encoder(create(config, TEXTS, seed=0))
    trunk = frozen_text_trunk(encoder.dual_encoder, config)
    assert trunk is not None
    before = encoder.dual_encoder.network.state_dict()
    head = [each for each in before if each.startswith(("text.proj", "text.text_projection", "text_projection"))]
    assert head
    assert frozen_text_trunk(encoder.dual_encoder, ModelConfig(architecture=name)) is None
    other = ModelConfig(architecture=name, lock_text=True, unlocked_text_groups=groups + 1)
    assert frozen_text_trunk(encoder.dual_encoder, other) is None

    feature_NF, digest = encoder.text_features(trunk, TEXTS), trunk.digest
    assert feature_NF.shape == (len(TEXTS), trunk.width)
    with torch.no_grad():
        for each in head:
            before[each].mul_(-2).add_(0.1)
    np.testing.assert_allclose(
        encoder.embed_text_features(trunk, feature_NF), encoder.embed_texts(TEXTS), rtol=0, atol=1e-6
    )
    assert list(encoder.dual_encoder.network.state_dict()) == list(before)

    def again(seed: int) -> str:
        found = frozen_text_trunk(create(config, TEXTS, seed=seed), config)
        assert found is not None
        return found.digest

    del trunk.digest
    assert trunk.digest == digest == again(0)
    if groups:  # a Hugging Face tower's weights are those of its folder
        assert again(1) != digest


def test_the_class_space_makes_the_scatter_within_classes_a_ball_and_holds_the_means() -> None:
    drawn = np.random.default_rng(0)
    mean_CF = drawn.normal(size=(5, 12)) * 3
    class_N = np.repeat(np.arange(5), 200)
    stretch_FF = np.linalg.qr(drawn.normal(size=(12, 12)))[0] * np.linspace(1, 3, 12)
    feature_NF = (mean_CF[class_N] + drawn.normal(size=(1000, 12)) @ stretch_FF.T).astype(np.float32)
    found = class_space(feature_NF, class_N, 64, shrinkage=0.3)
    assert found.map_FD.shape == (12, 4)
    point_ND = found(feature_NF)
    mean_CD = np.stack([point_ND[class_N == each].mean(axis=0) for each in range(5)])
    apart_ND = point_ND - mean_CD[class_N]
    spread_D = np.sqrt(np.linalg.eigvalsh(apart_ND.T @ apart_ND / 1000))
    # The features' own spread goes from 1 to 3; a third of a ball's is mixed in.
    assert spread_D.max() / spread_D.min() < 2
    nearest_N = np.argmin(((point_ND[:, None] - mean_CD) ** 2).sum(axis=2), axis=1)
    euclidean_N = np.argmin(((feature_NF[:, None] - mean_CF) ** 2).sum(axis=2), axis=1)
    assert (nearest_N == class_N).mean() >= (euclidean_N == class_N).mean()


def test_without_classes_of_two_the_space_is_of_principal_components_that_vary_more_evenly() -> None:
    feature_NF = (np.random.default_rng(0).normal(size=(3000, 6)) * [9, 5, 3, 1, 1, 0.1]).astype(np.float32)
    point_ND = class_space(feature_NF, np.arange(3000), 5, shrinkage=0.3)(feature_NF)
    covariance_DD = point_ND.T @ point_ND / 3000
    np.testing.assert_allclose(covariance_DD, np.diag(np.diag(covariance_DD)), atol=1e-4)
    variance_F = feature_NF.var(axis=0, dtype=np.float64)
    expected = variance_F / (variance_F + variance_F.mean())
    np.testing.assert_allclose(np.sort(np.diag(covariance_DD)), np.sort(expected)[1:], rtol=0.01)


def test_a_start_in_closed_form_finds_the_training_items_by_their_texts(tmp_path: Path) -> None:
    config = frozen(tmp_path)
    encoder = Encoder(create(config, TEXTS, seed=0))
    trunk = frozen_trunk(encoder.dual_encoder, config)
    assert trunk is not None
    relations = tiny_items(tmp_path, encoder.dual_encoder).relations
    feature_NF = encoder.features(trunk, [tiny_images()])
    start_in_closed_form(encoder.dual_encoder, feature_NF, relations, ModelConfig(shrinkage=0.3), seed=0)
    score_NT = encoder.embed_features(trunk, feature_NF) @ encoder.embed_texts(relations.texts).T
    own_NT = np.zeros(score_NT.shape, bool)
    for item, own in enumerate(relations.item_texts):
        own_NT[item, own] = True
    assert own_NT[np.arange(32), score_NT.argmax(axis=1)].mean() > 0.9


@pytest.mark.parametrize("members", [1, 2, 40])
def test_what_moving_takes_apart_is_scatter_within_classes_the_more_the_fewer_pairs_there_are(members: int) -> None:
    drawn = np.random.default_rng(0)
    class_N = np.repeat(np.arange(80 // members), members)
    feature_NF = drawn.normal(size=(len(class_N), 8)).astype(np.float32)
    apart_MF = (drawn.normal(size=(500, 8)) * [10, 1, 1, 1, 1, 1, 1, 1]).astype(np.float32)
    found = class_space(feature_NF, class_N, 8, shrinkage=0.3, apart_MF=apart_MF)

    scatters = [np.zeros((8, 8)), apart_MF.T @ apart_MF, np.cov(feature_NF.T)]
    for each in set(class_N):
        own_NF = feature_NF[class_N == each] - feature_NF[class_N == each].mean(axis=0)
        scatters[0] += own_NF.T @ own_NF
    within_FF, moved_FF, total_FF = (scatter / max(scatter.trace(), 1e-9) for scatter in scatters)
    expected_FF = (len(class_N) - len(set(class_N))) * within_FF + 8 * (0.7 * moved_FF + 0.3 * total_FF)
    expected_FF = 0.7 * expected_FF / expected_FF.trace() + 0.3 * np.eye(8) / 8
    round_DD = found.map_FD.T @ expected_FF @ found.map_FD
    np.testing.assert_allclose(round_DD / round_DD[0, 0], np.eye(len(round_DD)), atol=1e-5)
    plain, nothing = (
        class_space(feature_NF, class_N, 8, shrinkage=0.3, apart_MF=each) for each in (None, apart_MF[:0])
    )
    np.testing.assert_array_equal(plain.map_FD, nothing.map_FD)


def test_moved_copies_are_drawn_by_their_ids_and_looked_at_one_by_one(tmp_path: Path) -> None:
    ids = [f"item-{number}" for number in range(32)]
    rows = chosen(ids, 10)
    assert len(set(rows)) == 10
    assert [ids[::-1][row] for row in chosen(ids[::-1], 10)] == [ids[row] for row in rows]
    config = frozen(tmp_path)
    encoder = Encoder(create(config, TEXTS, seed=0))
    trunk = frozen_trunk(encoder.dual_encoder, config)
    assert trunk is not None
    images = tiny_images()[:10]
    feature_MF = encoder.features(trunk, [images])
    order = np.arange(10)[::-1].copy()
    apart_MF = moved_apart(encoder, trunk, [images[:3], images[3:]], feature_MF, order)
    changes = draw_changes(10, MOVES, torch.Generator().manual_seed(0))
    with torch.no_grad():
        moved_BCHW = torch.cat(
            [augment(encoder.pixels([each]), changes.of(slice(9 - n, 10 - n))) for n, each in enumerate(images)]
        )
        np.testing.assert_allclose(apart_MF, trunk.features(moved_BCHW).numpy() - feature_MF, atol=1e-5)
    assert np.abs(apart_MF).max() > 1e-3


def test_of_a_last_block_only_the_class_token_is_computed_and_is_the_same() -> None:
    config = ModelConfig(architecture="drawings")
    trunk = frozen_trunk(create(config, TEXTS, seed=0), config)
    assert trunk is not None
    image_BCHW = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(trunk.features(image_BCHW), trunk.module(image_BCHW), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: Callable[..., Path]) -> Path:
    """pipelines.yaml over shapes, whose tower has a frozen trunk; two nights have run, the second with a new row."""
    folder = tmp_path_factory.mktemp("nights")
    shutil.copytree(shapes, folder / "shapes")
    locks = {"lock_image": True, "lock_text": True, "unlocked_text_groups": 1}
    start = {"closed_form_start": True, "moved_copies": 8, "keywords": "colour"}
    model = {"architecture": timm_architecture(folder), **locks, **start}
    file = write_pipelines(folder, folder / "shapes", model=model)
    assert nightly(load_pipeline(file)).outcome == "released"
    row = {
        "id": "new",
        "image": "large-red-circle.png",
        "text": "a new circle",
        "group": "new",
        "colour": "red",
        "size": 4,
    }
    with (folder / "shapes" / "captions.jsonl").open("a", encoding="utf-8") as captions:
        captions.write(json.dumps(row) + "\n")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("stored/shapes/*features/*/*")}
    assert {path.parts[-3] for path in before} == {"features", "text_features"}
    assert nightly(load_pipeline(file, overrides=["retrain.min_new_fraction=0.5"])).outcome == "released"
    for path, written in before.items():
        assert path.stat().st_mtime_ns == written, "no picture is looked at twice, and no text is read twice"
    assert len(list(folder.glob("stored/shapes/*features/*/*"))) == len(before) + 2
    return file


def test_a_night_keeps_features_and_its_vectors_are_those_of_the_released_model(file: Path) -> None:
    pipeline = load_pipeline(file)
    release, corpus = release_log(pipeline.folder).current(), Corpus(pipeline.folder)
    assert release is not None
    snapshot = corpus.current()
    store = EmbeddingStore(pipeline.folder, release.model_id)
    encoder = Encoder.load(ModelStore(pipeline.folder).path(release.model_id))
    for part in snapshot.parts:
        rows = store.read(part).to_pylist()
        images = [
            image["bytes"] for batch in corpus.read(snapshot, part, ["image"]) for image in batch["image"].to_pylist()
        ]
        embedding_ND = encoder.embed_images([open_stored(each) for each in images])
        np.testing.assert_allclose([row["image_vector"] for row in rows], embedding_ND, atol=1e-5)
        texts = [own for batch in corpus.read(snapshot, part, ["texts"]) for own in batch["texts"].to_pylist()]
        mean_ND = embed_item_texts(encoder, texts)
        np.testing.assert_allclose([row["text_vector"] for row in rows], mean_ND, rtol=0, atol=1e-6)
    lineage = json.loads((ModelStore(pipeline.folder).path(release.model_id) / "pairloom.json").read_bytes())
    assert (pipeline.folder / "features" / lineage["trunk"]).is_dir()
    assert (pipeline.folder / "text_features" / lineage["text_trunk"]).is_dir()


def test_pictures_come_in_the_order_of_the_items_that_moved_copies_are_drawn_from(file: Path) -> None:
    pipeline = load_pipeline(file)
    corpus = Corpus(pipeline.folder)
    snapshot, release = corpus.current(), release_log(pipeline.folder).current()
    assert release is not None
    assert len(snapshot.parts) > 1
    kept = kept_features(pipeline, Encoder.load(ModelStore(pipeline.folder).path(release.model_id)))
    assert kept is not None
    ids = read_items(corpus, snapshot, None).item_ids[::2]
    found = kept.encoder.features(kept.trunk, image_batches(corpus, snapshot, ids))
    np.testing.assert_allclose(found, kept.matrix(snapshot, ids), atol=1e-5)


def test_a_night_without_a_step_releases_the_start_made_anew_from_all_items(
    file: Path, tmp_path: Path, write_pipelines: Callable[..., Path]
) -> None:
    model = load_pipeline(file).model.model_dump(mode="json")
    steps = {"max_minutes": None, "max_steps": 0, "batch_size": 16, "threads": 1, "refit": 0.3}
    own = write_pipelines(tmp_path, file.parent / "shapes", model=model, training=steps)
    night = nightly(load_pipeline(own))
    assert night.outcome == "released", night.reason
    assert f"which was measured, made anew from all {night.rows['served']} items" in night.comparisons[-1]
    models = ModelStore(load_pipeline(own).folder)
    facts = [
        json.loads((models.path(str(each)) / "pairloom.json").read_bytes()) for each in (night.model_id, night.trained)
    ]
    assert [each["steps"] for each in facts] == [0, 0]
    assert not models.curve(str(night.model_id))
    refused = r"training\.refit: 0\.3 of no steps leaves a model as it is"
    with pytest.raises(ValueError, match=refused):
        load_pipeline(own, overrides=["model.closed_form_start=false", "model.keywords=null"])


def test_where_only_projections_moved_nothing_passes_a_trunk(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load_pipeline(file)
    release, corpus, models = (
        release_log(pipeline.folder).current(),
        Corpus(pipeline.folder),
        ModelStore(pipeline.folder),
    )
    assert release is not None
    moved = Encoder.load(models.path(release.model_id)).dual_encoder
    with torch.no_grad():
        for name, tensor in moved.network.named_parameters():
            if name.startswith(("visual.head", "text_projection")):
                tensor.add_(torch.linspace(-1, 1, tensor.numel()).reshape(tensor.shape))
    moved.save(tmp_path / "built")
    challenger, passes = models.adopt(tmp_path / "built"), []
    with monkeypatch.context() as patch:
        for trunk in (Trunk, TextTrunk):
            patch.setattr(trunk, "features", lambda *_: passes.append(1))
        patch.setattr(Encoder, "embed_texts", lambda *_: passes.append(1))
        patch.setattr(Encoder, "embed_batches", lambda *_: passes.append(1))
        embed(pipeline, release.snapshot, challenger)
    assert not passes
    snapshot = corpus.current()
    store, encoder = EmbeddingStore(pipeline.folder, challenger), Encoder.load(models.path(challenger))
    table = corpus.table(snapshot, ["item_id", "texts", "image"]).to_pylist()
    image_ND, text_ND = store.matrices(snapshot, [row["item_id"] for row in table])
    whole_ND = encoder.embed_images([open_stored(row["image"]["bytes"]) for row in table])
    np.testing.assert_allclose(image_ND, whole_ND, rtol=0, atol=1e-6)
    np.testing.assert_allclose(text_ND, embed_item_texts(encoder, [row["texts"] for row in table]), rtol=0, atol=1e-6)


def test_texts_that_a_part_was_read_without_are_read_now(file: Path) -> None:
    pipeline = load_pipeline(file)
    release, corpus = release_log(pipeline.folder).current(), Corpus(pipeline.folder)
    assert release is not None
    encoder = Encoder.load(ModelStore(pipeline.folder).path(release.model_id))
    kept, part = kept_text_features(pipeline, encoder), corpus.current().parts[0]
    assert kept is not None
    known = corpus.table(corpus.current(), ["texts"])["texts"].to_pylist()[0][0]
    texts = ["of an item that had left", known]
    np.testing.assert_allclose(kept.embeddings(part, texts), encoder.embed_texts(texts), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [FeatureStore, TextFeatureStore])
def test_features_of_other_trunks_are_garbage_and_damaged_ones_are_found(file: Path, kind: type[FeatureStore]) -> None:
    pipeline, name = load_pipeline(file), kind.kind
    (folder,) = (pipeline.folder / name).iterdir()
    other = kind(pipeline.folder, "0" * 16)
    part = Corpus(pipeline.folder).current().parts[0]
    other.write(part, ["a"], [None], np.ones((1, 3), np.float32))
    gone = collect_garbage(pipeline.folder, RetentionConfig(releases=2, grace_hours=0), set())
    assert [each.path for each in gone.garbage if each.kind == name] == [f"{name}/{'0' * 16}"]
    own = kind(pipeline.folder, folder.name)
    file_of_part = folder / f"part-{part.digest}.parquet"
    whole = file_of_part.read_bytes()
    file_of_part.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    findings = verify(pipeline.folder, releases=2).findings
    assert [(each.kind, each.path.split("/")[0], each.repair) for each in findings] == [
        ("features part", name, "delete")
    ]
    own.drop_damaged(Corpus(pipeline.folder).current())
    assert own.missing(Corpus(pipeline.folder).current()) == [part]
