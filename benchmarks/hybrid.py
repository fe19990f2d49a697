"""Hybrid search beside vectors alone, on queries that share words with the texts and on those that don't.

    python -m benchmarks.hybrid s0/emoji-drawings s1/emoji-drawings

Asked are keywords that are no item's text, drawn (emoji have some): what people call things otherwise. An item is
right that has the keyword. A query shares words with the texts where one of its words, without its accents, stands in
the texts of any item. Means over the folders, which are those of pipelines with a release.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.served import Served, say
from pairloom.models.towers.words import known_words
from pairloom.search.fitting import unaccented
from pairloom.search.index import Index

PLACES = 10


def measured(served: Served) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """By kind of queries and way of asking, of each query: whether a right item comes first, and among ten."""
    index, asked = Index(served.release), served.keywords()
    ids = np.array([row["item_id"] for row in served.rows])
    found = defaultdict[tuple[str, str], list[tuple[float, float]]](list)
    for name, own_N in zip(asked.names, asked.own_QN, strict=True):
        shares = any(served.saying[word] for word in known_words(unaccented(name)))
        right = set(ids[own_N].tolist())
        for way in ("vectors", "hybrid"):
            hits = [hit.item_id in right for hit in index.search(name, k=PLACES, hybrid=way == "hybrid").hits]
            for kind in ("all", "share words" if shares else "share none"):
                found[kind, way].append((float(hits[0]), float(any(hits))))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    folders = parser.parse_args().folders
    every = defaultdict[tuple[str, str], list[list[tuple[float, float]]]](list)
    for folder in folders:
        for key, figures in measured(Served(folder)).items():
            every[key].append(figures)
    say("| queries | asked by | queries a release | right one first | among ten |")
    say("| --- | --- | ---: | ---: | ---: |")
    for (kind, way), releases in sorted(every.items()):
        first, ten = np.mean([np.mean(each, axis=0) for each in releases], axis=0)
        say(f"| {kind} | {way} | {np.mean([len(each) for each in releases]):.0f} | {first:.3f} | {ten:.3f} |")


if __name__ == "__main__":
    main()
