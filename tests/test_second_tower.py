import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lancedb
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from test_cli import document, error
from tiny import tiny_architecture, tiny_encoder, tiny_images, tiny_items, tiny_texts

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.models.batches.feed import BatchSource, ReadyBatch, TrainingItems
from pairloom.models.batches.pixels import normalize_pixels
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.encoder import Encoder
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.refresh import mine_again
from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.clip import clip_loss
from pairloom.models.objectives.config import ClipConfig, SupConConfig
from pairloom.models.objectives.nt_xent import NtXentTerm
from pairloom.models.ranks import Ranks
from pairloom.models.towers.config import LoraConfig, ModelConfig, SecondImageTowerConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.finetuning import finish, parameter_groups, prepare
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.micro_batches import MicroBatches
from pairloom.models.training.trainer import Recipe, TrainingResult, train
from pairloom.search.query import Query, item_vector, search
from pairloom.search.release import OpenRelease
from pairloom.storage.modelstore import ModelStore, model_digest

ODD = SecondImageTowerConfig(column="copy", values=("1",))
OTHER = ODD.model_copy(update={"seed": 7})
SECOND_N = ODD.takes([number % 2 for number in range(32)])
STEPS = TrainingConfig(max_minutes=None, max_steps=6, batch_size=12, threads=1, checkpoint_seconds=1e-6)
ACROSS = SupConConfig(positives="related", temperature=None, across_towers=True)


def two_towers(folder: Path, second: SecondImageTowerConfig = OTHER) -> DualEncoder:
    texts = [text for own in tiny_texts() for text in own]
    return create(ModelConfig(architecture=tiny_architecture(folder), second_image_tower=second), texts, seed=0)


def two_sided_items(folder: Path, encoder: DualEncoder) -> TrainingItems:
    return replace(tiny_items(folder, encoder), second_N=SECOND_N)


def pixels(encoder: DualEncoder, folder: Path) -> torch.Tensor:
    return normalize_pixels(np.asarray(tiny_items(folder, encoder).pixels), encoder.preprocess_cfg)


def by_hand(encoder: DualEncoder, image_BCHW: torch.Tensor) -> torch.Tensor:
    """Each image of the collection by itself, through the tower that is its own."""
    towers = encoder.image_towers
    found = []
    for number, image_CHW in enumerate(image_BCHW):
        tower = towers["second.visual." if number % 2 else "visual."]
        found.append(torch.nn.functional.normalize(tower(image_CHW[None]), dim=1)[0])
    return torch.stack(found)


def test_the_towers_share_no_storage_and_start_alike_or_apart(tmp_path: Path) -> None:
    copied, apart, one = two_towers(tmp_path, ODD), two_towers(tmp_path), tiny_encoder(tmp_path)
    for encoder, alike in ((copied, True), (apart, False)):
        first, second = (dict(tower.named_parameters()) for tower in encoder.image_towers.values())
        assert first.keys() == second.keys()
        assert not {each.data_ptr() for each in first.values()} & {each.data_ptr() for each in second.values()}
        assert torch.equal(first["proj"], second["proj"]) == alike
        assert torch.equal(first["proj"], one.network.state_dict()["visual.proj"])
    assert len(one.image_towers) == 1
    assert not any("second" in name for name in one.network.state_dict())


def test_each_row_is_embedded_by_its_own_tower(tmp_path: Path) -> None:
    encoder = two_towers(tmp_path)
    image_BCHW, second_B = pixels(encoder, tmp_path), torch.from_numpy(SECOND_N)
    with torch.no_grad():
        expected_BD = by_hand(encoder, image_BCHW)
        torch.testing.assert_close(encoder.encode_images(image_BCHW, second_B), expected_BD)
        first_BD = encoder.encode_images(image_BCHW)
        torch.testing.assert_close(first_BD[::2], expected_BD[::2])
        torch.testing.assert_close(encoder.encode_images(image_BCHW, torch.zeros(32, dtype=torch.bool)), first_BD)
        second_BD = encoder.encode_images(image_BCHW, torch.ones(32, dtype=torch.bool))
        torch.testing.assert_close(second_BD[1::2], expected_BD[1::2])
    loaded = Encoder(encoder)
    torch.testing.assert_close(
        torch.from_numpy(loaded.embed_images(tiny_images(), SECOND_N, batch_size=5)), expected_BD
    )
    batches = [tiny_images()[:7], tiny_images()[7:]]
    torch.testing.assert_close(torch.from_numpy(loaded.embed_batches(batches, SECOND_N)), expected_BD)


