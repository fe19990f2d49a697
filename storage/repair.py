"""Mend what can be made again from what is whole; nothing that can't be is ever deleted."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pairloom.storage.files import set_aside, written_aside
from pairloom.storage.releases import release_log
from pairloom.storage.table.vectors import VectorTable
from pairloom.storage.verification.findings import Finding

__all__ = ["repair"]


def repair(folder: Path, findings: Sequence[Finding]) -> list[Finding]:
    """Do what some findings say can be done; returns those that it was done about, but for tables to be rebuilt."""
    done = []
    for finding in findings:
        match finding.repair:
            case "delete":
                _delete(folder / finding.path)
            case "set aside":
                set_aside(folder, finding.path)
            case "copy":
                _copy(folder, finding)
            case "hold":
                _hold(folder, finding)
            case _:
                continue
        done.append(finding)
    return done


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy(folder: Path, finding: Finding) -> None:
    place = folder / finding.path
    if place.exists():
        set_aside(folder, finding.path)
    with written_aside(place) as aside:
        shutil.copyfile(folder / finding.source, aside)


def _hold(folder: Path, finding: Finding) -> None:
    """Write the tag of a kept release again, as its record says."""
    (folder / finding.path).unlink(missing_ok=True)
    release = release_log(folder).stored(finding.releases[-1])
    VectorTable(folder / release.table).tag(release.number, release.table_version)
