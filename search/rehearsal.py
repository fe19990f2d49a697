"""A release opened and searched before it is published, in a process of its own: as its readers will, or not at all.

Run with `python -m`; the two arguments are a file with the script, and where to leave what was found, both in JSON. The
process ends when its standard input does, which is when whoever started it has ended.
"""

import os
import sys
import threading
from pathlib import Path

from pydantic import BaseModel

from pairloom.models.evaluation.config import GoldenQuery
from pairloom.search.own_items import (
    Findings,
    ask,
    ask_by_words,
    compare,
    draw_sample,
    embed_images_again,
    embed_texts_again,
    measure_hubness_again,
    shown_ids,
)
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.asked_once import asked_once
from pairloom.storage.checked import CheckedFiles, damage_now
from pairloom.storage.files import FileDigests
from pairloom.storage.modelstore import recorded_digest
from pairloom.storage.objects import StoredPath
from pairloom.storage.releases import Release

MADE_ANEW = "What tonight made is made anew when you run again."
PUT_BACK = (
    "`pairloom verify --repair` makes a table again; a file of the model has to be put back, or `pairloom rollback` to "
    "a release of another model."
)


class Script(BaseModel, frozen=True, extra="forbid"):
    """What is rehearsed."""

    folder: StoredPath
    """The pipeline's."""
    release: Release
    """As it will be published."""
    before: Release | None
    """The one that is served."""
    golden: tuple[GoldenQuery, ...]


class GoldenAnswer(BaseModel, frozen=True, extra="forbid"):
    """What a golden query found."""

    query: str
    wanted: tuple[str, ...]
    """Ids that were to be found."""
    at_least: int
    k: int
    found: tuple[str, ...]
    """Ids of the nearest items, best first."""
    error: str = ""
    """Why it found nothing."""

    @property
    def hits(self) -> int:
        """How many of those wanted were found."""
        return len({*self.found} & {*self.wanted})

    @property
    def missed(self) -> bool:
        """Whether it found fewer than it must."""
        return self.hits < self.at_least

    @property
    def sentence(self) -> str:
        """What it was to find, and found."""
        wanted, found = shown_ids(self.wanted), shown_ids(self.found) or "nothing"
        return (
            f"golden query {self.query} finds {self.hits} of {wanted} among the {self.k} nearest, wanted are "
            f"{self.at_least}: {self.error or f'it found {found}'}"
        )


class Rehearsal(BaseModel, frozen=True, extra="forbid"):
    """What a rehearsal found."""

    faults: tuple[str, ...] = ()
    """Why the release can't be published; empty where it can."""
    remedy: str = MADE_ANEW
    """What helps against them."""
    warnings: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    """Digests of corpus parts whose stored embeddings are damaged, or not what the model gives."""
    golden: tuple[GoldenAnswer, ...] = ()
    looked_at: dict[str, int] = {}
    """How many files are whole, and how many items were compared, asked for and embedded again."""

    @property
    def missed(self) -> str:
        """The golden queries that found too little, in words."""
        return "; ".join(answer.sentence for answer in self.golden if answer.missed)

    @property
    def summary(self) -> str:
        """What was looked at."""
        golden = [f"{len(self.golden)} golden queries"] if self.golden else []
        return ", ".join([*(f"{count:,} {name}" for name, count in self.looked_at.items()), *golden])


@asked_once()
def rehearse(script: Script) -> Rehearsal:
    """Open and search `script.release`: its files, its rows, some of its own items, the golden queries."""
    folder, record, served = script.folder, script.release, script.before
    wrong, damaged = wrong_files(folder, record, served.files if served else {})
    if wrong or damaged:
        return Rehearsal(faults=(*wrong, *damaged), remedy=PUT_BACK if damaged else MADE_ANEW)
    about = {name: each for name, each in record.files.items() if name not in record.needed}
    findings = Findings(warnings=[f"{each}; readers don't need it" for each in damage_now(folder, about)])
    golden = list[GoldenAnswer]()
    looked_at = {"files": len(record.needed)}
    try:
        release = OpenRelease(folder, record)
        sample = draw_sample(release, served, findings)
        compare(release, sample, findings)
        measure_hubness_again(release, sample, findings)
        ask(release, sample, findings)
        ask_by_words(release, sample, findings)
        embed_texts_again(release, sample, findings)
        golden += [answer(release, query) for query in script.golden]
        looked_at |= {"items": len(sample.parts), "items' texts": len(sample.asked)}
        # Torch takes seconds to load: only for the images of a model that is new.
        if served is None or served.model_id != record.model_id or not release.images_wait_for_torch:
            embed_images_again(release, sample, findings)
            looked_at["items' images"] = len(sample.asked)
    except (ValueError, RuntimeError, OSError) as error:
        findings.faults.append(str(error))
    return Rehearsal(
        faults=tuple(findings.faults),
        warnings=tuple(findings.warnings),
        unlike=tuple(dict.fromkeys(findings.unlike)),
        golden=tuple(golden),
        looked_at=looked_at,
    )


def wrong_files(folder: Path, record: Release, served: FileDigests) -> tuple[list[str], list[str]]:
    """What is wrong with the needed files that are new, and with the others.

    Those are read through that aren't known to be whole, which after a release are the new ones.
    """
    checked = CheckedFiles(folder)
    fresh = {name: each for name, each in record.needed.items() if served.get(name) != each}
    wrong = checked.wrong(fresh)
    damaged = checked.wrong({name: each for name, each in record.needed.items() if name not in fresh})
    if not (wrong or damaged) and recorded_digest(record.files, record.model_id) != record.model_id:
        wrong = [f"the digest of the files in models/{record.model_id} isn't its name"]
    return wrong, damaged


def answer(release: OpenRelease, query: GoldenQuery) -> GoldenAnswer:
    """What `release` finds for a golden query."""
    asked = Query(text=query.text, image=query.image, like=query.like)
    found, error = list[str](), ""
    try:
        found = [hit.item_id for hit in search(release, asked, k=query.k).hits]
    except ValueError as said:
        error = str(said)
    return GoldenAnswer(
        query=query.title, wanted=query.find, at_least=query.at_least, k=query.k, found=tuple(found), error=error
    )


def main(script: Path, answer: Path) -> None:
    """Rehearse what the file `script` says, and leave what was found in the file `answer`."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    found = rehearse(Script.model_validate_json(script.read_bytes()))
    answer.write_text(found.model_dump_json(), encoding="utf-8")


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
