"""Read through everything that a pipeline keeps, and say what is no longer what was written."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pairloom.storage.checked import CheckedFiles
from pairloom.storage.files import DAMAGED
from pairloom.storage.releases import release_log
from pairloom.storage.verification.caches import Cache, caches, tag_faults
from pairloom.storage.verification.findings import Fault, Finding, Verification
from pairloom.storage.verification.kept import kept
from pairloom.storage.verification.remedies import findings, serving

__all__ = ["Finding", "Verification", "verify"]

Progress = Callable[[int, int], None]
"""Hears how many bytes were read of how many."""


def verify(folder: Path, releases: int, progress: Progress | None = None) -> Verification:
    """What is wrong with what the newest `releases` releases of the pipeline in `folder` keep.

    Read are all files that their records and those of their snapshots name, the current snapshot's, and what no record
    names: embeddings, pairs, tags and caches. Raises OSError where something can't be read that isn't missing.
    """
    number = release_log(folder).next_number()
    stored = kept(folder, releases)
    loose = list(caches(folder, stored))
    sizes = {name: digest.bytes for name, digest in stored.files}
    for each in loose:
        # A night that runs meanwhile may replace them.
        with contextlib.suppress(FileNotFoundError):
            sizes |= {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(each)}
    done, total = 0, sum(sizes.values())
    faults, checked = list(stored.faults), CheckedFiles(folder)
    for (name, digest), named in stored.files.items():
        if wrong := checked.read_through(name, digest):
            faults.append(Fault(name, named.kind, wrong, tuple(sorted(named.releases)), tuple(sorted(named.snapshots))))
        done += digest.bytes
        if progress:
            progress(done, total)
    checked.save()
    for each in loose:
        if fault := each.fault(folder):
            faults.append(fault)
        name = each.path.relative_to(folder).as_posix()
        done += sum(size for path, size in sizes.items() if path == name or path.startswith(f"{name}/"))
        if progress:
            progress(done, total)
    faults += tag_faults(folder, stored)
    if faults and release_log(folder).next_number() != number:
        # A night has released meanwhile, and cleaned up what this one took for kept.
        return verify(folder, releases, progress)
    read = {*sizes, *stored.records}
    return Verification(
        files=len(read),
        bytes=total,
        unneeded=sum(1 for name in _unread(folder) if name not in read),
        newest=stored.releases[-1].number if stored.releases else None,
        serves=serving(stored, faults),
        findings=findings(stored, faults),
    )


def _files(cache: Cache) -> Iterator[Path]:
    if cache.path.is_dir():
        yield from (path for path in cache.path.iterdir() if path.is_file())
    else:
        yield cache.path


def _unread(folder: Path) -> Iterator[str]:
    """Files that may or may not be needed: not work in progress, tags, nor what is ours to remember."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if "/" in name and not name.startswith(("runs/", f"{DAMAGED}/")) and "/_refs/" not in name and path.is_file():
            yield name
