"""The two-input network: its loss against loops over single pairs, its state beside the model, and search with it."""

import io
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from released_pipeline import MODEL_ID, NAMES, publish, save_model
from scipy import sparse  # type: ignore[import-untyped]  # scipy has no types
from tiny import tiny_encoder, tiny_images, tiny_items

from pairloom.models.batches.config import Side
from pairloom.models.batches.feed import BatchSource
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.batches.targets import Targets
from pairloom.models.encoder import Encoder
from pairloom.models.objectives.batch import EmbeddedBatch, Setting
from pairloom.models.objectives.config import ClipConfig, CrossEncoderConfig
from pairloom.models.objectives.cross_encoder import CrossEncoderTerm, gumbel, likely_negatives, ranking_loss
from pairloom.models.objectives.terms import Objectives
from pairloom.models.reranker import Reranker
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, TrainingResult, train
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.files import DamagedError
from pairloom.storage.images.decoding import open_stored

SMALL = CrossEncoderConfig(width=16, heads=2, anchors=6, negatives=3)
STEPS = TrainingConfig(max_minutes=None, max_steps=4, batch_size=16, threads=1, checkpoint_seconds=1e-6)


def batch_of(folder: Path, encoder: DualEncoder, size: int = 12) -> EmbeddedBatch:
    items = tiny_items(folder, encoder)
    plan = BatchPlan(items.relations.item_texts, None, size, 0, 0)
    source = BatchSource(items, plan, encoder, encoder.tokenize(items.relations.texts), None)
    ready = source.batch(3)
    with torch.no_grad():
        text_UD = encoder.encode_texts(ready.token_UL)
        sides: dict[Side, torch.Tensor] = {
            "image": encoder.encode_images(ready.image_bCHW),
            "text": text_UD[ready.text_b],
        }
    return EmbeddedBatch(ready, sides, torch.tensor(10.0))


def alone(term: CrossEncoderTerm, batch: EmbeddedBatch, image: int, text: int) -> float:
    """The score of one pair, read by itself."""
    ready, zero = batch.ready, torch.tensor([0])
    images = term.network.read_images(ready.image_bCHW[image : image + 1])
    row = int(ready.text_b[text])
    return float(term.network(images, term.network.read_texts(ready.token_UL[row : row + 1]), zero, zero).detach())


def test_likely_negatives_and_loss_match_nested_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    similarity_AB = torch.randn(4, 7, generator=generator)
    positive_AB = torch.zeros(4, 7, dtype=torch.bool)
    positive_AB[0, :5] = positive_AB[1, 2] = positive_AB[2, [0, 6]] = positive_AB[3, 1] = True
    negative_AK, real_AK = likely_negatives(similarity_AB, positive_AB, 3)
    score_AC = torch.randn(4, 4, generator=generator)
    total = 0.0
    for anchor in range(4):
        others = [other for other in range(7) if not positive_AB[anchor, other]]
        hardest = sorted(others, key=lambda other: -float(similarity_AB[anchor, other]))[:3]
        assert negative_AK[anchor][real_AK[anchor]].tolist() == hardest
        scores = score_AC[anchor, : 1 + len(hardest)].tolist()
        total -= scores[0] - math.log(sum(math.exp(score) for score in scores))
    assert int(real_AK[0].sum()) == 2  # of seven candidates, five are known positives
    assert float(ranking_loss(score_AC, real_AK)) == pytest.approx(total / 4, abs=1e-6)


