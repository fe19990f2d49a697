"""What a pipeline promises (DESIGN, section 1), asked of random histories of nights, kills and rollbacks.

    python -m benchmarks.promises --histories 200

Hypothesis plays histories over the tiny nights of `benchmarks/tiny_nights.py`, beginning after a first release: rows
come, change and go; the training configuration changes; nights run, stop after their ingest, are killed or fail at a
drawn failpoint and perhaps run again; a person rolls back, between nights and amid one; another night runs amid one;
clean-up runs. After every step:

- what is served is one release, whole: the rows, vectors and record that it was published with;
- it serves the items of a snapshot that was committed, embedded by the model that it names;
- every release within `retention` can be opened and is as it was published;
- a record never changes, its number is given once, and the current number never falls;
- a night that failed or was killed serves what was served, or has released;
- a night that ends serves what the sources say, or what a rollback went back to: that stays until something changes.
"""

# N = items, D = embedding

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from benchmarks.tiny_nights import NAMES, Content, Nights, failing, listening, served_content
from pairloom.models.encoder import mean_text_embeddings
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.corpus import Corpus
from pairloom.storage.files import DamagedError, DiskFullError
from pairloom.storage.garbage import collect_garbage
from pairloom.storage.records import StaleWriterError
from pairloom.storage.releases import release_log, roll_back
from pairloom.storage.retention import RetentionConfig
from pairloom.tasks.ingest import ingest

BASE = len(NAMES)
MORE = st.integers(0, 5)
POINTS = st.integers(0, 40)
NEVER = 10_000


class KilledError(BaseException):
    """Ends a night as a kill does, but for what is unwound."""


