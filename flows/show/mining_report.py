"""What tonight's mining found, for the night's report: its audit in tables, and the hardest pairs as a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pairloom.flows.show.markdown import table
from pairloom.search.sheet import Pair, data_uri, pair_picture
from pairloom.storage.corpus import Corpus
from pairloom.storage.pairs import PairStore
from pairloom.tasks.items import images_of
from pairloom.tasks.pipeline import Pipeline

_BARS = " ▁▂▃▄▅▆▇█"


def mining_section(pipeline: Pipeline, pairs_id: str | None) -> list[str]:
    """The lines of the section; none for a night without mining."""
    if pairs_id is None:
        return []
    audit = PairStore(pipeline.folder).audit(pairs_id)
    lines = ["## What it learned from", ""]
    lines += table("negatives", *_directions(audit))
    lines += table("positives", *_row(audit["positives"]))
    lines += table("negatives that are known positives (all 0)", *_row(audit["false_negatives"]))
    lines += table("scores from -1 to 1", ["of positives", "of negatives"], _histograms(audit["histograms"]))
    if audit["hardest"]:
        picture = data_uri(hardest_picture(pipeline, audit["hardest"]))
        lines += ["## The hardest negatives", "", f"![Pairs that look or read alike and are not]({picture})", ""]
    return lines


def hardest_picture(pipeline: Pipeline, hardest: Sequence[Mapping[str, Any]]) -> bytes:
    """The hardest pairs, both images of each side by side, as a WebP."""
    corpus = Corpus(pipeline.folder)
    ids = list(dict.fromkeys(pair[side] for pair in hardest for side in ("anchor", "other")))
    images = {ids[place]: image for place, image in images_of(corpus, corpus.current(), pa.array(ids, pa.string()))}
    return pair_picture(
        [
            Pair(
                f"{pair['direction'].replace('_', ' ')}: {pair['score']:.2f} ({pair['positive_score']:.2f})",
                (images[pair["anchor"]], images[pair["other"]]),
                (pair["anchor_text"], pair["other_text"]),
            )
            for pair in hardest
            if pair["anchor"] in images and pair["other"] in images
        ]
    )


def _directions(audit: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row a direction: how many, for how many anchors, and how many candidates each rule left out."""
    rules = sorted({rule for skipped in audit["skipped"].values() for rule in skipped})
    rows = [
        [
            direction.replace("_", " "),
            f"{count:,}",
            f"{audit['coverage'][direction]['some']:.1%}",
            f"{audit['coverage'][direction]['all']:.1%}",
            *(f"{audit['skipped'][direction].get(rule, 0):,}" for rule in rules),
        ]
        for direction, count in audit["negatives"].items()
    ]
    skipped = [f"skipped: {rule.replace('_', ' ')}" for rule in rules]
    return ["pairs", "anchors with one", "anchors with all", *skipped], rows


def _row(counts: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    return [name.replace("_", " ") for name in counts], [["", *(f"{count:,}" for count in counts.values())]]


def _histograms(histograms: Mapping[str, Any]) -> list[list[str]]:
    return [
        [direction.replace("_", " "), _bars(counts["positives"]), _bars(counts["negatives"])]
        for direction, counts in histograms.items()
        if direction != "edges"
    ]


def _bars(counts: Sequence[int]) -> str:
    """A bar a bin; the highest is full, and one that is not empty shows."""
    most = max(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] if count else "·" for count in counts)
