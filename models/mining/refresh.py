"""Mines hard negatives again during a training, by what the model itself confuses by now."""

# N = items, T = unique texts, K = hard negatives an anchor, D = embedding

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from pairloom.models.arrays import Embeddings
from pairloom.models.batches.feed import TrainingItems, tower_input
from pairloom.models.encoder import mean_text_embeddings
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.negatives import batch_negatives, mine_negatives
from pairloom.models.ranks import Ranks
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.finetuning import training_mode

ROWS = 256


def mine_again(
    encoder: DualEncoder, items: TrainingItems, config: MiningConfig, seed: int, ranks: Ranks
) -> npt.NDArray[np.int32] | None:
    """Hard negatives (N, K) of all items by the encoder as it is; None on ranks that don't lead.

    The ranks share the embedding; the first one mines. Leaves the encoder in training mode.
    """
    encoder.network.eval()
    token_TL = encoder.tokenize(items.relations.texts)

    def images(rows: slice) -> torch.Tensor:
        second_B = None if items.second_N is None else torch.from_numpy(items.second_N[rows])
        return encoder.encode_images(tower_input(items.pixels[rows], encoder), second_B)

    def texts(rows: slice) -> torch.Tensor:
        return encoder.encode_texts(encoder.trim(token_TL[rows]))

    with torch.no_grad():
        image_ND = _embedded(images, len(items.item_ids), ranks)
        text_TD = _embedded(texts, len(items.relations.texts), ranks)
    training_mode(encoder)
    if not ranks.leads:
        return None
    text_ND = mean_text_embeddings(text_TD, items.relations.item_texts)
    return batch_negatives(mine_negatives(image_ND, text_ND, items.relations, config, seed=seed))


def _embedded(encode: Callable[[slice], torch.Tensor], count: int, ranks: Ranks) -> Embeddings:
    """All rows' embeddings, each made by the rank that owns the row."""
    own = ranks.own(count)
    blocks = [encode(slice(start, min(start + ROWS, own.stop))) for start in range(own.start, own.stop, ROWS)]
    embedding_ND: Embeddings = ranks.gather(torch.cat(blocks), count).float().cpu().numpy()
    return embedding_ND
