"""What is known of tonight's cut-offs without measuring: those of the release before, and which can't be had yet."""

from dataclasses import dataclass, field

from pairloom.storage.changes import differing
from pairloom.storage.corpus import Corpus
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import Cutoff, Release
from pairloom.tasks.indexing.begun import snapshot_of
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import TableRef

DIRECTIONS = ("text_to_image", "image_to_image")


@dataclass(frozen=True)
class Known:
    """By direction, what needs no measuring; nothing for a new model."""

    cutoffs: dict[str, Cutoff] = field(default_factory=dict)
    too_few: dict[str, int] = field(default_factory=dict)
    """How many validation queries there are at most: fewer than a cut-off is measured with."""

    @classmethod
    def of(cls, pipeline: Pipeline, before: Release, table: TableRef, most: float) -> "Known":
        """What holds for tonight's table of what a release of the same model says."""
        cutoffs = {name: each for name, each in before.cutoffs.items() if each.max_false_finds == most}
        lacking = {name: count for name, count in before.too_few.items() if name not in cutoffs}
        if not lacking:
            return cls(cutoffs)
        try:
            came = new_queries(pipeline, before, table)
        except DamagedError:
            return cls(cutoffs)
        at_most = {name: count + came[name] for name, count in lacking.items()}
        return cls(cutoffs, {name: count for name, count in at_most.items() if count * most < 1})

    @property
    def whole(self) -> bool:
        """Whether nothing is left to be measured."""
        return {*self.cutoffs, *self.too_few} >= {*DIRECTIONS}


def new_queries(pipeline: Pipeline, before: Release, table: TableRef) -> dict[str, int]:
    """How many validation queries there may be more than the release `before` had, by what is written otherwise in the
    corpus since; nothing else is read. Raises DamagedError where its snapshot can't be read.

    A text of a validation item is one. An image is one where another one is of its group: an item may make two of them.
    """
    corpus = Corpus(pipeline.folder)
    came: dict[str, int] = dict.fromkeys(DIRECTIONS, 0)
    tonight, old = corpus.log.read(table.snapshot), snapshot_of(corpus, before)
    for _, batch in differing(corpus, tonight, old, ["texts", "group", "split"]):
        for row in batch.to_pylist():
            val = row["split"] == "val"
            came["text_to_image"] += len(row["texts"]) if val else 0
            # A group is in one split, unless the source says which.
            grouped = row["group"] is not None and (val or pipeline.columns.split is not None)
            came["image_to_image"] += 2 if grouped else 0
    return came
