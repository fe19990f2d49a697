"""What can be done about each fault, once all are known."""

from collections.abc import Sequence

from pairloom.storage.files import FileDigest
from pairloom.storage.releases import Release
from pairloom.storage.verification.findings import SERVED, Fault, Finding, Repair
from pairloom.storage.verification.kept import Kept

NO_COPY = "it has no other copy here: put it back from one"
OF_CACHES = {
    "features part": "it is deleted, and computed again by the next night that needs it",
    "neighbours": "it is deleted, and computed again by the next mining",
    "known rows": "it is deleted, and the next night reads what it needs again",
    "word vectors": "it is deleted, and learned again when it is asked for",
    "class vectors": "it is deleted, and the examples are embedded again",
    "pairs": "they are deleted, and mined again where a night is at it",
}


def findings(kept: Kept, faults: Sequence[Fault]) -> tuple[Finding, ...]:
    """Each fault with its remedy, what is served first."""
    return tuple(_Remedies(kept, faults).finding(fault) for fault in sorted(faults, key=_order))


def serving(kept: Kept, faults: Sequence[Fault]) -> int | None:
    """Number of the newest release that nothing is wrong with which it needs."""
    broken = {number for fault in faults if fault.kind in SERVED for number in fault.releases}
    return next((each.number for each in reversed(kept.releases) if each.number not in broken), None)


def _order(fault: Fault) -> tuple[bool, str, str]:
    return fault.kind not in SERVED, fault.kind, fault.path


class _Remedies:
    """What is known of all faults together."""

    def __init__(self, kept: Kept, faults: Sequence[Fault]) -> None:
        self.kept = kept
        self.paths = {fault.path for fault in faults}
        self.serves = serving(kept, faults)
        self.newest = kept.releases[-1] if kept.releases else None
        self.whole_snapshots = [
            number for number, snapshot in kept.snapshots.items() if not self.paths & snapshot.files.keys()
        ]

    def finding(self, fault: Fault) -> Finding:
        """The fault with what can be done about it."""
        repair, remedy, source = self._remedy(fault)
        return Finding(
            path=fault.path,
            kind=fault.kind,
            wrong=fault.wrong,
            releases=fault.releases,
            snapshots=fault.snapshots,
            remedy=remedy,
            repair=repair,
            source=source,
        )

    def _remedy(self, fault: Fault) -> tuple[Repair, str, str]:
        match fault.kind:
            case "release record":
                return self._of_release(fault)
            case "snapshot record":
                return self._of_snapshot(fault)
            case "manifest" | "corpus part" | "quarantine part":
                return "none", self._of_corpus(fault), ""
            case "model" | "measured model" | "model card" | "exported tower":
                return self._of_model(fault)
            case "table":
                return self._of_table(fault)
            case "tag":
                if fault.releases:
                    return "hold", f"it is written again from the record of release {fault.releases[-1]}", ""
                return "delete", "it is deleted: nothing kept needs it", ""
            case "embeddings part":
                return self._of_embeddings(fault)
            case "class examples":
                return "none", f"{NO_COPY}, or remove it and add its images again with `pairloom classes add`", ""
            case _:
                return "delete", OF_CACHES[fault.kind], ""

    def _of_release(self, fault: Fault) -> tuple[Repair, str, str]:
        if fault.wrong == "is missing":
            return "none", f"what it bound can't be served again, unless it is put back; {self._instead}", ""
        if self.serves is None:
            return "none", f"{NO_COPY}; {self._instead}", ""
        return "set aside", f"it is moved to damaged/, and its number stays taken; {self._instead}", ""

    def _of_snapshot(self, fault: Fault) -> tuple[Repair, str, str]:
        if fault.wrong == "is missing":
            return "none", "put it back; what is served doesn't need it", ""
        if not self.whole_snapshots:
            return "none", f"{NO_COPY}; what is served doesn't need it", ""
        goes_on = f"nights go on from snapshot {max(self.whole_snapshots)}, and what is served doesn't need it"
        return "set aside", f"it is moved to damaged/, and its number stays taken; {goes_on}", ""

    def _of_corpus(self, fault: Fault) -> str:
        if fault.kind == "corpus part":
            rows = sum(
                part.rows
                for part in {part for each in self.kept.snapshots.values() for part in each.parts}
                if f"part-{part.digest}." in fault.path
            )
            return (
                f"{rows:,} items as they were ingested; what is served doesn't need it. Put it back from a copy; or "
                "move it away, and the next night reads from the sources what they still hold of it"
            )
        if fault.kind == "quarantine part":
            return "rows that are no items; put it back, or let the next night that changes anything write it anew"
        return "what is served doesn't need it: put it back from a copy, or let nights go on from the snapshot before"

    def _of_model(self, fault: Fault) -> tuple[Repair, str, str]:
        source = self._same_bytes(fault.path)
        if source:
            return "copy", f"it is copied from {source}, which is the same", source
        if fault.kind == "exported tower":
            return self._of_export(fault)
        if fault.kind == "measured model":
            return "none", f"{NO_COPY}; {self._instead}, but no night can compare or start from it until then", ""
        if fault.kind == "model card":
            return "none", f"{NO_COPY}; nothing that is served rests on it", ""
        return "none", f"{NO_COPY}; {self._instead}", ""

    def _of_export(self, fault: Fault) -> tuple[Repair, str, str]:
        needing = (release for release in self.kept.releases if release.number in fault.releases)
        if any((release.model_files | release.measured_files).keys() & self.paths for release in needing):
            return "none", "until its model is mended, it can't be exported again", ""
        return "export", "it is exported from its model again; until then, queries load torch", ""

    def _of_table(self, fault: Fault) -> tuple[Repair, str, str]:
        newest = self.newest
        if newest is None or newest.number not in fault.releases:
            some = ", ".join(str(number) for number in fault.releases)
            return "none", f"{NO_COPY}; until then nobody can go back to release {some}", ""
        if (lacking := self._lacks(newest)) is not None:
            return "none", f"{NO_COPY}, since {lacking}; {self._instead}", ""
        return "rebuild", f"the table of release {newest.number} is built anew from the corpus, and released", ""

    def _of_embeddings(self, fault: Fault) -> tuple[Repair, str, str]:
        model = f"models/{fault.path.split('/')[1]}/"
        part = f"corpus/{fault.path.rpartition('/')[2]}"
        if part in self.paths or any(path.startswith(model) for path in self.paths):
            return "none", "kept as it is, since its model or its corpus part is damaged too", ""
        return "delete", "it is deleted, and embedded again by the next night that needs it", ""

    def _lacks(self, release: Release) -> str | None:
        """Why the table of a release can't be built anew; None where it can."""
        if self.paths & release.model_files.keys():
            return "its model is damaged too"
        if release.snapshot not in self.whole_snapshots:
            return f"snapshot {release.snapshot} is damaged too"
        return None

    def _same_bytes(self, path: str) -> str:
        """Another file with the same recorded content, which is whole."""
        wanted: set[FileDigest] = {digest for name, digest in self.kept.files if name == path}
        names = (name for name, digest in self.kept.files if digest in wanted and name not in self.paths)
        return next(names, "")

    @property
    def _instead(self) -> str:
        if self.serves is None:
            return "no release is whole"
        if self.newest is not None and self.newest.number == self.serves:
            return f"release {self.serves} is whole and served"
        return (
            f"release {self.serves} is whole and what readers are given; nights go on from it after "
            f"`pairloom rollback {self.serves}`"
        )
