import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from embedded import embedded_batch
from open_clip.loss import SigLipLoss
from scipy import sparse  # type: ignore[import-untyped]  # scipy has no types
from test_log_sum_exp import LargestTensor, embeddings, positives
from tiny import tiny_encoder, tiny_items

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import Setting
from pairloom.models.objectives.config import SiglipConfig
from pairloom.models.objectives.kept import read_kept
from pairloom.models.objectives.siglip import SiglipTerm, siglip_loss
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, TrainingResult, train

STEPS = TrainingConfig(max_minutes=None, max_steps=4, batch_size=16, threads=1)


def scale_and_bias() -> tuple[torch.Tensor, torch.Tensor]:
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (8.0, -4.0))
    return scale, bias


def dense_siglip_loss(
    image_BD: torch.Tensor, text_BD: torch.Tensor, mask_BB: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    logits_BB = scale * image_BD @ text_BD.T + bias
    return -F.logsigmoid(torch.where(mask_BB, logits_BB, -logits_BB)).sum() / len(image_BD)


def test_one_positive_each_gives_open_clips_loss() -> None:
    image_BD, text_BD = embeddings(9, 0), embeddings(9, 1)
    scale, bias = scale_and_bias()
    targets = Targets.from_sparse(sparse.eye(9, format="csr"))
    expected = SigLipLoss()(image_BD, text_BD, scale, bias)
    torch.testing.assert_close(siglip_loss(image_BD, text_BD, targets, (scale, bias)), expected)


def test_several_positives_match_nested_loops() -> None:
    image_BD, text_BD = embeddings(8, 0), embeddings(8, 1)
    scale, bias = scale_and_bias()
    mask = positives(8).toarray() > 0
    total = 0.0
    for i in range(8):
        for j in range(8):
            logit = float((scale * (image_BD[i] @ text_BD[j]) + bias).detach())
            total += math.log(1 + math.exp(-logit if mask[i, j] else logit)) / 8
    found = siglip_loss(image_BD, text_BD, Targets.from_sparse(positives(8)), (scale, bias))
    assert found.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("block", [1, 30, 10_000])
def test_value_and_gradients_equal_the_full_matrix(block: int) -> None:
    image_BD, text_BD = embeddings(13, 0), embeddings(13, 1)
    scale, bias = scale_and_bias()
    dense = dense_siglip_loss(image_BD, text_BD, torch.from_numpy(positives(13).toarray() > 0), scale, bias)
    blocked = siglip_loss(image_BD, text_BD, Targets.from_sparse(positives(13)), (scale, bias), block=block)
    torch.testing.assert_close(blocked, dense, rtol=1e-12, atol=1e-12)
    inputs = (image_BD, text_BD, scale, bias)
    for ours, theirs in zip(torch.autograd.grad(blocked, inputs), torch.autograd.grad(dense, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_ranks_shares_add_up_to_the_whole() -> None:
    image_BD, text_BD = embeddings(13, 0), embeddings(13, 1)
    scale, bias = scale_and_bias()
    targets = Targets.from_sparse(positives(13))
    whole = siglip_loss(image_BD, text_BD, targets, (scale, bias))
    owned = [slice(0, 4), slice(4, 9), slice(9, 13)]
    shares = torch.stack([siglip_loss(image_BD, text_BD, targets, (scale, bias), own) for own in owned]).sum()
    torch.testing.assert_close(shares, whole)
    inputs = (image_BD, text_BD, scale, bias)
    for ours, theirs in zip(torch.autograd.grad(shares, inputs), torch.autograd.grad(whole, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_tensor_grows_with_the_square_of_the_batch() -> None:
    count, block = 600, 1 << 14
    image_BD, text_BD = embeddings(count, 0, torch.float32), embeddings(count, 1, torch.float32)
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    targets = Targets.from_sparse(sparse.eye(count, format="csr"))
    with LargestTensor() as blocked:  # type: ignore[no-untyped-call]
        siglip_loss(image_BD, text_BD, targets, (scale, bias), block=block).backward()  # type: ignore[no-untyped-call]
    with LargestTensor() as dense:  # type: ignore[no-untyped-call]
        dense_siglip_loss(image_BD, text_BD, torch.eye(count).bool(), scale, bias).backward()  # type: ignore[no-untyped-call]
    assert dense.elements >= count * count
    assert blocked.elements <= 2 * max(block, 64 * count) < count * count


def trained(folder: Path, start: DualEncoder, champion: Path | None = None) -> TrainingResult:
    recipe = Recipe(STEPS, [SiglipConfig()], champion=champion)
    return train(start, tiny_items(folder, start), recipe, workdir=folder / f"run-{champion}".replace("/", "-"))


def test_scale_and_bias_start_as_published_and_stay_beside_the_model(tmp_path: Path) -> None:
    term = SiglipConfig().build(Setting(tiny_encoder(tmp_path), 32, 0))
    assert {name: float(value) for name, value in term.state_dict().items()} == pytest.approx(
        {"logit_scale": math.log(10), "logit_bias": -10}
    )
    result = trained(tmp_path, tiny_encoder(tmp_path))
    result.objectives.save_kept(tmp_path / "model")
    kept = read_kept(tmp_path / "model")
    assert set(kept) == {"siglip.logit_scale", "siglip.logit_bias"}
    assert float(kept["siglip.logit_bias"]) not in (-10, 0)
    result.objectives.terms["siglip"].load_state_dict(term.state_dict())
    result.objectives.load_kept(tmp_path / "model")
    assert torch.equal(result.objectives.terms["siglip"].state_dict()["logit_bias"], kept["siglip.logit_bias"])


def test_a_network_with_a_bias_trains_its_own(tmp_path: Path) -> None:
    start = tiny_encoder(tmp_path)
    start.network.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    before = start.network.logit_scale.detach().clone()  # type: ignore[operator]  # torch types modules' attributes loosely
    result = trained(tmp_path, start)
    assert not list(result.objectives.parameters())
    assert float(start.network.logit_bias) != -10
    assert not torch.equal(start.network.logit_scale.detach(), before)  # type: ignore[operator]  # the same


def test_the_scale_stays_below_a_hundred() -> None:
    term = SiglipTerm(own=True)
    with torch.no_grad():
        term.logit_scale.fill_(9)
        term.after_step(embedded_batch())
    assert float(term.logit_scale.exp()) == pytest.approx(100)
