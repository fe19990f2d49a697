"""Momentum contrast: negatives from a queue of past embeddings, made by towers that follow the trained ones slowly."""

# N = items, T = unique texts, B = batch, b = this rank's share of it, D = embedding, K = queue, C = candidates (B + K)

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from pairloom.models.arrays import Indices, Mask
from pairloom.models.batches.config import Side
from pairloom.models.batches.feed import ReadyBatch
from pairloom.models.batches.relations import Relations
from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.config import DIRECTIONS, Key, MomentumConfig
from pairloom.models.objectives.log_sum_exp import single
from pairloom.models.ranks import Ranks

ROWS = 256
"""Images, or texts, that pass through a momentum tower at once."""


def build(config: MomentumConfig, setting: Setting) -> Term:
    """The term with its towers and queues."""
    return MomentumTerm(config, setting)


class MomentumTerm(Term):
    """Momentum towers, their queues, and the loss against both (He et al. 2020)."""

    splits = True
    items_K: torch.Tensor
    """Whose each place of the queues is, as row numbers of the items; -1 for none yet."""
    texts_K: torch.Tensor
    """Which text, as row numbers of the unique texts."""
    place: torch.Tensor
    """Where in the queues the next batch goes."""

    def __init__(self, config: MomentumConfig, setting: Setting) -> None:
        super().__init__()
        self._config, self._setting = config, setting
        self.network = copy.deepcopy(setting.encoder.network).requires_grad_(False).eval()
        self._encoder = replace(setting.encoder, network=self.network)
        self._directions = [each for contrast in config.contrasts for each in DIRECTIONS[contrast]]
        self._keys = sorted({key for _, key in self._directions})
        for key in self._keys:
            self.register_buffer(f"{key}_KD", torch.zeros(config.queue, setting.dimension))
        for name in ("items_K", "texts_K"):
            self.register_buffer(name, torch.full((config.queue,), -1))
        self.register_buffer("place", torch.tensor(0))
        self._fresh: dict[Key, torch.Tensor] = {}

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """This rank's share of the loss."""
        ready, own = batch.ready, batch.own_rows
        self._fresh = self._embed(ready)
        scale = batch.logit_scale
        if self._config.temperature is not None:
            scale = scale.new_tensor(1 / self._config.temperature)
        losses = []
        for query, key in self._directions:
            candidate_CD = torch.cat([self._fresh[key], self.get_buffer(f"{key}_KD")])
            loss_b = queue_losses(
                batch.sides[query][own],
                candidate_CD,
                _targets(ready, query, key).of_rows(own, ready.count),
                own.start,
                torch.from_numpy(self._left_out(ready, query, key, own)).to(candidate_CD.device),
                scale,
            )
            losses.append(loss_b.sum() / ready.count)
        return torch.stack(losses).mean()

    def after_step(self, batch: EmbeddedBatch) -> None:
        """The momentum towers follow, and the batch's keys enter the queues in place of the oldest."""
        follow(self.network, self._setting.encoder.network, self._config.momentum)
        length, ready = len(self.items_K), batch.ready
        if length == 0:
            return
        assert ready.texts_B is not None
        entered = slice(max(ready.count - length, 0), ready.count)
        places = (self.place + torch.arange(entered.stop - entered.start, device=self.place.device)) % length
        for key in self._keys:
            self.get_buffer(f"{key}_KD")[places] = self._fresh[key][entered]
        self.items_K[places] = ready.items_B[entered]
        self.texts_K[places] = ready.texts_B[entered]
        self.place.copy_((self.place + len(places)) % length)

    @torch.no_grad()
    def _embed(self, ready: ReadyBatch) -> dict[Key, torch.Tensor]:
        """(B, D) of each kind of key that is asked for, of all ranks."""
        ranks: Ranks = self._setting.ranks
        found: dict[Key, torch.Tensor] = {}
        with torch.autocast(self._encoder.device.type, torch.bfloat16, enabled=self._setting.half):
            if "image" in self._keys:
                images = torch.split(ready.image_bCHW, ROWS)
                seconds = [None] * len(images) if ready.second_b is None else torch.split(ready.second_b, ROWS)
                parts = [self._encoder.encode_images(*part) for part in zip(images, seconds, strict=True)]
                found["image"] = torch.cat(parts)
            if "text" in self._keys:
                parts = [self._encoder.encode_texts(part) for part in torch.split(ready.token_UL, ROWS)]
                found["text"] = torch.cat(parts)[ready.text_b]
        return {key: ranks.gather(single(own_bD), ready.count) for key, own_bD in found.items()}

    def _left_out(self, ready: ReadyBatch, query: Side, key: Key, own: slice) -> Mask:
        """(b, K): which places of the queue are empty, or hold a known positive of the query."""
        relations = self._setting.relations
        assert relations is not None, "the trainer knows them"
        assert ready.texts_B is not None
        items_K, texts_K = self.items_K.cpu().numpy(), self.texts_K.cpu().numpy()
        filled = items_K >= 0
        left_bK = np.ones((own.stop - own.start, len(items_K)), dtype=bool)
        items_b, texts_b = ready.items_B[own].cpu().numpy(), ready.texts_B[own].cpu().numpy()
        queries, keys = Rows(items_b, texts_b), Rows(items_K[filled], texts_K[filled])
        left_bK[:, filled] = known_positives(relations, query, key, queries, keys)
        return left_bK