def test_gradients_reach_each_tower_from_its_own_items_only(tmp_path: Path) -> None:
    encoder = two_towers(tmp_path)
    image_BCHW, weight_BD = pixels(encoder, tmp_path), torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    second_B = torch.from_numpy(SECOND_N)
    for side, prefix in ((False, "visual."), (True, "second.visual.")):
        encoder.network.zero_grad()
        own_B = (second_B == side).float()[:, None]
        (encoder.encode_images(image_BCHW, second_B) * weight_BD * own_B).sum().backward()  # type: ignore[no-untyped-call]
        found = {name: each.grad for name, each in encoder.network.named_parameters() if each.grad is not None}
        assert {name for name, grad in found.items() if grad.any()} <= {
            name for name in found if name.startswith(prefix)
        }
        found = {name: grad.clone() for name, grad in found.items() if name.startswith(prefix)}
        encoder.network.zero_grad()
        (by_hand(encoder, image_BCHW) * weight_BD * own_B).sum().backward()  # type: ignore[no-untyped-call]
        for name, grad in found.items():
            torch.testing.assert_close(grad, encoder.network.get_parameter(name).grad, rtol=1e-4, atol=1e-5)
    encoder.network.zero_grad()
    encoder.encode_images(image_BCHW[::2], second_B[::2]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is None for each in encoder.image_towers["second.visual."].parameters())


def test_a_saved_model_embeds_as_before_and_open_clip_reads_its_first_tower(tmp_path: Path) -> None:
    encoder = two_towers(tmp_path)
    encoder.save(tmp_path / "a")
    load(tmp_path / "a").save(tmp_path / "b")
    files = [
        {file.relative_to(tmp_path / name).as_posix(): file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in "ab"
    ]
    assert files[0] == files[1]
    assert {"second_image_tower/items.json", "second_image_tower/image_tower.safetensors"} < files[0].keys()
    before, after = Encoder(encoder), Encoder.load(tmp_path / "a")
    assert (after.embed_images(tiny_images(), SECOND_N) == before.embed_images(tiny_images(), SECOND_N)).all()
    assert after.second == ODD
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'a'}")
    with torch.no_grad():
        image_1D = network.encode_image(preprocess(tiny_images()[0]).unsqueeze(0), normalize=True).numpy()
    np.testing.assert_allclose(after.embed_images(tiny_images()[:1]), image_1D, atol=1e-6)
    digest = model_digest(tmp_path / "a")
    items = tmp_path / "a" / "second_image_tower" / "items.json"
    items.write_text(items.read_text().replace('"1"', '"2"'))
    assert model_digest(tmp_path / "a") != digest
    items.unlink()
    with pytest.raises(ValueError, match=r"second_image_tower: no items\.json"):
        load(tmp_path / "a")


def test_an_openclip_directory_brings_its_second_tower(tmp_path: Path) -> None:
    encoder = two_towers(tmp_path)
    encoder.save(tmp_path / "model")
    name = f"local-dir:{tmp_path / 'model'}"
    for wanted, values in ((None, ("1",)), (ODD.model_copy(update={"values": ("0",)}), ("0",))):
        again = create(ModelConfig(architecture=name, second_image_tower=wanted), [], seed=3)
        assert again.second is not None
        assert again.second.values == values
        for name_, tensor in encoder.network.state_dict().items():
            assert torch.equal(again.network.state_dict()[name_], tensor)


