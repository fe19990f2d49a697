"""Mines hard negatives again during a training, by what the model itself confuses by now."""

# N = items, T = unique texts, K = hard negatives an anchor, D = embedding, Q = queries, C = neighbours of each

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from pairloom.models.arrays import Embeddings, Indices
from pairloom.models.batches.feed import TrainingItems, tower_input
from pairloom.models.encoder import mean_text_embeddings
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lists import Search, Searcher, neighbour_lists
from pairloom.models.mining.negatives import batch_negatives, mine_negatives
from pairloom.models.mining.neighbours import Neighbours
from pairloom.models.mining.positives import KnownPositives
from pairloom.models.ranks import Ranks
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.finetuning import training_mode

ROWS = 256
SEARCHED = 8192
"""Items whose neighbours a rank looks for before the ranks meet again: none waits longer for another."""


def mine_again(
    encoder: DualEncoder, items: TrainingItems, config: MiningConfig, seed: int, ranks: Ranks
) -> npt.NDArray[np.int32]:
    """Hard negatives (N, K) of all items by the encoder as it is.

    The ranks share the embedding and the search, and choose from what all have found. Leaves the encoder in training
    mode.
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
    text_ND = mean_text_embeddings(text_TD, items.relations.item_texts)
    searcher = Searcher(image_ND, text_ND, KnownPositives(items.relations), config.range_max)
    search = _shared(searcher, ranks, encoder.device)
    lists = neighbour_lists(image_ND, text_ND, items.relations, config.range_max, search=search)
    return batch_negatives(mine_negatives(image_ND, text_ND, items.relations, config, seed=seed, lists=lists))


def _embedded(encode: Callable[[slice], torch.Tensor], count: int, ranks: Ranks) -> Embeddings:
    """All rows' embeddings, each made by the rank that owns the row."""
    own = ranks.own(count)
    blocks = [encode(slice(start, min(start + ROWS, own.stop))) for start in range(own.start, own.stop, ROWS)]
    embedding_ND: Embeddings = ranks.gather(torch.cat(blocks), count).float().cpu().numpy()
    return embedding_ND


def _shared(searcher: Searcher, ranks: Ranks, device: torch.device) -> Search:
    """The same search by all ranks, each for its share of the rows."""

    def search(
        direction: str, rows_Q: Indices, among_C: Indices | None, progress: Callable[[int], None] | None
    ) -> Neighbours:
        indices, scores = list[npt.NDArray[np.int32]](), list[npt.NDArray[np.float32]]()
        for start in range(0, len(rows_Q), SEARCHED * ranks.size):
            some = rows_Q[start : start + SEARCHED * ranks.size]
            own = searcher(direction, some[ranks.own(len(some))], among_C)
            indices.append(ranks.gather(torch.from_numpy(own.indices_QK).to(device), len(some)).cpu().numpy())
            scores.append(ranks.gather(torch.from_numpy(own.scores_QK).to(device), len(some)).cpu().numpy())
            if progress is not None:
                progress(len(some))
        return Neighbours(np.concatenate(indices), np.concatenate(scores))

    return search