class Promises(RuleBasedStateMachine):
    """Histories of one pipeline."""

    start: Path
    """A folder with the tiny collection after its first night."""
    nights_run = 0

    def __init__(self) -> None:
        super().__init__()
        # Under the same name: it labels the source.
        self.folder = Path(tempfile.mkdtemp(prefix="promises-"), self.start.name)
        shutil.copytree(self.start, self.folder)
        self.nights = Nights(self.folder)
        self.nights.prepare(1)
        self.nights.grace_hours = 24
        self.log = release_log(self.nights.stored)
        self.published: dict[int, Content] = {}
        self.records: dict[int, bytes] = {}
        self.versions = 0
        self.negatives = 4
        self.settled = True
        """Whether nothing has changed since the last night that ended, and it released all there was."""
        self.newest = 1

    @initialize()
    def begin(self) -> None:
        self.note()

    def teardown(self) -> None:
        shutil.rmtree(self.folder.parent)

    @rule(place=MORE, price=st.integers(0, 2))
    def put(self, place: int, price: int) -> None:
        """A row is new, or another version of itself, of which each has its own picture."""
        self.versions += 1
        self.nights.put(f"more {place}", name=NAMES[self.versions % BASE], shade=1 + self.versions, price=price)
        self.changed()

    @rule(place=MORE)
    def drop(self, place: int) -> None:
        if self.nights.rows.pop(f"more {place}", None):
            self.changed()

    @rule(negatives=st.integers(1, 3))
    def reconfigure(self, negatives: int) -> None:
        """The next night trains."""
        if negatives != self.negatives:
            self.negatives = negatives
            self.nights.changes = {"mining": {"num_negatives": negatives}}
            self.changed()

    @rule()
    def night(self) -> None:
        """A whole night."""
        self.run_whole()

    @rule(at=POINTS, error=st.sampled_from((KilledError, OSError)), again=st.booleans())
    def broken_night(self, at: int, error: type[BaseException], again: bool) -> None:
        """A night that is killed or fails, and is run again or not."""

        def fault() -> None:
            raise error("the fault")

        with contextlib.suppress(KilledError, OSError, DiskFullError), listening(failing(at, fault)):
            self.nights.run()
        self.settled = False
        if again:
            self.run_whole()

    @rule(at=POINTS, what=st.sampled_from(("rollback", "night", "ingest")))
    def crowded_night(self, at: int, what: str) -> None:
        """A night amid which something else happens: it loses, and says so, or nothing is in its way."""
        happened = []

        def meanwhile() -> None:
            if what == "night":
                self.nights.run()
            elif what == "ingest":
                ingest(self.nights.pipeline)
            else:
                roll_back(self.nights.stored, self.current())
            happened.append(self.current())

        try:
            with listening(failing(at, meanwhile)):
                self.nights.run()
        except StaleWriterError:
            assert happened
        self.settled = False

    @rule(back=st.integers(0, 3))
    def rollback(self, back: int) -> None:
        """A person goes back, as far as there is something to go back to."""
        number, settled = self.current() - back, self.settled
        try:
            made = roll_back(self.nights.stored, number)
        except (ValueError, DamagedError):
            assert number < 1 or number <= self.current() - self.retention
            return
        assert made.number == self.current()
        was, now = self.published[number], self.served()
        assert (was.served, was.vectors_ND.tolist()) == (now.served, now.vectors_ND.tolist())
        if settled:
            # Nothing is new: it stays.
            night = self.nights.run()
            assert (night.outcome, night.release) == ("unchanged", made.number), night.reason

    @rule()
    def ingest_only(self) -> None:
        """What a night stopped after its first stage leaves."""
        ingest(self.nights.pipeline)

    @rule()
    def collect(self) -> None:
        """Clean-up that nobody asked for."""
        collect_garbage(self.nights.stored, RetentionConfig(releases=self.retention, grace_hours=0), ())

    @rule()
    def read(self) -> None:
        """The vectors are those of the model that is named, which answers queries."""
        release = OpenRelease.open(self.nights.stored)
        rows = release.dataset.to_table(columns=["item_id", "texts", "text_vector"]).to_pylist()
        row = rows[self.versions % len(rows)]
        vector = mean_text_embeddings(release.encoder.embed_texts(row["texts"]), [np.arange(len(row["texts"]))])
        assert np.allclose(vector[0], row["text_vector"], rtol=0, atol=1e-5)
        found = search(release, Query(like=row["item_id"]), k=3)
        assert len(found.hits) == 3
        assert found.release == release.record.number

    @invariant()
    def promises(self) -> None:
        """What holds after every step."""
        self.note()
        current = self.current()
        assert current == self.newest
        record = self.log.read(current)
        corpus = Corpus(self.nights.stored)
        snapshot = corpus.log.read(record.snapshot)
        assert snapshot.digest == record.snapshot_digest
        committed = corpus.table(snapshot, ["item_id", "content_digest"]).to_pylist()
        assert {row["item_id"]: row["content_digest"] for row in committed} == {
            item: row["content_digest"] for item, row in self.served().served.items()
        }
        for number in range(max(1, current - self.retention + 1), current + 1):
            assert not self.published[number].differences(self.served(number)), f"release {number} is another one now"

    @property
    def retention(self) -> int:
        return self.nights.pipeline.retention.releases

    def changed(self) -> None:
        self.nights.write()
        self.settled = False

    def current(self) -> int:
        release = self.log.current()
        assert release is not None
        return release.number

    def served(self, number: int | None = None) -> Content:
        return Content(items={}, quarantine=[], pairs=[], **served_content(self.nights.stored, number))

    def note(self) -> None:
        """Remember the releases that are new, and that those that aren't are as they were."""
        for number in sorted(self.log.numbers()):
            found = self.log.path(number).read_bytes()
            assert self.records.setdefault(number, found) == found, f"the record of release {number} has changed"
            if number not in self.published and number > self.newest - 2:
                self.published[number] = self.served(number)
        newest = max(self.records)
        assert newest >= self.newest
        self.newest = newest

    def run_whole(self) -> None:
        """A night that ends: what is served is what the sources say, or what a rollback went back to."""
        before = self.current()
        night = self.nights.run()
        type(self).nights_run += 1
        record = self.log.read(self.current())
        assert night.release == record.number
        if night.outcome == "unchanged":
            assert record.number == before
        if night.outcome == "released" or record.rolled_back_to is None:
            served = {item: (row["texts"], row["price"]) for item, row in self.served().served.items()}
            assert served == {item: (row["texts"], row["price"]) for item, row in self.nights.rows.items()}
        self.settled = True


def play(histories: int, steps: int, *, derandomize: bool = False) -> int:
    """Play so many histories of up to so many steps; returns how many whole nights there were."""
    Promises.nights_run = 0
    with tempfile.TemporaryDirectory() as name:
        Promises.start = Path(name, "collection")
        nights = Nights(Promises.start)
        nights.prepare(1)
        nights.run()
        run_state_machine_as_test(
            Promises,
            settings=settings(
                max_examples=histories,
                stateful_step_count=steps,
                deadline=None,
                derandomize=derandomize,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    return Promises.nights_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--steps", type=int, default=15)
    asked = parser.parse_args()
    load, started, used = os.getloadavg()[0], time.monotonic(), time.process_time()
    nights = play(asked.histories, asked.steps)
    seconds, cpu = time.monotonic() - started, time.process_time() - used
    sys.stdout.write(
        f"{asked.histories} histories of up to {asked.steps} steps, {nights} whole nights, no promise broken; "
        f"{seconds:,.0f} s, {cpu:,.0f} s of them CPU; load {load:.1f} at the start\n"
    )


if __name__ == "__main__":
    main()
