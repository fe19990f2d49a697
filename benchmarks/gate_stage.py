"""One collection with its champion: nights on copies of what that left, and what readers get after them."""

import hashlib
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bundle import DATA
from benchmarks.gate_rows import Collection, Row
from pairloom.flows.nightly import nightly
from pairloom.search.release import OpenRelease
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import Release, release_log
from pairloom.tasks.pipeline import Pipeline

QUERIES, K = 200, 10
RATE = 2e-4
"""Learning rate of challengers; the champion's is the default."""
Item = tuple[tuple[str, ...], str, Any]
"""What a reader sees of an item: texts, digest of the thumbnail, the kept column."""


@dataclass(frozen=True)
class Served:
    """What readers get."""

    release: int | None
    """None where they are refused."""
    items: Mapping[str, Item]
    found_Q: tuple[bool, ...]
    """Which of the same texts of the champion's release find their concept among ten of its items."""

    @property
    def recall(self) -> float:
        """How many of them do."""
        return sum(self.found_Q) / max(1, len(self.found_Q))


@dataclass(frozen=True)
class Ended:
    """A night, how it ended, and what was served after it."""

    outcome: str
    rule: str
    """Which rule held it: by the kind of gate, with its measures, or the error."""
    said: str
    served: Served


class Stage:
    """A collection, the champion that was trained on it, and the nights that follow."""

    def __init__(self, folder: Path, own: Collection, *, steps: int, retrain_steps: int) -> None:
        self.own = own
        self._folder, self._steps, self._retrain_steps = folder, steps, retrain_steps
        self._asked = random.Random(0).sample(own.rows, min(QUERIES, len(own.rows)))
        self._concepts = {row["id"]: row["concept"] for row in own.rows}

    @property
    def champion(self) -> Path:
        """The folder of the first night."""
        return self._folder / f"{self.own.name}-champion"

    @property
    def training(self) -> dict[str, Any]:
        """Settings of a night that trains a challenger: from the champion, for fewer steps at a lower rate."""
        return {"training.max_steps": self._retrain_steps, "training.learning_rate": RATE}

    def prepare(self) -> Release:
        """The champion's release, trained unless it was before."""
        pipeline = self.pipeline(self.champion, self.own.rows, {})
        log = release_log(pipeline.folder)
        reason = nightly(pipeline).reason if log.current() is None else ""
        if (release := log.current()) is None:
            raise RuntimeError(f"{self.own.name} has no champion: {reason}")
        return release

    def copy(self, name: str) -> Path:
        """A folder for a night, or several, with what the champion left."""
        folder = self._folder / f"{self.own.name}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.champion, folder)
        return folder

    def pipeline(self, folder: Path, rows: Sequence[Row], settings: Mapping[str, Any]) -> Pipeline:
        """The pipeline in a folder over some rows, which are written there; `settings` by the path of a field."""
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "captions.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        # Each class has items of every split; drawings are split by what they show.
        split = {"split": "split"} if self.own.name == "grocery" else {}
        blocks: dict[str, Any] = {
            "sources": [{"kind": "jsonl", "path": str(source), "base": str(DATA), "name": "captions"}],
            "columns": {"id": "id", "texts": ["texts"], "group": "concept", **split, "keep": {"kind": "string"}},
            "ingest": {"max_side": self.own.max_side, "workers": 1},
            "model": {"architecture": "tiny-32"},
            "training": {"max_minutes": None, "max_steps": self._steps, "threads": 1},
            "retrain": {"min_new_fraction": 1000, "every_nights": 10_000},
        }
        for path, value in settings.items():
            block, name = path.split(".")
            blocks.setdefault(block, {})[name] = value
        return Pipeline(name=self.own.name, root=folder / "stored", **blocks)

    def night(self, pipeline: Pipeline, during: ExitStack) -> Ended:
        """Run a night while `during` holds, and ask as readers do once it is over."""
        with during:
            try:
                night = nightly(pipeline)
            except (ValueError, RuntimeError, OSError) as error:
                # As the commands do: a night that can't go on has failed, and says why.
                outcome, rule, said = "failed", type(error).__name__, str(error)
            else:
                outcome, said = night.outcome, night.reason
                measures = [each.measure for each in night.findings if each.verdict == "held"]
                rule = f"rows: {', '.join(measures)}" if measures else "model" if night.trained else "night"
        return Ended(outcome, rule, said, self.served(pipeline.folder))

    def served(self, folder: Path) -> Served:
        """What a reader that opens the pipeline now gets."""
        try:
            release = OpenRelease.open(folder)
            found_Q = tuple(self._finds(release, row) for row in self._asked)
        except (ValueError, DamagedError):
            return Served(None, {}, ())
        columns = ["item_id", "texts", "thumbnail", "kind"]
        items = {
            row["item_id"]: (tuple(row["texts"]), hashlib.sha256(row["thumbnail"]).hexdigest(), row["kind"])
            for row in release.dataset.to_table(columns).to_pylist()
        }
        return Served(release.record.number, items, found_Q)

    def _finds(self, release: OpenRelease, row: Row) -> bool:
        """Whether a row's text finds its concept among ten items of the champion's release; others are passed over."""
        hits = [hit.item_id for hit in release.search(row["texts"][0], k=5 * K).hits]
        known = [self._concepts[each] for each in hits if each in self._concepts][:K]
        return row["concept"] in known
