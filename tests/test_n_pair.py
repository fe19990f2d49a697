import math

import pytest
import torch
import torch.nn.functional as F
from embedded import GROUPS, are_related, embedded_batch

from pairloom.models.objectives.clip import clip_loss
from pairloom.models.objectives.comparison import comparisons
from pairloom.models.objectives.config import NPairConfig, TripletConfig
from pairloom.models.objectives.n_pair import NPairTerm, n_pair_loss
from pairloom.models.objectives.triplet import TripletTerm

B = len(GROUPS)


def test_the_loss_matches_nested_loops() -> None:
    batch = embedded_batch()
    image_BD, scale, anchors = batch.sides["image"], 1 / 0.3, []
    for a in range(B):
        negatives = [n for n in range(B) if not are_related(a, n)]
        positives = [p for p in range(B) if p != a and are_related(a, p)]
        each = [
            math.log1p(sum(math.exp(scale * float(image_BD[a] @ (image_BD[n] - image_BD[p]))) for n in negatives))
            for p in positives
        ]
        anchors += [sum(each) / len(each)] if each else []
    found = NPairTerm(NPairConfig(between="image_image", temperature=0.3))(batch)
    assert float(found) == pytest.approx(sum(anchors) / len(anchors), rel=1e-6)


def test_with_one_positive_it_equals_info_nce() -> None:
    batch = embedded_batch([str(number) for number in range(B)])
    image_BD, text_BD = batch.sides["image"], batch.sides["text"]
    ours = NPairTerm(NPairConfig())(batch)
    logits_BB = batch.logit_scale * image_BD @ text_BD.T
    info_nce = (F.cross_entropy(logits_BB, torch.arange(B)) + F.cross_entropy(logits_BB.T, torch.arange(B))) / 2
    torch.testing.assert_close(ours, info_nce)
    torch.testing.assert_close(ours, clip_loss(image_BD, text_BD, batch.ready.targets, batch.logit_scale))
    inputs = (image_BD, text_BD, batch.logit_scale)
    for one, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(info_nce, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_with_one_negative_it_is_the_smooth_triplet_loss_without_a_margin() -> None:
    # Of unit vectors, a difference of squared distances is twice that of cosines.
    batch = embedded_batch(["a", "a", "b"])
    n_pair = 0.2 * NPairTerm(NPairConfig(between="image_image", temperature=0.1))(batch)
    config = TripletConfig(between="image_image", margin=0, choose="all", temperature=0.2)
    torch.testing.assert_close(n_pair, TripletTerm(config, 0)(batch), rtol=1e-5, atol=1e-6)


def test_it_becomes_the_hardest_negatives_hinge_as_its_temperature_falls() -> None:
    batch = embedded_batch(["a", "a", "b", "c", "d", "e"])
    n_pair = 0.002 * NPairTerm(NPairConfig(between="image_image", temperature=0.001))(batch)
    hardest = TripletTerm(TripletConfig(between="image_image", margin=0, choose="hardest"), 0)(batch)
    torch.testing.assert_close(n_pair, hardest, rtol=0, atol=0.002 * math.log(6))


def test_an_anchor_without_negatives_costs_nothing() -> None:
    batch = embedded_batch(["a", "a"])
    (comparison,) = comparisons(NPairConfig(between="image_image"), batch)
    loss = n_pair_loss(comparison, batch.logit_scale)
    assert float(loss.detach()) == 0
    assert all(each.isfinite().all() for each in torch.autograd.grad(loss, [batch.sides["image"], batch.logit_scale]))
