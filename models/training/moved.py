"""How far pictures of one thing lie apart where they are only moved, told by copies of some."""

# B = batch, M = moved copies, F = features, C = colours, H = height, W = width

import zlib
from collections.abc import Iterable, Sequence

import torch

from pairloom.models.arrays import Features, Indices
from pairloom.models.batches.augmentation import augment, draw_changes
from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.encoder import Encoder
from pairloom.models.pictures import Picture
from pairloom.models.towers.trunk import Trunk

MOVES = AugmentationConfig(colour=0)
"""Each copy is shifted, scaled and turned a little; its colours stay, since they are what pictures of one thing agree
about most."""


def chosen(item_ids: Sequence[str], copies: int) -> list[int]:
    """Rows of at most `copies` items, drawn by their ids, so that their order has no say; in that of the draw."""

    def draw(row: int) -> tuple[int, str]:
        return zlib.crc32(item_ids[row].encode("utf-8", "surrogatepass")), item_ids[row]

    return sorted(range(len(item_ids)), key=draw)[:copies]


def moved_apart(
    encoder: Encoder, trunk: Trunk, batches: Iterable[Sequence[Picture]], feature_MF: Features, number_M: Indices
) -> Features:
    """Float32 (M, F): features of moved copies of M pictures, less the pictures' own; `number_M` says who moves how."""
    changes, done = draw_changes(len(feature_MF), MOVES, torch.Generator().manual_seed(0)), 0

    def moved(image_BCHW: torch.Tensor) -> torch.Tensor:
        nonlocal done
        rows, done = number_M[done : done + len(image_BCHW)], done + len(image_BCHW)
        return augment(image_BCHW, changes.of(torch.from_numpy(rows)))

    apart_MF: Features = encoder.features(trunk, batches, changed=moved) - feature_MF
    return apart_MF
