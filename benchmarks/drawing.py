"""CPU milliseconds of drawing one large batch: its items, hard negatives, partners and texts.

    python -m benchmarks.drawing --items 200000 --batch 8192

Every item has one to five texts and shares its group with two others; four hard negatives each are drawn at random.
What is timed is the plan alone: no pixels, no tokens, no targets.
"""

import argparse
import os
import time
from collections.abc import Callable

import numpy as np

from pairloom.models.batches.partners import Partners
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.batches.relations import Relations


def made_up(items: int) -> tuple[Relations, np.ndarray]:
    """Relations of so many items, and hard negatives of theirs."""
    random = np.random.default_rng(0)
    counts = random.integers(1, 6, items)
    texts = [[f"text {item}, {number}" for number in range(count)] for item, count in enumerate(counts)]
    ids, groups = [str(item) for item in range(items)], [f"group {item // 3}" for item in range(items)]
    negatives_NK = random.integers(0, items, (items, 4)).astype(np.int32)
    return Relations.build(ids, groups, texts, [None] * items), negatives_NK


def milliseconds(draw: Callable[[int], object], rounds: int) -> float:
    """Of the processor, the median of some steps."""
    draw(0)
    spent = []
    for step in range(rounds):
        began = time.process_time()
        draw(step)
        spent.append(time.process_time() - began)
    return float(np.median(spent)) * 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=8_192)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    relations, negatives_NK = made_up(options.items)
    partners = Partners(relations, {}, {"positive"})
    plain = BatchPlan(relations.item_texts, None, options.batch, 0.0, seed=0)
    hard = BatchPlan(relations.item_texts, negatives_NK, options.batch, 0.25, seed=0)
    met = BatchPlan(relations.item_texts, negatives_NK, options.batch, 0.25, 0, partners, 0.5)
    print(f"{options.items:,} items, a batch of {options.batch:,}; load {os.getloadavg()[0]:.1f}")  # noqa: T201
    for name, plan in (("anchors and texts", plain), ("with hard negatives", hard), ("and with partners", met)):
        print(f"| {name} | {milliseconds(plan.batch, options.rounds):.1f} |")  # noqa: T201
    batch = plain.batch(0)
    print(f"| another text each | {milliseconds(lambda step: plain.other_texts(step, batch), options.rounds):.1f} |")  # noqa: T201


if __name__ == "__main__":
    main()