def test_values_are_compared_as_text() -> None:
    tower = SecondImageTowerConfig(column="any", values=("3", "true", "icon"))
    values = [3, 3.5, True, False, "icon", None, ["photo", "icon"], ["photo"], [], "Icon"]
    assert tower.takes(values).tolist() == [True, False, True, False, True, False, True, False, False, False]


def batch_of(encoder: DualEncoder, folder: Path, ranks: Ranks | None = None) -> ReadyBatch:
    items = two_sided_items(folder, encoder)
    plan = BatchPlan(items.relations.item_texts, None, 20, 0.0, seed=1)
    tokens = encoder.tokenize(items.relations.texts)
    wants = frozenset({"image", "text", "item_targets"})
    return BatchSource(items, plan, encoder, tokens, None, ranks or Ranks(), wants).batch(3)


def test_the_rows_of_a_batch_know_their_tower_on_any_number_of_ranks(tmp_path: Path) -> None:
    encoder = two_towers(tmp_path)
    whole, shares = batch_of(encoder, tmp_path), [batch_of(encoder, tmp_path, Ranks(rank, 3)) for rank in range(3)]
    assert whole.second_B is not None
    assert (whole.second_B.numpy() == SECOND_N[whole.items_B.numpy()]).all()
    assert torch.equal(torch.cat([share.second_b for share in shares if share.second_b is not None]), whole.second_B)
    assert all(share.second_B is not None and torch.equal(share.second_B, whole.second_B) for share in shares)


def test_parts_add_up_to_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    encoder = two_towers(tmp_path)
    batch = batch_of(encoder, tmp_path)
    term = NtXentTerm(ACROSS)

    def gradients(rows: int | None) -> dict[str, torch.Tensor]:
        encoder.network.zero_grad()
        towers = MicroBatches(encoder, rows, half=False, seed=(0,))
        sides, scale = towers.embed(batch), encoder.network.get_parameter("logit_scale").exp()
        loss = clip_loss(sides["image"], sides["text"], batch.targets, scale) + term(EmbeddedBatch(batch, sides, scale))
        towers.backward(loss)
        return {name: each.grad.clone() for name, each in encoder.network.named_parameters() if each.grad is not None}

    whole = gradients(None)
    assert whole.keys() == dict(encoder.network.named_parameters()).keys()
    for rows in (1, 7):
        for name, found in gradients(rows).items():
            assert (found - whole[name]).norm() / whole[name].norm().clamp_min(1e-12) < 1e-4, (name, rows)


def test_negatives_are_mined_again_by_both_towers(tmp_path: Path) -> None:
    encoder = two_towers(tmp_path)
    items, config = two_sided_items(tmp_path, encoder), MiningConfig(refresh_every=1)
    mined_NK = mine_again(encoder, items, config, 0, Ranks())
    alone_NK = mine_again(encoder, replace(items, second_N=None), config, 0, Ranks())
    assert not np.array_equal(mined_NK, alone_NK)


class Interrupted(SupConConfig):
    """Fails at a step."""

    def build(self, setting: Setting) -> Term:
        del setting

        class Failing(NtXentTerm):
            def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
                if batch.ready.step == 4:
                    raise RuntimeError("struck down")
                return super().forward(batch)

        return Failing(self)


def trained(folder: Path, name: str, objective: SupConConfig = ACROSS, **changes: object) -> TrainingResult:
    start, config = two_towers(folder), STEPS.model_copy(update=changes)
    recipe = Recipe(config, [ClipConfig(), objective], ModelConfig(second_image_tower=OTHER))
    return train(start, two_sided_items(folder, start), recipe, workdir=folder / name)


