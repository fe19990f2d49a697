"""What an image tower that stays as it is reaches: in closed form, and after a training on its features.

Questions are the validation split's, and the training split's own. With `--cut` pictures are cut to their content as
ingest does it; with `--part` a part of the training split's concepts is asked instead of the validation split, so that
nothing is chosen by what is reported; with `--artists` all drawings by Twemoji are learned, and OpenMoji's asked.

python -m benchmarks.pretrained --sizes 128 160 192 --seeds 0 1 2 --steps 0 300
python -m benchmarks.pretrained --architecture drawings --collection emoji --seeds 0 1 2 --steps 0 100
python -m benchmarks.pretrained --architecture drawings-pretrained --collection emoji --cut --part 0 --steps 0 30 100
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bundle import MAX_SIDE, Collection, read_artists, read_collection, read_parts
from pairloom.models.arrays import Features
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import CORRECTED, EvaluationConfig
from pairloom.models.evaluation.hubness import hubness
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.negatives import batch_negatives
from pairloom.models.towers.config import PRESETS, ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.names import ARCHITECTURES
from pairloom.models.towers.trunk import Trunk, frozen_trunk
from pairloom.models.training.closed_start import start_in_closed_form
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.moved import chosen, moved_apart
from pairloom.models.training.trainer import Recipe, train

ASKED = ("text_to_image_recall", "image_to_text_recall", "image_to_image_recall")
PARTS = 8


def sized(name: str, size: int | None, folder: Path, given: dict[str, Any] | None = None) -> ModelConfig:
    """An architecture of ours, with what goes with it and isn't `given`, for pictures of another size, or its own."""
    architecture = json.loads((ARCHITECTURES / f"{name}.json").read_text(encoding="utf-8"))
    if size is not None:
        architecture["model_cfg"]["vision_cfg"]["image_size"] = size
    file = folder / f"{name}-{size}.json"
    file.write_text(json.dumps(architecture), encoding="utf-8")
    return ModelConfig.model_validate({"architecture": str(file), **PRESETS[name], **(given or {})})


def recalls(encoder: Encoder, trunk: Trunk, feature_NF: Features, check: Collection, learn: Collection) -> str:
    """Recall @1 and @10 each way on a split, and of texts as a search orders what they find, as cells; that between
    images only where some have a partner."""
    image_ND, text_TD = encoder.embed_features(trunk, feature_NF), encoder.embed_texts(check.relations.texts)
    hubness_N = hubness(image_ND, encoder.embed_texts(learn.relations.texts))
    found = evaluate(image_ND, text_TD, check.relations, EvaluationConfig(k=(1, 10)), {}, hubness_N).as_dict()
    names = (*ASKED, f"{CORRECTED}_recall")
    return " | ".join(
        f"{found[f'{name}@1']:.3f} / {found[f'{name}@10']:.3f}" if f"{name}@1" in found else "–" for name in names
    )


def main() -> None:
    """Prints a row for each size, seed and number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=sorted(PRESETS), default="photographs")
    parser.add_argument("--collection", default="grocery")
    parser.add_argument("--max-side", type=int, default=None, help="128, or 72 of emoji, where left out")
    parser.add_argument("--cut", action="store_true", help="pictures cut to their content")
    parser.add_argument("--part", type=int, choices=range(PARTS), help="ask this part of the training split's concepts")
    parser.add_argument("--artists", nargs=2, metavar=("LEARNED", "ASKED"), help="twemoji openmoji, or the other way")
    parser.add_argument("--keywords", action="store_true", help="learn from the items' keywords, too")
    parser.add_argument("--sizes", type=int, nargs="+", default=[None], help="the architecture's own where left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 300], help="0 for the closed form alone")
    parser.add_argument("--model", default="{}", help="other ModelConfig fields, as JSON")
    parser.add_argument("--set", default="{}", help="other TrainingConfig fields, as JSON")
    options = parser.parse_args()
    max_side = options.max_side or (MAX_SIDE["emoji"] if options.collection == "emoji" else 128)
    if options.artists:
        learned, asked_of = options.artists
        learn, check = read_artists(learned, asked_of, max_side, cut=options.cut)
    elif options.part is None:
        learn, check = (
            read_collection(options.collection, split, max_side, cut=options.cut) for split in ("train", "val")
        )
    else:
        learn, check = read_parts(options.collection, options.part, PARTS, max_side, cut=options.cut)
    keywords = learn.keywords if options.keywords else []
    texts = [text for own in (*learn.texts, *keywords) for text in own]
    asked = [f"{of}{way} @1 / @10" for of in ("", "own ") for way in ("t→i", "i→t", "i→i", "t→i less hubness")]
    titles = ("size", "seed", "steps", *asked, "features, ms an image", "start, CPU s", "training, CPU s", "load")
    sys.stdout.write(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}\n")
    negatives_NK = batch_negatives(mine_lexical_negatives(learn.relations, MiningConfig(), seed=0))
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config = sized(options.architecture, size, folder, json.loads(options.model))
            encoder = Encoder(create(config, texts, seed=0))
            trunk = frozen_trunk(encoder.dual_encoder, config)
            assert trunk is not None
            cpu = time.process_time()
            learn_NF, check_NF = (encoder.features(trunk, [each.images]) for each in (learn, check))
            rows = chosen(learn.item_ids, config.moved_copies)
            pictures = [[learn.images[row] for row in rows]]
            apart_MF = moved_apart(encoder, trunk, pictures, learn_NF[rows], np.arange(len(rows)))
            looking = 1e3 * (time.process_time() - cpu) / (len(learn_NF) + len(rows) + len(check_NF))
            for seed in options.seeds:
                for steps in options.steps:
                    own = create(config, texts, seed=seed)
                    trunk = frozen_trunk(own, config)
                    assert trunk is not None
                    cpu = time.process_time()
                    start_in_closed_form(
                        own, learn_NF, learn.relations, config, seed=seed, keywords=keywords, apart_MF=apart_MF
                    )
                    started = time.process_time() - cpu
                    if steps:
                        items = TrainingItems(tuple(learn.item_ids), learn_NF, learn.relations, negatives_NK)
                        training = TrainingConfig(max_minutes=None, max_steps=steps, seed=seed, threads=1)
                        training = TrainingConfig.model_validate(training.model_dump() | json.loads(options.set))
                        with trunk.aside():
                            train(own, items, Recipe(training, model=config), workdir=folder / f"{seed}-{steps}")
                    cells = " | ".join(
                        recalls(Encoder(own), trunk, *each, learn) for each in ((check_NF, check), (learn_NF, learn))
                    )
                    spent = time.process_time() - cpu - started
                    figures = f"{looking:.0f} | {started:.0f} | {spent:.0f} | {os.getloadavg()[0]:.1f}"
                    sys.stdout.write(f"| {size or 'own'} | {seed} | {steps} | {cells} | {figures} |\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
