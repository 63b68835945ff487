"""The queue: the clients in turn, and no more waiting than can be served."""

import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic_core import from_json

from gen.errors import InputError, RoomError
from gen.events import Cancel, Event, Loading, Progress
from gen.run_folder.saving import write
from gen.turns import Turns

WAITING = 100  # jobs, at most
WAITING_PER_CLIENT = 50
ATTEMPTS = 2  # a job that ended the process so often is not begun again
MOST_BYTES = 1_000_000  # of a journal
LONGEST_KEY = 64
RETRY_AFTER = 120  # seconds; longer waits are not heeded by OpenAI's client


class QueueFullError(InputError):
    """Too many jobs are waiting; `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many jobs are waiting: try again in {retry_after} s")
        self.retry_after = retry_after


class StoppingError(InputError):
    """The server is ending."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down: try again when it is back")


class FatalJobError(InputError):
    """The job has ended the process before, and may not do it again."""

    def __init__(self, journal: Path) -> None:
        super().__init__(
            f"this job was cut off {ATTEMPTS} times by the end of the server, so it is not tried "
            f"again: ask for less, or remove {journal.name} from the output folder and restart"
        )


@dataclass(eq=False)
class Job:
    """Something to be done for a client, with its outcome in `future`.

    `cancel` ends it early when it runs, `began` is when it was begun (by `perf_counter`),
    `progress` what it reported last, and `loading` what it waits for, if it waits for a model.
    """

    client: str
    work: Callable[["Job"], Any]
    key: str | None = None  # what makes two jobs the same to the journal; None: not noted there
    cancel: Cancel = field(default_factory=Cancel)
    began: float | None = None
    progress: Progress | None = None
    loading: Loading | None = None
    future: Future[Any] = field(default_factory=Future)

    def follow(self, event: Event) -> None:
        """Take in what the engine reports."""
        self.loading = event if isinstance(event, Loading) else None
        if isinstance(event, Progress):
            self.progress = event


class Queue:
    """Jobs of many threads, done by one; or so many `at_once`, if they pass on their `turns`.

    The clients take turns, each with its oldest job; who was served goes behind all that wait.
    `journal` is a file that outlives the process: which jobs were begun and have not ended, so
    that one which kills the process does so twice at most.
    """

    def __init__(self, journal: Path, at_once: int = 1, turns: Turns | None = None) -> None:
        self._journal = Journal(journal)
        self.note = self._journal.note
        self._waiting: dict[str, deque[Job]] = {}  # by client, the next to be served first
        self._changed = threading.Condition()
        self.stopping = False
        self._seconds: deque[float] = deque(maxlen=20)  # that the last jobs took
        self._running: list[Job] = []  # the oldest first
        self._turns = Turns() if turns is None else turns
        self._workers = [
            threading.Thread(target=self._work, name=f"worker {number + 1}", daemon=True)
            for number in range(at_once)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def running(self) -> tuple[Job, ...]:
        """The jobs in the making, the oldest first."""
        return tuple(self._running)

    def __len__(self) -> int:
        """Return how many jobs are waiting."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    def submit(self, job: Job) -> None:
        """Have a job done in its turn. Raises QueueFullError, StoppingError and FatalJobError."""
        with self._changed:
            if self.stopping:
                raise StoppingError
            if job.key is not None and self._journal.attempts(job.key) >= ATTEMPTS:
                raise FatalJobError(self._journal.path)
            own = len(self._waiting.get(job.client, ()))
            total = sum(map(len, self._waiting.values()))
            if total >= WAITING or own >= WAITING_PER_CLIENT:
                raise QueueFullError(self._retry_after(total))
            self._waiting.setdefault(job.client, deque()).append(job)
            self._changed.notify()

    def drop(self, job: Job) -> None:
        """Drop a job whose client has gone: it ends after its step, or is not begun."""
        self.withdraw(job)
        job.cancel.stop()

    def withdraw(self, job: Job) -> bool:
        """Take a job back that has not begun; False if it has."""
        with self._changed:
            jobs = self._waiting.get(job.client, deque())
            if job not in jobs:
                return False
            jobs.remove(job)
            job.future.cancel()
            if not jobs:
                del self._waiting[job.client]
            return True

    def ahead_of(self, job: Job) -> int:
        """Return how many jobs are done before this one, at most; 0 when it has begun."""
        with self._changed:
            own = self._waiting.get(job.client, deque())
            if job not in own:
                return 0
            turns = own.index(job) + 1
            waiting = sum(min(len(jobs), turns) for jobs in self._waiting.values()) - 1
            return waiting + len(self._running)

    def stop(self, seconds: float | None = None) -> bool:
        """Begin no more jobs, and end the running ones after their step, with what they have.

        Returns when that is saved, or after so many seconds: False if a step was not done by
        then. The jobs that waited end with StoppingError.
        """
        with self._changed:
            self.stopping = True
            for jobs in self._waiting.values():
                for job in jobs:
                    job.future.set_exception(StoppingError())
            self._waiting.clear()
            for job in self._running:
                job.cancel.finish_now()
            self._changed.notify_all()
        until = None if seconds is None else perf_counter() + seconds
        for worker in self._workers:
            worker.join(None if until is None else max(0.0, until - perf_counter()))
        return not any(worker.is_alive() for worker in self._workers)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.began = perf_counter()
            try:
                with self._turns:
                    result = self._done(job)
            except BaseException as error:
                self._end(job, perf_counter() - job.began)
                job.future.set_exception(error)
            else:
                self._end(job, perf_counter() - job.began)
                job.future.set_result(result)

    def _done(self, job: Job) -> Any:
        if job.key is None:
            return job.work(job)
        self._journal.begin(job.key)
        try:
            return job.work(job)
        finally:
            with suppress(RoomError):  # what was made is made; it is noted when the next one is
                self._journal.end(job.key)

    def _next(self) -> Job | None:
        """Return the job whose turn it is, once there is one; None when the queue has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.stopping)
            if self.stopping:
                return None
            client, jobs = next(iter(self._waiting.items()))
            job = jobs.popleft()
            self._running.append(job)
            job.future.set_running_or_notify_cancel()
            del self._waiting[client]
            if jobs:
                self._waiting[client] = jobs  # behind all others
            return job

    def _end(self, job: Job, seconds: float) -> None:
        with self._changed:
            self._running.remove(job)
            self._seconds.append(seconds)

    def _retry_after(self, waiting: int) -> int:
        """Return the seconds until about half of what waits is done."""
        mean = sum(self._seconds) / max(1, len(self._seconds))
        return max(1, min(RETRY_AFTER, math.ceil(mean * waiting / 2)))