def test_a_training_that_was_cut_ends_bit_identical_and_both_towers_learn(tmp_path: Path) -> None:
    whole = trained(tmp_path, "whole")
    with pytest.raises(RuntimeError, match="struck down"):
        trained(tmp_path, "cut", Interrupted.model_validate(ACROSS.model_dump()))
    resumed = trained(tmp_path, "cut")
    assert 0 < resumed.resumed_from_step <= 4
    before = two_towers(tmp_path).network.state_dict()
    for name, tensor in whole.encoder.network.state_dict().items():
        assert torch.equal(tensor, resumed.encoder.network.state_dict()[name]), name
        assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(lock_image=True, unlocked_image_groups=1),
        ModelConfig(layer_decay=0.5, patch_dropout=0.5, channels_last=True),
        ModelConfig(lora=LoraConfig(targets=("visual.transformer.resblocks.0.mlp.c_fc",))),
    ],
    ids=["locked", "decayed", "adapted"],
)
def test_what_is_said_of_the_image_tower_is_said_of_both(config: ModelConfig, tmp_path: Path) -> None:
    if config.lora:
        pytest.importorskip("peft")
    encoder = two_towers(tmp_path)
    before = {name: tensor.clone() for name, tensor in encoder.network.state_dict().items()}
    prepare(encoder, config, seed=0)
    groups = parameter_groups(encoder, config, learning_rate=0.01, weight_decay=0.0)
    names = {id(each): name for name, each in encoder.network.named_parameters()}
    rates = {names[id(each)]: group["lr_scale"] for group in groups for each in group["params"]}
    image_BCHW, second_B = pixels(encoder, tmp_path), torch.from_numpy(SECOND_N)
    optimizer = torch.optim.AdamW(groups, fused=True)
    encoder.encode_images(image_BCHW, second_B)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    embedded_BD = encoder.encode_images(image_BCHW, second_B) if not config.patch_dropout else None
    finish(encoder, config)
    moved = {name for name, tensor in encoder.network.state_dict().items() if not torch.equal(tensor, before[name])}
    first, second = ({name for name in moved if name.startswith(prefix)} for prefix in encoder.image_towers)
    assert moved == first | second
    assert first
    assert {f"second.{name}" for name in first} == second
    assert all(rates[f"second.{name}"] == rate for name, rate in rates.items() if name.startswith("visual."))
    assert encoder.network.state_dict().keys() == before.keys()
    if embedded_BD is not None:
        torch.testing.assert_close(encoder.encode_images(image_BCHW, second_B), embedded_BD, atol=1e-6, rtol=0)


def test_a_tower_that_no_item_takes_is_refused(tmp_path: Path) -> None:
    start = two_towers(tmp_path)
    for taken, said in ((0, "none has"), (32, "all have")):
        items = replace(tiny_items(tmp_path, start), second_N=np.arange(32) < taken)
        with pytest.raises(ValueError, match=f"of 32 training items {said} one of the values '1' in 'copy'"):
            train(start, items, Recipe(STEPS), workdir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"set model\.second_image_tower"):
        ACROSS.build(Setting(tiny_encoder(tmp_path), 32, 0))


@pytest.fixture(scope="module")
def night(
    tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: Callable[..., Path]
) -> tuple[Path, OpenRelease]:
    """A night of large and small shapes with a tower for each, and its release."""
    folder = tmp_path_factory.mktemp("pseudo")
    model = {"architecture": "tiny-32", "second_image_tower": {"column": "size", "values": ["40"], "seed": 5}}
    file = write_pipelines(
        folder,
        shapes,
        model=model,
        objective=[{"loss": "clip"}, ACROSS.model_dump()],
        evaluation={"slices": ["size"], "probes": ["colour"]},
    )
    assert nightly(load_pipeline(file)).outcome == "released"
    return file, OpenRelease.open(load_pipeline(file).folder)


def picture(shapes: Path, name: str) -> Image.Image:
    image = Image.open(shapes / f"{name}.png").convert("RGB")
    image.thumbnail((64, 64), Image.Resampling.LANCZOS)
    return image


