"""A released model, opened: loaded once, however many releases of it a reader goes through."""

import logging
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from pairloom.models.objectives.kept_configs import RERANKS, read_configs, reranker_config
from pairloom.storage.checked import CheckedFiles, whole_copy
from pairloom.storage.files import DamagedError, FileDigests
from pairloom.storage.releases import Release
from pairloom.storage.training_texts import TrainingTexts

if TYPE_CHECKING:
    from pairloom.models.encoder import Encoder
    from pairloom.models.exported import ExportedEncoder
    from pairloom.models.reranker import Reranker

logger = logging.getLogger(__name__)


class OpenModel:
    """The model that a release names; each part of it is loaded when it is first asked for, whichever thread asks."""

    def __init__(self, folder: Path, record: Release) -> None:
        self.folder = folder
        self.record = record
        # cached_property has no lock of its own from Python 3.12 on, and the re-ranker takes the encoder.
        self._loading = RLock()

    def is_of(self, record: Release) -> bool:
        """Whether a release names this very model, file by file."""
        return _identity(record) == _identity(self.record)

    @property
    def encoder(self) -> "Encoder":
        """The dual encoder. Raises ValueError where it is not the one released."""
        with self._loading:
            return self._encoder

    @property
    def reranker(self) -> "Reranker":
        """The cross-encoder beside the dual encoder; ValueError where the model has none."""
        with self._loading:
            return self._reranker

    @property
    def reranks(self) -> bool:
        """Whether there is one; nothing is loaded to tell."""
        return any(each.get("loss") == RERANKS for each in read_configs(self._directory).values())

    @property
    def exported(self) -> "ExportedEncoder | None":
        """Its exported towers, which need no torch; None, with a warning where that is news, where there are none."""
        with self._loading:
            return self._exported

    @cached_property
    def words(self) -> frozenset[str] | None:
        """All words of its training texts; None where nobody knows them."""
        return TrainingTexts(self._directory).words()

    @cached_property
    def _encoder(self) -> "Encoder":
        # Imported here: SQL and texts answer without waiting seconds for torch.
        from pairloom.models.encoder import Encoder

        encoder = Encoder.load(self._directory)
        self._refuse_other_length(encoder.dimension)
        return encoder

    @cached_property
    def _reranker(self) -> "Reranker":
        # Before torch and the towers are loaded, for a model that has none.
        reranker_config(self._directory)
        from pairloom.models.reranker import Reranker

        return Reranker.load(self._directory, self._encoder)

    @cached_property
    def _exported(self) -> "ExportedEncoder | None":
        if not (files := self.record.export_files):
            return None
        if wrong := CheckedFiles(self.folder).wrong(files):
            logger.warning(
                "queries load torch, since %s: `pairloom verify --repair` exports the model again", "; ".join(wrong[:3])
            )
            return None
        from pairloom.models.exported import ExportedEncoder

        exported = ExportedEncoder.load(self._directory)
        self._refuse_other_length(exported.dimension)
        for each in exported.manifest.reasons:
            logger.warning("%s", each)
        return exported

    @cached_property
    def _directory(self) -> Path:
        """The model's folder. Raises DamagedError where a file in it has changed since the release was opened."""
        refuse_damage(self.folder, self.record, self.record.model_files)
        return whole_copy(self.folder, f"models/{self.record.model_id}", self.record.model_files)

    def _refuse_other_length(self, length: int) -> None:
        if length != self.record.dimension:
            raise ValueError(
                f"model {self.record.model_id} makes vectors of length {length}, "
                f"the table of release {self.record.number} holds {self.record.dimension}"
            )


def _identity(record: Release) -> tuple[FileDigests, FileDigests, int]:
    return record.model_files, record.export_files, record.dimension


def refuse_damage(folder: Path, record: Release, files: FileDigests) -> None:
    """Raises DamagedError where some of a release's files are not what its record says."""
    model = f"models/{record.model_id}"
    wrong = CheckedFiles(folder).wrong(files) if (folder / model).is_dir() else [f"{model} is missing"]
    if wrong:
        raise DamagedError(f"release {record.number} is not whole: {'; '.join(wrong[:3])}")
