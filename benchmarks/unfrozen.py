"""What it brings to train the last blocks of `photographs`' image tower too, after the start in closed form.

    OMP_NUM_THREADS=1 python -m benchmarks.unfrozen --seeds 0 1 2 --groups 0 1 --rates 1e-5 1e-4 5e-4

Grocery, training split to validation split. `--groups` counts timm's groups of layers from the output, as
`model.unlocked_image_groups` does: 0 is the frozen tower, whose head and text tower are trained (at `--rates`, too), 1
adds the last stage and the layer behind it, each further one a block. What lies before is passed once, and kept. Batch
normalisation among what is trained goes by the batch and keeps new averages, as a training of ours has it; with
`--still` it stays as it is.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.bundle import Collection, read_collection
from benchmarks.pretrained import ASKED
from pairloom.models.arrays import Features
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.trunk import Trunk
from pairloom.models.training.closed_start import start_in_closed_form
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train


class Rest(nn.Module):
    """The last groups of a timm EfficientNet, over what its first ones have made of the pictures."""

    def __init__(self, trunk: Any, groups: int) -> None:
        super().__init__()
        stages = [list(stage) for stage in trunk.blocks]
        cut = len(stages[-2]) - (groups - 1)
        self.first = nn.Sequential(trunk.conv_stem, trunk.bn1, *trunk.blocks[:-2], *stages[-2][:cut])
        self.last = nn.Sequential(*stages[-2][cut:], *stages[-1], trunk.conv_head, trunk.bn2, trunk.global_pool)
        self.shape: tuple[int, ...] = ()

    def kept(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """What is kept of pictures, flat."""
        found = self.first(image_BCHW)
        self.shape = tuple(found.shape[1:])
        return torch.Tensor(found.flatten(1))

    def forward(self, kept_BF: torch.Tensor) -> torch.Tensor:
        """The tower's features, from what is kept."""
        found: torch.Tensor = self.last(kept_BF.view(len(kept_BF), *self.shape))
        return found


def passed(module: Any, encoder: Encoder, check: Collection) -> Features:
    """What a part of the tower makes of a split's pictures."""
    with torch.inference_mode():
        own = [check.images[first : first + 16] for first in range(0, len(check.images), 16)]
        return np.concatenate([module(encoder.pixels(images)).numpy() for images in own])


def asked(own: DualEncoder, kept_NF: Features, check: Collection) -> str:
    """Recalls on the validation split; the image tower takes what is kept."""
    own.network.eval()
    with torch.inference_mode():
        parts = [torch.from_numpy(kept_NF[first : first + 64]) for first in range(0, len(kept_NF), 64)]
        image_ND = torch.cat([own.encode_images(part) for part in parts]).numpy()
    text_TD = Encoder(own).embed_texts(check.relations.texts)
    found = evaluate(image_ND, text_TD, check.relations, EvaluationConfig(k=(1, 10)), {}).as_dict()
    return " | ".join(f"{found[f'{name}@1']:.3f} / {found[f'{name}@10']:.3f}" for name in ASKED)


def main() -> None:
    """Print a row for each number of groups, rate and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--groups", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4, 5e-4])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100], help="0 for the closed form alone")
    parser.add_argument("--still", action="store_true", help="batch normalisation stays as it is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    learn, check = (read_collection("grocery", split, 192) for split in ("train", "val"))
    texts = [text for own in learn.texts for text in own]
    config = ModelConfig(architecture="photographs")
    titles = ("groups", "steps", "rate", "seed", *(f"{name} @1 / @10" for name in ASKED), "training, CPU s", "load")
    sys.stdout.write(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}\n")
    trainings = [(count, rate) for count in options.steps for rate in (options.rates if count else [0.0])]
    for groups in options.groups:
        first = create(config, texts, seed=0)
        encoder, trunk = Encoder(first), Trunk(first)
        feature_NF = passed(trunk.features, encoder, learn)
        rest = Rest(first.network.get_submodule("visual.trunk"), max(groups, 1))
        kept_NF, check_NF = (passed(rest.kept if groups else trunk.features, encoder, each) for each in (learn, check))
        for seed in options.seeds:
            for steps, rate in trainings:
                own = create(config, texts, seed=seed)
                start_in_closed_form(own, feature_NF, learn.relations, config, seed=seed)
                tail: nn.Module = nn.Identity()
                if groups:
                    tail = Rest(own.network.get_submodule("visual.trunk"), groups)
                    tail.shape = rest.shape
                    del tail.first
                own.network.set_submodule("visual.trunk", tail)
                if options.still:
                    for norm in tail.modules():
                        if isinstance(norm, nn.BatchNorm2d):
                            norm.requires_grad_(False)
                began = time.process_time()
                if steps:
                    items = TrainingItems(tuple(learn.item_ids), kept_NF, learn.relations)
                    training = TrainingConfig(
                        max_minutes=None, max_steps=steps, learning_rate=rate, seed=seed, threads=1, hard_fraction=0
                    )
                    with tempfile.TemporaryDirectory() as folder:
                        train(own, items, Recipe(training), workdir=Path(folder))
                spent = time.process_time() - began
                cells = f"{asked(own, check_NF, check)} | {spent:.0f} | {os.getloadavg()[0]:.1f}"
                sys.stdout.write(f"| {groups} | {steps} | {rate:g} | {seed} | {cells} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
