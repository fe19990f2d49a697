"""Work in progress: one folder per run, holding what each stage left, so that a killed run goes on where it stopped."""

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ValidationError

from pairloom.storage.failpoints import hit
from pairloom.storage.files import delete_folder, written_aside
from pairloom.storage.local_copies import beside

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=BaseModel)


class Run:
    """One night's work in progress, below a pipeline's folder."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.folder = folder / "runs" / run_id
        """What each stage left."""
        self.here = beside(self.folder)
        """What one machine alone needs: the same folder, unless that is on object storage."""
        self.pixels = self.here / "pixels.npy"
        """All training images, as the network takes them."""
        self.places = self.here / "places.npy"
        """Or where their images lie in the corpus, where those are decoded for each batch."""
        self.features = self.here / "features.npy"
        """What a frozen trunk makes of them, where that is what is trained on."""
        self.moved = self.here / "moved.npy"
        """How far it takes some of them apart when they are moved, where a start in closed form goes by that."""
        self.training = self.here / "training"
        """Checkpoints and log."""
        self.built = self.here / "model"
        """The trained model, until it is in the store."""

    @property
    def refit(self) -> Self:
        """The work of training its model further, on all items: a folder of the same kind within."""
        return type(self)(self.folder.parents[1], f"{self.folder.name}/refit")

    def read(self, stage: str, kind: type[R]) -> R | None:
        """What `stage` left, or None where it has not finished, or where another version of Pairloom left it."""
        path = self.folder / f"{stage}.json"
        try:
            return kind.model_validate_json(path.read_bytes()) if path.is_file() else None
        except ValidationError as error:
            logger.warning(
                "%s is not what this version of Pairloom leaves there: it is made anew (%s)",
                path,
                error.errors()[0]["msg"],
            )
            return None

    def write(self, stage: str, ref: BaseModel) -> None:
        """Leave what `stage` made, in one step."""
        with written_aside(self.folder / f"{stage}.json") as aside:
            aside.write_text(ref.model_dump_json(indent=1), encoding="utf-8")

    def scratch(self) -> list[Path]:
        """What only its trainings read, once they have left word of their models: nobody reads it any more."""
        return [
            path
            for run in (self, self.refit)
            if (run.folder / "train.json").is_file()
            for path in (run.pixels, run.places, run.features, run.moved, run.training, run.built)
            if path.exists()
        ]

    def sweep(self) -> None:
        """Delete this work in progress."""
        hit("sweep.before", self.folder)
        with contextlib.suppress(OSError):
            delete_folder(self.folder)
        shutil.rmtree(self.here, ignore_errors=True)
        hit("sweep.after", self.folder)
