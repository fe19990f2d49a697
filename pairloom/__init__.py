"""Image–text pairs to cross-modal search, every night, unattended."""

# Light: whoever opens a release waits for nothing that trains, whoever asks for the version for nothing at all.
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pairloom.flows.outcome import Night
    from pairloom.search.index import Index

__all__ = ["__version__", "open", "run"]

__version__ = "0.2.0.dev0"

if not Path(__file__).with_name("flows").is_dir():
    # A checkout or an unpacked source distribution without links: the folders lie beside this one.
    __path__.append(str(Path(__file__).parents[1]))


def open(place: Path | str, pipeline: str | None = None, release: int | None = None) -> "Index":
    """The index of a pipeline at its current release: `open(".pairloom").search("a red shoe")`.

    It stays at that release until `refresh()`, and for good where `release` says its number.

    `place` is a file of pipelines, the root folder they store under, or one pipeline's folder in it; `pipeline` is
    needed only where it holds several. Raises ValueError where there is no such release, DamagedError (a RuntimeError)
    where it is not whole.
    """
    from pairloom.flows.config import folder_at
    from pairloom.search.index import Index

    return Index.open(folder_at(Path(place), pipeline), release)


def run(
    file: Path | str, pipeline: str | None = None, *, root: Path | str | None = None, overrides: Sequence[str] = ()
) -> "Night":
    """Run one night of a pipeline in this process, and return how it ended; `pairloom.tasks` logs its progress.

    `overrides` are `key.path=value`, as after `--set`. Raises ValueError for bad configuration and bad sources,
    RuntimeError and OSError where the night fails.
    """
    from pairloom.flows.config import load_pipeline
    from pairloom.flows.here import run_here
    from pairloom.flows.nightly import nightly
    from pairloom.storage.files import make_writable

    chosen = load_pipeline(Path(file), pipeline, root=Path(root) if root else None, overrides=overrides)
    make_writable(chosen.folder)
    return run_here(nightly, chosen, quiet=True)
