"""A training in several processes over a large collection: how soon it shows that it goes on, and how it starts.

    python -m benchmarks.ranks --items 200000 --minutes 0.5 FOLDER

Made-up items with tiny pictures, an architecture of one layer, gloo on the CPU, and a time-out of the ranks that is
shorter than the decoding takes (`--timeout`, in minutes). Each sign of life comes as one JSON line with its second:
what a person at a terminal, or a run's page, sees. The folder is deleted at the end.
"""

import argparse
import itertools
import json
import os
import shutil
import time
from pathlib import Path

from benchmarks.synthetic import write_corpus
from benchmarks.tiny_nights import TOWERS
from pairloom.storage.corpus import Corpus
from pairloom.storage.pairs import PairStore
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import PairsRef, Plan
from pairloom.tasks.stage import listen
from pairloom.tasks.train import train


class Signs:
    """What a listener hears, and when."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seconds: dict[str, list[float]] = {}
        """By what is being done."""

    def __call__(self, stage: str, done: float, total: float | None, note: str) -> None:
        """One line of what a person sees."""
        at = round(time.monotonic() - self.began, 1)
        self.seconds.setdefault(
            "training" if note.startswith("loss") else note.partition(",")[0] or "begun", []
        ).append(at)
        said = {"second": at, "stage": stage, "done": done, "total": total, "note": note}
        print(json.dumps(said), flush=True)  # noqa: T201

    def silence(self) -> float:
        """The longest time without a sign, in seconds."""
        times = sorted(at for own in self.seconds.values() for at in own)
        return max(after - before for before, after in itertools.pairwise(times))


def pipeline_in(folder: Path, options: argparse.Namespace) -> Pipeline:
    """One whose training takes so many processes."""
    architecture = folder / "one-layer.json"
    architecture.write_text(json.dumps(TOWERS))
    return Pipeline.model_validate(
        {
            "name": "made-up",
            "root": str(folder),
            "sources": [{"kind": "jsonl", "path": "never-read.jsonl"}],
            "columns": {"image": "image", "texts": ["text"]},
            "model": {"architecture": str(architecture)},
            "training": {
                "processes": options.processes,
                "max_minutes": options.minutes,
                "batch_size": options.batch,
                "threads": 1,
                "rank_timeout_minutes": options.timeout,
                "pixels": options.pixels,
            },
        }
    )


def main() -> None:
    """Print what is heard, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--timeout", type=float, default=5.0)
    parser.add_argument("--pixels", default="file")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    try:
        pipeline = pipeline_in(options.folder.absolute(), options)
        snapshot = write_corpus(Corpus(pipeline.folder), options.items, val_every=1_000)
        PairStore(pipeline.folder).write("none", [], {})
        plan = Plan(
            action="retrain",
            reason="to see it start",
            run_id="run",
            training_digest="",
            snapshot=snapshot.number,
            champion=None,
            champion_model=None,
            champion_rows=0,
            champion_metrics={},
            brings_rows=False,
        )
        signs = Signs()
        listen(signs)
        ref = train(pipeline, plan, PairsRef(pairs_id="none", positives=0, negatives=0))
        first = {what: own[0] for what, own in signs.seconds.items()}
        summary = {"first_sign": first, "longest_silence": signs.silence(), "steps": ref.steps, "loss": ref.loss}
        print(json.dumps({**summary, "load": os.getloadavg()[0]}))  # noqa: T201
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
