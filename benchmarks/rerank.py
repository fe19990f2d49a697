"""Measures `search --rerank` on a release: text → image recall@1 over the validation items, and milliseconds a query.

    pairloom run -p rerank-emoji --file benchmarks/objectives/rerank.yaml
    python -m benchmarks.rerank rerank-emoji rerank-emoji-1 rerank-emoji-2

Every text of a validation item is searched among the validation items (training saw neither), as people search: without
re-ranking, then with the nearest 10 and 50 scored again. Any known positive at the first place counts. The pipelines
named are one with several seeds: they are asked the same queries, and a query's gain is the mean over them; its 95 %
interval is a bootstrap of the queries. `--cosines 0 0.5 2` tries other shares of the dual encoder in the scores.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pairloom.flows.config import load_pipeline
from pairloom.models.evaluation.bootstrap import mean_intervals
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.corpus import Corpus
from pairloom.tasks.items import read_items

FILE = Path(__file__).parent / "objectives" / "rerank.yaml"
CANDIDATES = (10, 50)


@dataclass(frozen=True)
class Answered:
    """How one way of searching answered the queries of one release."""

    right_Q: npt.NDArray[np.float64]
    seconds_Q: npt.NDArray[np.float64]


def measure(release: OpenRelease, folder: Path, split: str, cosines: Sequence[float]) -> dict[str, Answered]:
    """Every way of searching."""
    corpus = Corpus(folder)
    relations = read_items(corpus, corpus.log.read(release.record.snapshot), split).relations
    number = {item_id: row for row, item_id in enumerate(relations.item_ids)}
    positive_NT = relations.text_mask(np.arange(len(relations)), np.arange(len(relations.texts)))

    condition = f"split = '{split}'"

    def ask(rerank: int | None) -> Answered:
        search(release, Query(text="the first query loads the model"), k=1, where=condition, rerank=rerank)
        right, seconds = [], []
        for row, text in enumerate(relations.texts):
            began = time.perf_counter()
            first = search(release, Query(text=text), k=1, where=condition, rerank=rerank).hits[0]
            seconds.append(time.perf_counter() - began)
            right.append(float(positive_NT[number[first.item_id], row]))
        return Answered(np.array(right), np.array(seconds))

    found = {"dual encoder": ask(None)} | {f"re-ranked, {count}": ask(count) for count in CANDIDATES}
    for cosine in cosines:
        release.reranker.cosine = cosine
        found |= {f"re-ranked, {count}, cosine {cosine:g}": ask(count) for count in CANDIDATES}
    return found


def table(by_pipeline: Sequence[dict[str, Answered]]) -> str:
    """A row a way of searching, the mean over the pipelines."""
    base_Q = np.mean([found["dual encoder"].right_Q for found in by_pipeline], axis=0)
    lines = ["| search | recall@1 | by pipeline | gain, 95 % | ms a query |", "| --- | --- | --- | --- | --- |"]
    for way in by_pipeline[0]:
        right_Q = np.mean([found[way].right_Q for found in by_pipeline], axis=0)
        gain_Q = (right_Q - base_Q)[:, None]
        ((low, high),) = mean_intervals(gain_Q, np.ones_like(gain_Q, dtype=bool), confidence=0.95, seed=0)
        own = " / ".join(f"{found[way].right_Q.mean():.3f}" for found in by_pipeline)
        milliseconds = 1e3 * np.median(np.concatenate([found[way].seconds_Q for found in by_pipeline]))
        gain = f"{gain_Q.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"| {way} | {right_Q.mean():.3f} | {own} | {gain} | {milliseconds:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="+", help="released pipelines of the file")
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", choices=("val", "test"), default="val", help="whose items are asked and searched")
    parser.add_argument("--cosines", type=float, nargs="*", default=(), help="other shares of the dual encoder to try")
    options = parser.parse_args()
    found = []
    for name in options.pipelines:
        folder = load_pipeline(options.file, name, root=options.root).folder
        found.append(measure(OpenRelease.open(folder), folder, options.split, options.cosines))
    queries = len(found[0]["dual encoder"].right_Q)
    sys.stdout.write(f"{queries} queries, {len(found)} pipelines, load {os.getloadavg()[0]:.1f}\n\n{table(found)}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
