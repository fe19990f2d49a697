"""Healthy, bad and slowly decaying nights of real rows: which are held, by what, and what readers are served then.

    python -m benchmarks.gates --healthy 20 --bad all --decay 10

A champion (`tiny-32`) is trained once for each collection; each night is a real one, on a copy of what that left.
Progress goes to stderr. The exit status is 1 where a bad night was served.
"""

import argparse
import logging
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from benchmarks.gate_decay import decay
from benchmarks.gate_faults import BAD, LIMITS, Fault, Tonight
from benchmarks.gate_rows import HEALTHY, Row, added, collection, edited
from benchmarks.gate_stage import Ended, Item, Served, Stage
from pairloom.flows.nightly import nightly
from pairloom.tasks.stage import listen

COLLECTIONS = ("emoji", "grocery")
CLEAR = 2.0
"""Standard errors by which fewer texts must find what they found before, by those alone that differ (McNemar 1947)."""
WORDS = 200
"""Characters of a reason that are shown."""


def main() -> int:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--healthy", type=int, default=20, help="Healthy nights, over all collections.")
    parser.add_argument("--bad", default="all", help="all, none, limits, or one kind of bad night.")
    parser.add_argument("--decay", type=int, default=10, help="Challengers in a row that are each a little worse.")
    parser.add_argument("--decay-val", type=float, nargs="+", default=[0.1, 0.5], help="Shares of items that ask them.")
    parser.add_argument("--collections", nargs="+", choices=COLLECTIONS, default=COLLECTIONS)
    parser.add_argument("--steps", type=int, default=200, help="Of each champion's training.")
    parser.add_argument("--retrain-steps", type=int, default=30, help="Of a challenger's, which starts from it.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="Where champions stay for another run with the same options.")
    options = parser.parse_args()
    logging.getLogger("pairloom").setLevel(logging.ERROR)
    listen(lambda *_: None)
    cpu, load = time.process_time(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        stages = []
        for each in options.collections:
            own = collection(each, options.seed)
            stages.append(Stage(folder, own, steps=options.steps, retrain_steps=options.retrain_steps))
        served = [prepared(stage) for stage in stages]
        healthy_nights(stages, options.healthy, options.seed)
        wrong = [
            each for stage, before in zip(stages, served, strict=True) for each in bad_nights(stage, before, options)
        ]
        for val_fraction in options.decay_val if options.decay else ():
            decaying_nights(stages[0], val_fraction, options)
    sys.stdout.write(f"\n{time.process_time() - cpu:.0f} s of CPU in this process; load at the start {load:.1f}\n")
    return 1 if wrong else 0


def prepared(stage: Stage) -> Served:
    """Trains the champion; what readers get of it."""
    tell(f"{stage.own.name}: champion of {len(stage.own.rows):,} rows")
    release = stage.prepare()
    served = stage.served(stage.champion / "stored" / stage.own.name)
    metrics = {name: release.metrics[name] for name in sorted(release.metrics) if name.endswith("recall@10")}
    said = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    sys.stdout.write(f"{stage.own.name}: {release.rows:,} items; {said}; released texts find {served.recall:.3f}\n\n")
    return served


def healthy_nights(stages: Sequence[Stage], count: int, seed: int) -> None:
    """Kinds of edits × with and without a training × collections, in turn, each with a seed of its own."""
    if not count:
        return
    row("healthy night", "collection", "training", "outcome", "recall of released texts", "held by")
    row(*["---"] * 6)
    turns = list(product(HEALTHY.items(), (False, True), stages))
    held = 0
    for number in range(count):
        (kind, edits), training, stage = turns[number % len(turns)]
        tell(f"healthy {number + 1} of {count}: {stage.own.name}, {kind}, {'with' if training else 'without'} training")
        rows = edited(stage.own, edits, random.Random(f"{seed} healthy {number}"))
        folder = stage.copy("night")
        ended = stage.night(stage.pipeline(folder, rows, stage.training if training else {}), ExitStack())
        wrongly = ended.outcome != "released"
        held += wrongly
        by = short(ended) if wrongly else ""
        row(kind, stage.own.name, "yes" if training else "no", ended.outcome, f"{ended.served.recall:.3f}", by)
    sys.stdout.write(f"\n{held} of {count} healthy nights held.\n\n")
    sys.stdout.flush()


def bad_nights(stage: Stage, before: Served, options: argparse.Namespace) -> list[str]:
    """Each kind without and with a training; the names of those that were served."""
    wanted = LIMITS if options.bad == "limits" else [each for each in BAD if options.bad in ("all", each.kind)]
    if not wanted:
        return []
    row(f"bad night ({stage.own.name})", "what happens", "training", "outcome", "readers", "blocked by")
    row(*["---"] * 6)
    wrong, count = [], 0
    for kind in wanted:
        for training, fault in ((False, kind.without), (True, kind.with_training)):
            tell(f"bad {stage.own.name}: {kind.kind}, {'with' if training else 'without'} training")
            ended, honest = struck(stage, fault, training=training, seed=options.seed)
            amiss = spoiled(before, ended.served, honest)
            count += 1
            wrong += [kind.kind] if amiss else []
            said = "**SERVED** " + "; ".join(amiss) if amiss else readers(before, ended.served)
            does = str(fault.__doc__).rstrip(".")
            row(kind.kind, does, "yes" if training else "no", ended.outcome, said, short(ended))
    sys.stdout.write(f"\n{count - len(wrong)} of {count} bad nights blocked ({stage.own.name}).\n\n")
    sys.stdout.flush()
    return wrong


def struck(stage: Stage, fault: Fault, *, training: bool, seed: int) -> tuple[Ended, dict[str, Row]]:
    """A night that a fault strikes, and the honest rows there were."""
    chance = random.Random(f"{seed} {fault.__name__} {training}")
    folder = stage.copy("night")
    honest = added(stage.own, stage.own.rows, chance)
    release = stage.prepare()
    quiet = stage.pipeline(folder, honest, {})
    tonight = Tonight(
        folder=quiet.folder,
        release=release,
        released=stage.own.rows,
        rows=honest,
        chance=chance,
        other=lambda: nightly(quiet),
        settings=stage.training if training else {},
    )
    fault(tonight)
    pipeline = stage.pipeline(folder, tonight.rows, tonight.settings)
    return stage.night(pipeline, tonight.during), {each["id"]: each for each in honest}


def spoiled(before: Served, after: Served, honest: dict[str, Row]) -> list[str]:
    """What is worse for readers than before the night; nothing where they are refused what is damaged."""
    if after.release is None:
        return []
    lost = [each for each in before.items if each not in after.items]
    changed = [each for each in before.items if each in after.items and before.items[each] != after.items[each]]
    strange = [
        each for each, item in after.items.items() if each not in before.items and not is_honest(item, honest.get(each))
    ]
    found = [
        f"{len(items)} items {what}"
        for what, items in (("lost", lost), ("changed", changed), ("strange", strange))
        if items
    ]
    if fell(before.found_Q, after.found_Q):
        found.append(f"recall {before.recall:.3f} → {after.recall:.3f}")
    return found


def fell(before_Q: Sequence[bool], after_Q: Sequence[bool]) -> bool:
    """Whether fewer queries are answered, and not by chance."""
    lost = sum(before and not after for before, after in zip(before_Q, after_Q, strict=True))
    gained = sum(after and not before for before, after in zip(before_Q, after_Q, strict=True))
    return lost - gained > CLEAR * math.sqrt(lost + gained)


def is_honest(item: Item, row: Row | None) -> bool:
    """Whether a new item is one of tonight's rows as it should be."""
    return row is not None and (list(item[0]), item[2]) == (row["texts"], row["kind"])


def readers(before: Served, after: Served) -> str:
    """What is served after a night that was blocked."""
    if after.release is None:
        return "refused"
    if after.release == before.release:
        return f"release {after.release} as before"
    return (
        f"release {after.release}, {len(after.items) - len(before.items)} honest rows more, recall {after.recall:.3f}"
    )


def decaying_nights(stage: Stage, val_fraction: float, options: argparse.Namespace) -> None:
    """Challengers in a row, each worse than what is served by what one comparison hardly sees."""
    row(
        f"challenger ({val_fraction:.0%} ask)", "recall@10", "below the served", "below the first", "outcome", "held by"
    )
    row(*["---"] * 6)
    released = 0
    for number, each in enumerate(decay(stage, options.decay, val_fraction, options.seed), 1):
        tell(f"decay {stage.own.name}, {val_fraction:.0%} ask: {number} of {options.decay}")
        ended = each.ended
        released += ended.outcome == "released"
        figures = (each.recall, each.below_served, each.below_first)
        by = "" if ended.outcome == "released" else short(ended)
        row(str(number), *(f"{figure:.4f}" for figure in figures), ended.outcome, by)
    sys.stdout.write(f"\n{released} of {options.decay} released ({stage.own.name}).\n\n")
    sys.stdout.flush()


def short(ended: Ended) -> str:
    """By which rule, and the beginning of what was said."""
    said = ended.said if len(ended.said) <= WORDS else f"{ended.said[:WORDS]} …"
    return f"{ended.rule}: {said}".replace("|", "\\|").replace("\n", " ")


def tell(what: str) -> None:
    """Progress."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")


def row(*cells: str) -> None:
    """A row of a table."""
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
