import math

import pytest
import torch
import torch.nn.functional as F
from embedded import GROUPS, are_related, embedded_batch
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from test_log_sum_exp import LargestTensor

from pairloom.models.objectives.clip import clip_loss
from pairloom.models.objectives.comparison import Comparison
from pairloom.models.objectives.config import NtXentConfig, SupConConfig
from pairloom.models.objectives.nt_xent import NtXentTerm, nt_xent_loss

B = len(GROUPS)


@pytest.mark.parametrize("side", ["image", "text"])
def test_two_views_match_nested_loops_and_the_other_librarys_loss(side: str) -> None:
    batch = embedded_batch()
    view_AD = torch.cat([batch.sides[side], batch.sides[f"{side}_view"]])  # type: ignore[index]  # str, not Literal
    total = 0.0
    for a in range(2 * B):
        logits = [float(view_AD[a].detach() @ view_AD[b].detach()) / 0.2 for b in range(2 * B)]
        others = math.log(sum(math.exp(logits[b]) for b in range(2 * B) if b != a))
        total += (others - logits[(a + B) % (2 * B)]) / (2 * B)
    ours = NtXentTerm(NtXentConfig(between=f"{side}_{side}", temperature=0.2))(batch)
    assert float(ours) == pytest.approx(total, rel=1e-9)
    theirs = NTXentLoss(temperature=0.2, distance=DotProductSimilarity(normalize_embeddings=False))(
        view_AD, torch.arange(B).repeat(2)
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    inputs = batch.sides[side], batch.sides[f"{side}_view"]  # type: ignore[index]  # the same
    for one, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("positives", ["related", "related_views"])
def test_several_positives_match_nested_loops(positives: str) -> None:
    batch = embedded_batch()
    views = ["image", "image_view"][: 1 if positives == "related" else 2]
    view_AD = torch.cat([batch.sides[view] for view in views]).detach()  # type: ignore[index]  # str, not Literal
    losses = []
    for a in range(len(view_AD)):
        logits = [float(view_AD[a] @ other) / 0.2 for other in view_AD]
        others = math.log(sum(math.exp(logit) for b, logit in enumerate(logits) if b != a))
        own = [others - logit for b, logit in enumerate(logits) if b != a and are_related(a % B, b % B)]
        losses += [sum(own) / len(own)] if own else []
    ours = NtXentTerm(SupConConfig(positives=positives, temperature=0.2))(batch)
    assert float(ours) == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_with_labels_it_equals_the_other_librarys_supervised_loss() -> None:
    batch = embedded_batch()
    view_AD = torch.cat([batch.sides["image"], batch.sides["image_view"]])
    labels = torch.tensor([sorted(set(GROUPS)).index(group) for group in GROUPS]).repeat(2)
    ours = NtXentTerm(SupConConfig(temperature=0.3))(batch)
    assert float(ours) == pytest.approx(float(SupConLoss(temperature=0.3)(view_AD, labels)), rel=1e-6)


def test_between_images_and_texts_it_is_clips_loss() -> None:
    batch = embedded_batch()
    ours = NtXentTerm(NtXentConfig(between="image_text", positives="related", temperature=None))(batch)
    expected = clip_loss(batch.sides["image"], batch.sides["text"], batch.ready.targets, batch.logit_scale)
    torch.testing.assert_close(ours, expected)


def test_no_tensor_grows_with_the_square_of_the_batch() -> None:
    count = 3000
    row_A = torch.arange(count)
    embedding_AD = F.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    comparison = Comparison(embedding_AD, embedding_AD, row_A, (row_A + 1) % count, torch.ones(count), itself=True)
    with LargestTensor() as streamed:  # type: ignore[no-untyped-call]
        nt_xent_loss(comparison, torch.tensor(10.0)).backward()  # type: ignore[no-untyped-call]
    assert streamed.elements < count * count / 2