def test_a_night_embeds_each_item_by_its_tower(night: tuple[Path, OpenRelease], shapes: Path) -> None:
    _, release = night
    for name, second in (("large-red-circle", True), ("small-red-circle", False)):
        own, other = (
            release.encoder.embed_images([picture(shapes, name)], np.array([taken]))[0]
            for taken in (second, not second)
        )
        np.testing.assert_allclose(item_vector(release, name), own, atol=1e-3)
        assert np.abs(own - other).max() > 0.05
    folder = ModelStore(release.folder).path(release.record.model_id)
    assert model_digest(folder) == release.record.model_id
    assert "items whose size is one of 40" in (folder / "README.md").read_text(encoding="utf-8")
    assert any("second_image_tower/image_tower" in name for name in release.record.files)


def test_a_query_image_is_taken_as_one_of_a_tower(night: tuple[Path, OpenRelease], shapes: Path) -> None:
    file, release = night
    path = shapes / "large-red-circle.png"
    (best,) = search(release, Query(image=path, image_as="40"), k=1).hits
    assert (best.item_id, best.score > 0.99) == ("large-red-circle", True)
    small = search(release, Query(image=shapes / "small-red-circle.png"), k=1).hits[0]
    assert (small.item_id, small.score > 0.99) == ("small-red-circle", True)
    told = document("search", "--image", str(path), "--as", "40", "-k", "1", "--file", str(file))
    assert told["hits"][0]["item_id"] == "large-red-circle"
    assert "no item's size is '41'; there are 20, 40" in error(
        2, "search", "--image", str(path), "--as", "41", "--file", str(file)
    )
    assert "no image to take as '40'" in error(2, "search", "red", "--as", "40", "--file", str(file))


def test_plain_lancedb_finds_the_same_by_text(night: tuple[Path, OpenRelease]) -> None:
    _, release = night
    ours = [hit.item_id for hit in search(release, Query(text="a large red circle"), k=10).hits]
    table = lancedb.connect(release.folder / "vectors").open_table(release.record.model_id)
    table.checkout(release.record.table_version)
    theirs = table.search("a large red circle").distance_type("cosine").limit(10).to_list()
    assert [row["item_id"] for row in theirs] == ours


def test_the_champion_scores_as_in_its_night_and_needs_the_column(
    night: tuple[Path, OpenRelease], shapes: Path
) -> None:
    file, release = night
    data = ("--data", str(shapes / "captions.jsonl"), "--split", "val")
    model = ModelStore(release.folder).path(release.record.model_id)
    scores = document("evaluate", "--model", str(model), *data, "--file", str(file), "-p", "shapes")
    assert scores["metrics"] | scores["probes"] == pytest.approx(release.record.metrics)
    said = error(2, "evaluate", "--model", str(model), *data[:2])
    assert "'size', which is no column of the corpus: add it to columns.keep (--set columns.keep.size=string)" in said


def test_a_column_that_is_not_kept_is_refused_before_the_night(night: tuple[Path, OpenRelease]) -> None:
    said = r"model: second_image_tower\.column: the items have no 'artist'; add it to columns\.keep"
    with pytest.raises(ValueError, match=said):
        load_pipeline(night[0], overrides=["model.second_image_tower.column=artist"])
    for column in ("source", "colour"):
        load_pipeline(night[0], overrides=[f"model.second_image_tower.column={column}"])


def test_other_items_for_the_second_tower_start_anew(night: tuple[Path, OpenRelease]) -> None:
    from pairloom.tasks.decide import decide, snapshot_ref
    from pairloom.tasks.training.champion import fitting_champion

    file, release = night
    for change, fits in (
        ((), True),
        (("model.second_image_tower.values=['20']",), False),
        (
            ("model.second_image_tower=null", "objective=[{loss: clip}]"),
            False,
        ),
    ):
        pipeline = load_pipeline(file, overrides=change)
        plan = decide(pipeline, snapshot_ref(pipeline))
        champion = ModelStore(release.folder).path(release.record.model_id)
        assert fitting_champion(pipeline, plan.champion_model) == (champion if fits else None)
        assert plan.action == ("nothing" if fits else "retrain")
    made = json.loads((champion / "pairloom.json").read_bytes())
    assert made["model"]["second_image_tower"]["values"] == ["40"]