@pytest.mark.parametrize("towers", ["own", "shared"])
def test_the_loss_of_a_batch_matches_pairs_that_are_scored_alone(towers: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    batch = batch_of(tmp_path, encoder)
    term = CrossEncoderTerm(SMALL.model_copy(update={"anchors": 100, "towers": towers}), Setting(encoder, 32, 0))
    known = batch.ready.targets
    positives = set(zip(known.rows_P.tolist(), known.columns_P.tolist(), strict=True))
    assert len(positives) > 12  # group-mates are in the batch
    generator = torch.Generator().manual_seed(3)  # the batch's step, of seed 0
    order = torch.randperm(12, generator=generator).tolist()
    noise_2AB = gumbel((2, 12, 12), generator)
    total = 0.0
    for place, anchor in enumerate(order):
        for asked_by_text in (True, False):
            pairs = [(other, anchor) if asked_by_text else (anchor, other) for other in range(12)]
            noise_B = noise_2AB[0 if asked_by_text else 1, place]
            logits = {
                (i, t): 10 * float(batch.sides["image"][i] @ batch.sides["text"][t]) + float(noise_B[other])
                for other, (i, t) in enumerate(pairs)
            }
            hardest = sorted((pair for pair in pairs if pair not in positives), key=lambda pair: -logits[pair])[:3]
            scores = [alone(term, batch, *pair) for pair in [(anchor, anchor), *hardest]]
            total -= scores[0] - math.log(sum(math.exp(score) for score in scores))
    contrast = slow_contrast(encoder, batch, positives) if towers == "own" else 0.0
    assert float(term(batch).detach()) == pytest.approx(total / 24 + contrast, abs=1e-4)


def slow_contrast(encoder: DualEncoder, batch: EmbeddedBatch, positives: set[tuple[int, int]]) -> float:
    """InfoNCE of the batch, image by image and text by text; copies of the towers still give the same embeddings."""
    scale, total, size = float(encoder.network.logit_scale.detach().exp()), 0.0, batch.ready.count  # type: ignore[operator]
    for anchor in range(size):
        for pairs in ([(anchor, n) for n in range(size)], [(n, anchor) for n in range(size)]):
            logits = [scale * float(batch.sides["image"][i] @ batch.sides["text"][t]) for i, t in pairs]
            normaliser = math.log(sum(math.exp(logit) for logit in logits))
            own = [logit for logit, pair in zip(logits, pairs, strict=True) if pair in positives]
            total += sum(normaliser - logit for logit in own) / len(own)
    return total / (2 * size)


def test_negatives_are_drawn_with_the_probabilities_of_a_softmax() -> None:
    probability_B = torch.tensor([0.5, 0.3, 0.2])
    noise_AB = gumbel((20_000, 3), torch.Generator().manual_seed(0))
    drawn_AK, _ = likely_negatives(probability_B.log() + noise_AB, torch.zeros(20_000, 3, dtype=torch.bool), 2)
    for first in range(3):
        assert float((drawn_AK[:, 0] == first).float().mean()) == pytest.approx(float(probability_B[first]), abs=0.02)
        rest = 1 - float(probability_B[first])
        for second in {0, 1, 2} - {first}:
            share = float((drawn_AK[drawn_AK[:, 0] == first, 1] == second).float().mean())
            assert share == pytest.approx(float(probability_B[second]) / rest, abs=0.02)


@pytest.mark.parametrize("towers", ["own", "shared"])
def test_the_dual_encoder_gets_no_gradient(towers: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    batch = batch_of(tmp_path, encoder)
    sides = {side: own_BD.requires_grad_() for side, own_BD in batch.sides.items()}
    term = CrossEncoderTerm(SMALL.model_copy(update={"towers": towers}), Setting(encoder, 32, 0))
    term(replace(batch, sides=sides)).backward()
    assert all(own_BD.grad is None for own_BD in sides.values())
    assert all(parameter.grad is None for parameter in encoder.network.parameters())
    assert all(parameter.grad is not None for parameter in term.parameters())


def test_only_towers_of_its_own_are_kept_and_learn(tmp_path: Path) -> None:
    result = trained(tmp_path, "run")
    own, dual = result.objectives.state_dict(), result.encoder.network.state_dict()
    prefix = next(name for name in own if name.endswith("towers.visual.proj")).removesuffix("visual.proj")
    assert not torch.equal(own[f"{prefix}visual.proj"], dual["visual.proj"])
    shared = trained(tmp_path, "shared", config=SMALL.model_copy(update={"towers": "shared"}))
    assert not any("towers" in name for name in shared.objectives.state_dict())


def test_each_rank_compares_its_own_share(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    whole = batch_of(tmp_path, encoder)
    term = CrossEncoderTerm(SMALL.model_copy(update={"anchors": 100}), Setting(encoder, 32, 0))
    ready, own = whole.ready, slice(4, 12)
    share = replace(ready, image_bCHW=ready.image_bCHW[own], text_b=ready.text_b[own])
    found = term(EmbeddedBatch(share, whole.sides, whole.logit_scale, own))
    known_BB = torch.zeros(12, 12)
    known_BB[ready.targets.rows_P, ready.targets.columns_P] = 1
    small = Targets.from_sparse(sparse.csr_matrix(known_BB[own, own].numpy()))
    sides = {side: own_BD[own] for side, own_BD in whole.sides.items()}
    expected = term(EmbeddedBatch(replace(share, count=8, targets=small), sides, whole.logit_scale))
    assert float(found.detach()) == pytest.approx(float(expected.detach()) * 8 / 12, abs=1e-6)


def test_padding_changes_no_score(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    term, batch = CrossEncoderTerm(SMALL, Setting(encoder, 32, 0)), batch_of(tmp_path, encoder)
    images, row = term.network.read_images(batch.ready.image_bCHW), torch.arange(2)
    whole_UL = encoder.tokenize(["red bar", "a green square in grey"])
    scores = [term.network(images, term.network.read_texts(token_UL), row, row) for token_UL in
              (whole_UL, encoder.trim(whole_UL))]  # fmt: skip
    torch.testing.assert_close(*scores)


def trained(
    folder: Path, name: str, champion: Path | None = None, config: CrossEncoderConfig = SMALL, **settings: object
) -> TrainingResult:
    start = load(champion) if champion else tiny_encoder(folder)
    recipe = Recipe(STEPS.model_copy(update=settings), [ClipConfig(), config], champion=champion)
    return train(start, tiny_items(folder, start), recipe, workdir=folder / name)


def test_a_cross_encoder_learns_which_item_a_text_means(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"anchors": 16, "negatives": 7})
    result = trained(tmp_path, "run", config=config, max_steps=300, augmentation=None, checkpoint_seconds=60)
    result.encoder.save(tmp_path / "model")
    result.objectives.save_kept(tmp_path / "model")
    reranker = Reranker.load(tmp_path / "model", Encoder.load(tmp_path / "model"))
    texts = [f"{colour} {shape}" for colour in ("red", "blue") for shape in ("square", "bar", "corner", "frame")]
    images = [*tiny_images()[0:8:2], *tiny_images()[16:24:2]]
    scores = np.stack([reranker.score_images(text, images, np.zeros(8)) for text in texts])
    assert (scores.argmax(axis=1) == np.arange(8)).mean() >= 0.75
    by_image = reranker.score_texts(images[0], texts)
    embedded = Encoder.load(tmp_path / "model")
    cosines = embedded.embed_texts(texts) @ embedded.embed_images(images[:1])[0]
    scale = float(result.encoder.network.logit_scale.detach().exp())  # type: ignore[operator]
    assert np.allclose(by_image, scores[:, 0] + scale * cosines, atol=1e-4)


def test_a_later_night_goes_on_with_the_kept_network(tmp_path: Path) -> None:
    first = trained(tmp_path, "first")
    first.encoder.save(tmp_path / "model")
    first.objectives.save_kept(tmp_path / "model")
    second = trained(tmp_path, "second", champion=tmp_path / "model", learning_rate=1e-12)
    for name, kept in first.objectives.state_dict().items():
        torch.testing.assert_close(second.objectives.state_dict()[name], kept)


def test_a_resumed_training_ends_with_the_same_network(tmp_path: Path) -> None:
    whole = trained(tmp_path, "whole", max_steps=3)
    again = trained(tmp_path, "whole", max_steps=3)
    assert again.resumed_from_step == 3
    for name, tensor in whole.objectives.state_dict().items():
        assert torch.equal(again.objectives.state_dict()[name], tensor)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    """A release whose model has a cross-encoder that learned nothing."""
    folder = tmp_path_factory.mktemp("reranked")
    model = folder / "models" / MODEL_ID
    save_model(model)
    Objectives([SMALL], Setting(load(model), 0, 0)).save_kept(model)
    publish(folder)
    return OpenRelease.open(folder)


@pytest.mark.parametrize("candidates", [5, 20, 100])
def test_reranked_hits_match_a_plain_loop(release: OpenRelease, candidates: int) -> None:
    plain = search(release, Query(text="red apple"), k=candidates).hits
    scored = {}
    for hit in plain:
        [score] = release.reranker.score_images("red apple", [open_stored(hit.thumbnail)], [hit.score])
        scored[hit.item_id] = float(score)
    found = search(release, Query(text="red apple"), k=4, rerank=candidates).hits
    assert [hit.item_id for hit in found] == sorted(scored, key=lambda item_id: -scored[item_id])[:4]
    assert [hit.rerank_score for hit in found] == pytest.approx([scored[hit.item_id] for hit in found], abs=1e-4)
    assert [hit.score for hit in found] == [
        next(each.score for each in plain if each.item_id == hit.item_id) for hit in found
    ]


def test_an_image_is_reranked_by_the_items_texts(release: OpenRelease) -> None:
    image = Image.open(io.BytesIO(publish_picture(release)))
    found = search(release, Query(image=image), k=3, rerank=10).hits
    for hit in found:
        assert hit.rerank_score == pytest.approx(
            max(float(release.reranker.score_texts(image.convert("RGB"), [text])[0]) for text in hit.texts), abs=1e-4
        )
    scores = [hit.rerank_score or 0 for hit in found]
    assert scores == sorted(scores, reverse=True)


def test_threads_rerank_and_embed_with_one_model_alike(release: OpenRelease) -> None:
    texts = ["red apple", "a grey fig that nobody has bitten into", "plum"]

    def ask(text: str) -> tuple[list[float | None], list[float]]:
        found = search(release, Query(text=text), k=5, rerank=10).hits
        return [hit.rerank_score for hit in found], release.encoder.embed_texts([text])[0].tolist()

    alone = {text: ask(text) for text in texts}
    with ThreadPoolExecutor(3) as pool:
        for text, found in zip(texts * 8, pool.map(ask, texts * 8), strict=True):
            assert found == alone[text]


def publish_picture(release: OpenRelease) -> bytes:
    row = release.dataset.to_table(columns=["thumbnail"]).slice(7, 1)
    content: bytes = row["thumbnail"][0].as_py()
    return content


def test_json_names_the_new_score_only_where_there_is_one(release: OpenRelease) -> None:
    plain = search(release, Query(text="red apple"), k=1).to_json()["hits"][0]
    again = search(release, Query(text="red apple"), k=1, rerank=1).to_json()["hits"][0]
    assert "rerank_score" not in plain
    assert list(again)[:3] == ["item_id", "score", "rerank_score"]
    assert {key: value for key, value in again.items() if key != "rerank_score"} == plain


@pytest.mark.parametrize(
    "query",
    [Query(like=NAMES[0]), Query(text="red", plus=("blue",)), Query(text="red", minus=("blue",)), Query(plus=("red",))],
)
def test_a_query_that_the_network_cannot_read_is_refused(release: OpenRelease, query: Query) -> None:
    with pytest.raises(ValueError, match="one text or one image"):
        search(release, query, rerank=10)


def test_a_model_without_a_cross_encoder_says_what_to_do(tmp_path: Path) -> None:
    publish(tmp_path)
    release = OpenRelease.open(tmp_path)
    with pytest.raises(ValueError, match=r"no cross-encoder .*loss: cross_encoder"):
        search(release, Query(text="red apple"), rerank=10)
    # Without loading its towers to find out.
    assert "_encoder" not in vars(release.model)


def test_heads_must_share_the_width() -> None:
    with pytest.raises(ValueError, match="width 30 is no multiple of heads 4"):
        CrossEncoderConfig(width=30)


def test_a_network_kept_before_there_were_own_towers_is_read(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_model(model)
    shared = SMALL.model_copy(update={"towers": "shared"})
    Objectives([shared], Setting(load(model), 0, 0)).save_kept(model)
    encoder, image = Encoder.load(model), [tiny_images()[0]]
    expected = Reranker.load(model, encoder).score_images("red", image, [0])
    file = model / "objectives" / "config.json"
    written = json.loads(file.read_text())
    for each in written.values():
        assert each.pop("towers") == "shared"
    file.write_text(json.dumps(written))
    assert Reranker.load(model, encoder).score_images("red", image, [0]) == expected


def test_a_cross_encoder_other_than_the_one_released_is_refused(release: OpenRelease, tmp_path: Path) -> None:
    shutil.copytree(release.folder, tmp_path / release.folder.name)
    folder = tmp_path / release.folder.name
    state = folder / "models" / MODEL_ID / "objectives" / "state.safetensors"
    *content, last = state.read_bytes()
    state.write_bytes(bytes([*content, last ^ 1]))
    with pytest.raises(DamagedError, match=r"release 1 is not whole: .*state.safetensors"):
        search(OpenRelease.open(folder), Query(text="red apple"), rerank=10)