class Journal:
    """How often each job was begun without having ended, in a file that is small and whole.

    `note` says what of the file did not fit, if somebody edited it; a damaged file is set aside.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ended_a_process, self.note = _read(path)  # by key, how often
        self._begun: dict[str, int] = {}  # the attempts at jobs that have not ended

    def attempts(self, key: str) -> int:
        """Return how often a process ended while it worked on this job."""
        return self._ended_a_process.get(key, 0)

    def begin(self, key: str) -> None:
        """Count an attempt before it is made. Raises RoomError if the disk is full."""
        attempts = {key: self.attempts(key) + 1}
        self._write({**self._ended_a_process, **self._begun, **attempts})
        self._begun |= attempts

    def end(self, key: str) -> None:
        """Forget the attempts at a job that the process has outlived."""
        self._ended_a_process.pop(key, None)
        self._begun.pop(key, None)
        self._write({**self._ended_a_process, **self._begun})

    def _write(self, attempts: dict[str, int]) -> None:
        write(self.path, json.dumps(attempts).encode())


def _read(path: Path) -> tuple[dict[str, int], str | None]:
    """Return the attempts in a journal's file, and what is to be said of it."""
    if not path.is_file():  # also what would never end, as a pipe
        return {}, f"{path}: not a file, so it is not read" if path.exists() else None
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        values = from_json(data) if len(data) <= MOST_BYTES else None
    except (OSError, ValueError):
        values = None
    pairs = values.items() if isinstance(values, dict) else ()
    attempts = {key: count for key, count in pairs if _is_entry(key, count)}
    if isinstance(values, dict) and len(attempts) == len(values):
        return attempts, None
    aside = path.with_name(path.name + ".damaged")
    try:
        os.replace(path, aside)
    except OSError:
        return attempts, f"{path}: damaged; {len(attempts)} of its entries are used"
    return attempts, f"{path}: damaged, set aside as {aside.name}; {len(attempts)} entries are used"


def _is_entry(key: str, count: Any) -> bool:
    is_count = isinstance(count, int) and not isinstance(count, bool) and 0 < count <= 1000
    return is_count and len(key) <= LONGEST_KEY
