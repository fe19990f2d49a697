import math

import open_clip
import torch
import torch.nn.functional as F
from scipy import sparse  # type: ignore[import-untyped]  # scipy has no types

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.clip import clip_loss


def embeddings(seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_one_positive_each_gives_open_clips_loss() -> None:
    image_BD, text_BD, scale = embeddings(0), embeddings(1), torch.tensor(7.0)
    torch.testing.assert_close(
        clip_loss(image_BD, text_BD, Targets.from_sparse(sparse.eye(6, format="csr")), scale),
        open_clip.ClipLoss()(image_BD, text_BD, scale),
    )


def test_several_positives_match_nested_loops() -> None:
    image_BD, text_BD, scale = embeddings(0), embeddings(1), 7.0
    positives_BB = torch.eye(6, dtype=torch.bool)
    positives_BB[0, 3] = positives_BB[3, 0] = positives_BB[1, 5] = True
    total = 0.0
    for anchors, others, mask in ((image_BD, text_BD, positives_BB), (text_BD, image_BD, positives_BB.T)):
        for i in range(6):
            logits = [scale * float(anchors[i] @ other) for other in others]
            normaliser = math.log(sum(math.exp(logit) for logit in logits))
            own = [j for j in range(6) if mask[i, j]]
            total += sum(normaliser - logits[j] for j in own) / len(own) / 12
    targets = Targets.from_sparse(sparse.csr_matrix(positives_BB.numpy()))
    torch.testing.assert_close(clip_loss(image_BD, text_BD, targets, torch.tensor(scale)), torch.tensor(total))
