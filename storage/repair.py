"""Mend what can be made again from what is whole; nothing that can't be is ever deleted."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pairloom.storage.checked import damage_now
from pairloom.storage.files import copy_in, delete_folder, set_aside, written_aside
from pairloom.storage.releases import ReleaseLog, release_log
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.verification.findings import Finding

__all__ = ["pass_damaged_manifests", "repair"]

logger = logging.getLogger(__name__)


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


def pass_damaged_manifests(log: ReleaseLog) -> None:
    """Have nights, as readers, begin with a release whose table can be opened: manifests that are not what was released
    are set aside, from the newest release on until one is whole. Lance writes no version after such a one, or odd ones.
    """
    folder = log.folder
    for release in log.newest_first():
        manifests = {name: digest for name, digest in release.table_files.items() if "/_versions/" in name}
        damaged = [name for name, digest in manifests.items() if damage_now(folder, {name: digest})]
        if not damaged:
            return
        for name in damaged:
            logger.warning("release %d is passed over: %s has other contents than recorded", release.number, name)
            set_aside(folder, name)


def _delete(path: Path) -> None:
    if path.is_dir():
        delete_folder(path)
    else:
        path.unlink(missing_ok=True)


def _copy(folder: Path, finding: Finding) -> None:
    place = folder / finding.path
    if place.exists():
        set_aside(folder, finding.path)
    with written_aside(place) as aside:
        copy_in(folder / finding.source, aside)


def _hold(folder: Path, finding: Finding) -> None:
    """Write the tag of a kept release again, as its record says."""
    (folder / finding.path).unlink(missing_ok=True)
    release = release_log(folder).stored(finding.releases[-1])
    TableUpkeep(folder / release.table).tag(release.number, release.table_version)