@dataclass(frozen=True)
class Rows:
    """Whose some embeddings are."""

    items: Indices
    """Row numbers among the N items."""
    texts: Indices
    """Row numbers among the T texts: the one that was drawn of each item."""


def known_positives(relations: Relations, query: Side, key: Key, queries: Rows, keys: Rows) -> Mask:
    """(R, C): is the key's image or text a known positive of the query's?"""
    if (query, key) == ("image", "text"):
        return relations.text_mask(queries.items, keys.texts)
    if (query, key) == ("text", "image"):
        mask_RC: Mask = relations.text_mask(keys.items, queries.texts).T
        return mask_RC
    return relations.positive_mask(queries.items, keys.items)


def queue_losses(
    query_bD: torch.Tensor,
    candidate_CD: torch.Tensor,
    targets: Targets,
    first: int,
    left_out_bK: torch.Tensor,
    logit_scale: torch.Tensor,
) -> torch.Tensor:
    """(b,): InfoNCE of each query against B keys of its batch and K of the queue, C in all, without those left out.

    `targets` are the queries' positives among the batch's keys, by rows that count from `first`. As in `clip_loss`, a
    query's target is spread over them by weight. Memory grows with b · C.
    """
    logits_bC = logit_scale * query_bD @ candidate_CD.T
    batch_size = len(candidate_CD) - left_out_bK.shape[1]
    queue_bK = logits_bC[:, batch_size:].masked_fill(left_out_bK, -torch.inf)
    normaliser_b = torch.cat([logits_bC[:, :batch_size], queue_bK], dim=1).logsumexp(dim=1)
    rows_P = targets.rows_P - first
    positive_P = targets.row_weights_P * logits_bC[rows_P, targets.columns_P]
    return normaliser_b.index_add(0, rows_P, -positive_P)


def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Moves the slow network's weights towards the fast one's; what isn't trained, such as running means, is copied."""
    weights, trained = dict(slow.named_parameters()), dict(fast.named_parameters())
    if weights.keys() != trained.keys():
        raise ValueError(
            "objective: momentum follows the towers' own weights, and model.lora trains adapters instead; "
            "leave one of the two out"
        )
    torch._foreach_lerp_(list(weights.values()), [trained[name] for name in weights], 1 - momentum)
    for kept, current in zip(slow.buffers(), fast.buffers(), strict=True):
        kept.copy_(current)


def _targets(ready: ReadyBatch, query: Side, key: Key) -> Targets:
    """The queries' positives among the batch's keys, a row a query."""
    if (query, key) == ("image", "text"):
        return ready.targets
    if (query, key) == ("text", "image"):
        return ready.targets.transposed
    assert ready.item_targets is not None, "the batch source was asked for them"
    return ready.item_targets
