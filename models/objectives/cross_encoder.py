"""A cross-encoder, trained beside the dual encoder to tell its hardest negatives apart; `search --rerank` uses it."""

# B = batch, b = this rank's share of it, A = anchors, K = hard negatives an anchor, C = candidates (1 + K), M = pairs,
# V = images read, U = unique texts

import torch
import torch.nn.functional as F

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.clip import clip_loss
from pairloom.models.objectives.config import CrossEncoderConfig
from pairloom.models.objectives.pair_network import CrossEncoder


def build(config: CrossEncoderConfig, setting: Setting) -> Term:
    """The term with its network."""
    if setting.encoder.second:
        raise ValueError(
            "objective: cross_encoder reads the tokens of one image tower; leave it or model.second_image_tower out"
        )
    return CrossEncoderTerm(config, setting)


class CrossEncoderTerm(Term):
    """`ranking_loss` of some texts and images of a batch, each among its hard negatives; with towers of its own, the
    contrast of their embeddings too (the first loss of Li et al. 2021, ALBEF).

    Several ranks look for negatives in their own share of the batch each.
    """

    splits = True
    kept = ("network.",)

    def __init__(self, config: CrossEncoderConfig, setting: Setting) -> None:
        super().__init__()
        self.network = CrossEncoder(setting.encoder, config.width, config.heads, own_towers=config.towers == "own")
        self._anchors, self._negatives, self._seed = config.anchors, config.negatives, setting.seed

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """This rank's share of the loss."""
        ready, own = batch.ready, batch.own_rows
        similarity_bb = batch.sides["image"][own].detach() @ batch.sides["text"][own].detach().T
        count, first = len(similarity_bb), own.start or 0
        targets = ready.targets.of_rows(own, ready.count)
        positive_bb = torch.zeros_like(similarity_bb, dtype=torch.bool)
        columns_P = targets.columns_P - first
        inside_P = (columns_P >= 0) & (columns_P < count)
        positive_bb[targets.rows_P[inside_P] - first, columns_P[inside_P]] = True
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + ready.step) % 2**63)
        anchor_A = torch.randperm(count, generator=generator)[: self._anchors].to(similarity_bb.device)
        anchor_A1 = anchor_A[:, None]
        logits_bb = batch.logit_scale.detach() * similarity_bb
        noise_2Ab = gumbel((2, len(anchor_A), count), generator).to(similarity_bb.device)
        drawn = self._negatives
        image_AK, image_real_AK = likely_negatives(logits_bb.T[anchor_A] + noise_2Ab[0], positive_bb.T[anchor_A], drawn)
        text_AK, text_real_AK = likely_negatives(logits_bb[anchor_A] + noise_2Ab[1], positive_bb[anchor_A], drawn)
        # First the texts among images, then the images among texts.
        image_2AC = torch.stack([torch.cat([anchor_A1, image_AK], 1), anchor_A1.expand(-1, 1 + text_AK.shape[1])])
        text_2AC = torch.stack([anchor_A1.expand(-1, 1 + image_AK.shape[1]), torch.cat([anchor_A1, text_AK], 1)])
        read_V, image_M = torch.unique(image_2AC, return_inverse=True)
        images = self.network.read_images(ready.image_bCHW[read_V])
        texts = self.network.read_texts(ready.token_UL)
        score_M = self.network(images, texts, image_M.flatten(), ready.text_b[text_2AC.flatten()])
        loss = ranking_loss(score_M.view(-1, image_2AC.shape[2]), torch.cat([image_real_AK, text_real_AK]))
        if self.network.towers is not None:
            text_VD = texts.embedding_UD[ready.text_b[read_V]]
            evenly = even_targets(positive_bb[read_V][:, read_V])
            loss = loss + clip_loss(images.embedding_BD, text_VD, evenly, self.network.logit_scale)
        return loss * (count / ready.count)


def likely_negatives(
    logits_AB: torch.Tensor, positive_AB: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` non-positives (A, K) of the highest logits of each anchor, and which of these there really are.

    K is less than `count` where there are not as many candidates. Where `gumbel` noise was added, they are drawn
    without replacement with the probabilities that the logits' softmax gives them (Kool et al. 2019).
    """
    logits_AK, negative_AK = logits_AB.masked_fill(positive_AB, -torch.inf).topk(min(count, logits_AB.shape[1]), dim=1)
    return negative_AK, logits_AK > -torch.inf


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Noise of the standard Gumbel distribution."""
    return -torch.log(torch.empty(shape).exponential_(generator=generator))


def ranking_loss(score_AC: torch.Tensor, real_AK: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the first candidate of each anchor among all real ones (Nogueira and Cho 2019; Gao et al. 2021,
    Rethink Training of BERT Rerankers)."""
    masked_AC = torch.cat([score_AC[:, :1], score_AC[:, 1:].masked_fill(~real_AK, -torch.inf)], dim=1)
    return -F.log_softmax(masked_AC, dim=1)[:, 0].mean()


def even_targets(positive_RC: torch.Tensor) -> Targets:
    """Known positives, the target of each row and of each column spread evenly over them."""
    rows_P, columns_P = positive_RC.nonzero(as_tuple=True)
    row_weights_P, column_weights_P = 1 / positive_RC.sum(dim=1)[rows_P], 1 / positive_RC.sum(dim=0)[columns_P]
    return Targets(rows_P, columns_P, row_weights_P, column_weights_P)
