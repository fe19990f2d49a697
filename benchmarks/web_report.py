"""The data report over a collection of which some labels were swapped before a night trained on it.

    python -m benchmarks.web_report --data ../shared/data --root FOLDER

Of grocery's rows, five in a hundred get texts, group and subgroup of a row of another class. A night runs over that,
and the report's likely mislabelled items are counted: how many of them were swapped, and how many of the swapped are
among them; beside it as many items by the plainest measure, how much better the ten nearest neighbours' texts fit the
image than its own.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import yaml

from benchmarks.web import say
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.search.web import report
from pairloom.search.web.served import ServedRelease

SHARE = 0.05
SWAPPED = ("texts", "concept_id", "subgroup")


def swapped(captions: Path, out: Path) -> set[str]:
    """Write the captions with some labels swapped; returns the ids of these rows."""
    rows = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
    draw = random.Random(7)
    wrong, told = draw.sample(range(len(rows)), round(len(rows) * SHARE)), [dict(row) for row in rows]
    for at in wrong:
        other = draw.choice([row for row in rows if row["concept_id"] != rows[at]["concept_id"]])
        told[at].update({name: other[name] for name in SWAPPED})
    out.write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    return {rows[at]["image_id"] for at in wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=2.5)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    wrong = swapped(options.data / "grocery" / "captions.jsonl", options.root / "captions.jsonl")
    source = {"kind": "jsonl", "path": "captions.jsonl", "base": str(options.data.resolve())}
    pipeline = {
        "sources": [source],
        "columns": {
            "id": "image_id", "image": "image", "texts": ["texts"], "group": "concept_id", "split": "split",
            "keep": {"subgroup": "string"},
        },
        "ingest": {"max_side": 96},
        "training": {"max_minutes": options.minutes},
    }  # fmt: skip
    file = options.root / "pipelines.yaml"
    file.write_text(yaml.safe_dump({"root": "stored", "pipelines": {"swapped": pipeline}}), encoding="utf-8")
    chosen = load_pipeline(file)
    night = nightly(chosen)
    say(
        f"night: {night.outcome}",
    )
    release = ServedRelease.open(chosen.folder)
    report.SHOWN = release.record.rows
    found = next(each for each in report.data_report(release, lambda _: None).findings if each.kind == "mislabelled")
    told = [each.item_id in wrong for each in found.shown]
    sample = report._Sample.of(release, lambda _: None)
    near_SK, _ = report._neighbours(sample.image_SD, lambda _: None)
    their_SK = np.einsum("sd,skd->sk", sample.image_SD, sample.text_SD[near_SK])
    better_S = np.median(their_SK, axis=1) - np.einsum("sd,sd->s", sample.image_SD, sample.text_SD)
    plain = [sample.ids[at] in wrong for at in np.argsort(-better_S, kind="stable")]
    say(f"{len(sample.ids)} items, {len(wrong)} swapped; {len(told)} doubted, {sum(told)} of them swapped")
    say(f"among the hundred surest {sum(told[:100])} swapped; by the difference alone {sum(plain[:100])}")
    say(f"by the difference alone, of the first {len(told)}: {sum(plain[: len(told)])}")


if __name__ == "__main__":
    main()
