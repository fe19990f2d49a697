"""Many addresses fetched at once, in threads behind the caller's back; results come as they come."""

import queue
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import httpx

from pairloom.storage.fetching.answer import Answer, Question
from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.fetching.public import AddressRefusedError
from pairloom.storage.fetching.request import Failed, Outcome, Redirected, Requests
from pairloom.storage.fetching.turns import Turns
from pairloom.storage.fetching.url import checked
from pairloom.storage.images.stored_image import RejectedImage
from pairloom.storage.reasons import Reason

_LONGEST_WAIT = 60.0
"""Seconds of a `Retry-After` that are waited for; a host that asks for more is left alone."""
_RESULTS_AHEAD = 16
"""Fetched images that may wait to be taken, before no more are asked for."""


def fetch(questions: Sequence[Question], config: FetchConfig) -> Generator[tuple[Question, Answer], None, None]:
    """What is at each address, in the order in which that becomes known.

    Held in memory are at most `concurrency` images under way and `_RESULTS_AHEAD` more.
    """
    jobs = []
    for question in questions:
        try:
            jobs.append(_Job(question, checked(question.address), config.timeout_seconds))
        except AddressRefusedError as error:
            yield question, RejectedImage(Reason.ADDRESS_REFUSED, f"{question.address[:100]!r}: {error}"[:300])
    if not jobs:
        return
    crew = _Crew(jobs, config)
    try:
        crew.start()
        for _ in jobs:
            answer = crew.answers.get()
            if isinstance(answer, BaseException):
                raise answer
            # An interrupt can leave a lock held for ever; operations of these queues are single ones.
            crew.events.put(_TAKEN)
            yield answer
    finally:
        crew.events.put(_STOP)


@dataclass(slots=True)
class _Job:
    question: Question
    url: httpx.URL
    seconds: float
    """Left of this attempt."""
    hops: int = 0
    attempts: int = 1

    @property
    def host(self) -> str:
        return self.url.host


@dataclass(frozen=True, slots=True)
class _Ended:
    job: _Job
    host: str
    outcome: Outcome | BaseException


_TAKEN = "taken"
_STOP = "stop"


class _Crew:
    """A thread that says who is asked next, which alone knows the state of things, and threads that ask."""

    def __init__(self, jobs: Sequence[_Job], config: FetchConfig) -> None:
        self.answers: SimpleQueue[tuple[Question, Answer] | BaseException] = SimpleQueue()
        self.events: SimpleQueue[_Ended | str] = SimpleQueue()
        self._config = config
        self._requests = Requests(config)
        self._given: SimpleQueue[tuple[str, _Job] | None] = SimpleQueue()
        self._turns: Turns[_Job] = Turns(config.per_host, config.give_up_after)
        self._running = self._ahead = 0
        self._askers = min(config.concurrency, len(jobs))
        for job in jobs:
            self._turns.add(job.host, job)

    def start(self) -> None:
        # Daemons: nothing of theirs is worth waiting for where the program ends.
        for work in (self._lead, *[self._ask] * self._askers):
            threading.Thread(target=work, name="fetch", daemon=True).start()

    def _lead(self) -> None:
        try:
            while (event := self._next_event()) is not _STOP:
                if isinstance(event, _Ended):
                    self._running -= 1
                    self._take_down(event)
                elif event is _TAKEN:
                    self._ahead -= 1
        except BaseException as error:  # handed to whoever asks for the answers
            self.answers.put(error)
        finally:
            self._requests.stop()
            for _ in range(self._askers):
                self._given.put(None)
            while self._running:
                self._running -= isinstance(self.events.get(), _Ended)
            self._requests.close()

    def _next_event(self) -> _Ended | str | None:
        now = time.monotonic()
        while self._running < self._askers and self._ahead < _RESULTS_AHEAD and (turn := self._turns.take(now)):
            host, job = turn
            if self._turns.given_up(host):
                self._turns.ended(host, answered=False)
                self._answer(job, _left_alone(host))
            else:
                self._running += 1
                self._given.put(turn)
        when = self._turns.next_time()
        try:
            return self.events.get(timeout=None if when is None else max(0.0, when - now))
        except queue.Empty:
            return None

    def _take_down(self, ended: _Ended) -> None:
        job, host, outcome = ended.job, ended.host, ended.outcome
        self._turns.ended(host, answered=not isinstance(outcome, Failed))
        match outcome:
            case BaseException():
                raise outcome
            case Redirected(url):
                job.url, job.hops = url, job.hops + 1
                if job.hops > self._config.max_redirects:
                    message = f"redirected more than {self._config.max_redirects} times"
                    self._answer(job, RejectedImage(Reason.IMAGE_NOT_FETCHED, message))
                else:
                    self._turns.resume(job.host, job)
            case Failed(rejected, retry_after):
                self._try_again(job, host, rejected, retry_after)
            case _:
                self._answer(job, outcome)

    def _try_again(self, job: _Job, host: str, rejected: RejectedImage, retry_after: float | None) -> None:
        now = time.monotonic()
        wait = self._config.backoff_seconds * 2 ** (job.attempts - 1)
        if retry_after is not None:
            wait = retry_after
            if wait > _LONGEST_WAIT:
                self._turns.give_up(host)
            self._turns.pause(host, now + wait)
        job.attempts += 1
        if job.attempts > self._config.attempts or self._turns.given_up(host):
            self._answer(job, rejected)
            return
        # From the start: redirects may lead elsewhere by now.
        job.url, job.hops, job.seconds = checked(job.question.address), 0, self._config.timeout_seconds
        self._turns.add_later(job.host, job, now + wait)

    def _answer(self, job: _Job, answer: Answer) -> None:
        self._ahead += 1
        self.answers.put((job.question, answer))

    def _ask(self) -> None:
        while (turn := self._given.get()) is not None:
            host, job = turn
            outcome: Outcome | BaseException
            began = time.monotonic()
            try:
                outcome = self._requests.ask(job.url, job.question.validators, job.seconds)
            except BaseException as error:  # handed to whoever asks for the answers
                outcome = error
            job.seconds -= time.monotonic() - began
            self.events.put(_Ended(job, host, outcome))


def _left_alone(host: str) -> RejectedImage:
    return RejectedImage(Reason.IMAGE_NOT_FETCHED, f"{host} failed too often, and was left alone", transient=True)
