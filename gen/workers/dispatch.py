"""Gives tasks to a crew and takes the results in order; what is lost is done elsewhere, once more.

A worker that ends, runs out of memory, or takes far longer than its tasks have taken before loses
the task that it was at, and another gets it. A second time its candidates fail.
"""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

from gen.errors import InputError, RoomError
from gen.events import Cancel, Note, Watch
from gen.workers.crews import Crew, Failed, Finished, Lost, Report, Stepped, Told
from gen.workers.tasks import Piece, Step, Task, lost
from pipelines.checkpoints.errors import WeightsError

ATTEMPTS = 2  # at one task
QUEUED = 2  # tasks of a worker: the one in progress, and the next, so that it never waits for us
AHEAD = 4  # results for each worker that wait for their turn, at most
PATIENCE = 10  # times as long as the slowest task so far, for its size
AT_LEAST = 60.0  # seconds
FIRST = 3600.0  # seconds for a worker's first task, which loads the model, and may compile it
POLL_SECONDS = 0.2  # after which a wish to stop is seen
ERRORS = {error.__name__: error for error in (InputError, RoomError, WeightsError)}


class Dispatch:
    """Tasks on their way; one thread at a time may use it."""

    def __init__(self, crew: Crew, clock: Callable[[], float] = perf_counter) -> None:
        self.crew = crew
        self._clock = clock
        self._numbers = itertools.count()
        self._tasks: dict[int, Task] = {}  # all that are neither taken nor dropped
        self._waiting: deque[int] = deque()
        self._given: list[list[int]] = [[] for _ in range(crew.size)]  # by worker, in its order
        self._began = [0.0] * crew.size  # when each worker began the first of them
        self._is_fresh = [True] * crew.size
        self._results: dict[int, Sequence[Piece]] = {}
        self._attempts: Counter[int] = Counter()
        self._losses = 0  # of workers, since one has finished anything
        self._pace = 0.0  # the most seconds for a task of size 1 so far
        self._notes: set[str] = set()

    @property
    def is_full(self) -> bool:
        """Whether the workers have enough to do for a while."""
        return len(self._tasks) >= AHEAD * self.crew.size

    def add(self, task: Task, watch: Watch) -> int:
        """Take a task in and return its number; it is begun when it is its turn."""
        number = next(self._numbers)
        self._tasks[number] = task
        self._waiting.append(number)
        for report in self.crew.wait(0.0):
            self._take_in(report, watch, None, None)
        self._hand_out(None)
        return number

    def result(
        self, number: int, watch: Watch, on_step: Callable[[Step], None], cancel: Cancel
    ) -> Sequence[Piece]:
        """Return what has come of a task, when there is something; nothing after a stop.

        Raises what a worker has raised, and RoomError if workers end one after the other.
        """
        has_told = False
        while number not in self._results:
            if cancel.stopped:
                self.crew.cancel(finish=False)
                self.forget(list(self._tasks))
                return ()
            if cancel.finishing and not has_told:
                self.crew.cancel(finish=True)
                self.forget(list(self._waiting))
                has_told = True
            if number not in self._tasks:
                return ()
            self._hand_out(number)
            for report in self.crew.wait(POLL_SECONDS):
                self._take_in(report, watch, number, on_step)
            self._end_what_hangs(watch)
        del self._tasks[number]
        return self._results.pop(number)

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop tasks; results of those that are begun are not looked at."""
        for number in numbers:
            self._tasks.pop(number, None)
            self._results.pop(number, None)
            if number in self._waiting:
                self._waiting.remove(number)

    def close(self) -> None:
        """End all workers at once."""
        self.crew.close()

    def _hand_out(self, wanted: int | None) -> None:
        """Give tasks to the workers that have fewest, unless results pile up."""
        there = [i for i in range(self.crew.size) if self.crew.is_there(i)]
        while self._waiting and there:
            worker = min(there, key=lambda i: len(self._given[i]))
            given = self._given[worker]
            if len(given) >= QUEUED:
                return
            if self._waiting[0] != wanted and len(self._results) >= AHEAD * self.crew.size:
                return
            number = self._waiting.popleft()
            if not given:
                self._began[worker] = self._clock()
            given.append(number)
            self.crew.submit(worker, number, self._tasks[number])

    def _take_in(
        self,
        report: Report,
        watch: Watch,
        wanted: int | None,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        match report:
            case Finished(worker, number, pieces):
                self._losses = 0
                self._end(worker, number)
                if number in self._tasks:
                    self._results[number] = pieces
            case Failed(worker, number, kind, text):
                self._end(worker, number)
                if number in self._tasks:
                    self._fail(number, kind, text, watch)
            case Lost(worker, reason):
                self._lose(worker, reason, watch)
            case Stepped(_, number, step) if number == wanted and on_step is not None:
                on_step(step)
            case Told(_, text) if text not in self._notes:
                self._notes.add(text)
                watch(Note(text))

    def _end(self, worker: int, number: int) -> None:
        """Take note that a worker is through with a task."""
        if number in self._given[worker]:
            now = self._clock()
            task = self._tasks.get(number)
            if task is not None and not self._is_fresh[worker]:
                self._pace = max(self._pace, (now - self._began[worker]) / task.size)
            self._is_fresh[worker] = False
            self._given[worker].remove(number)
            self._began[worker] = now

    def _fail(self, number: int, kind: str, text: str, watch: Watch) -> None:
        """Try once more where memory was short; raise what is wrong everywhere."""
        self._attempts[number] += 1
        if kind == RoomError.__name__ and self._attempts[number] < ATTEMPTS:
            watch(Note(f"a worker had too little memory ({text}); its images are drawn elsewhere"))
            self._waiting.appendleft(number)
            return
        self.forget(list(self._tasks))
        if kind in ERRORS:
            raise ERRORS[kind](text)
        raise RuntimeError(f"in a worker: {text}")

    def _lose(self, worker: int, reason: str, watch: Watch) -> None:
        """Have the task that a worker was at done elsewhere, and start another worker."""
        given, self._given[worker] = self._given[worker], []
        own = [number for number in given if number in self._tasks]
        self._losses += 1
        if self._losses > ATTEMPTS * self.crew.size:
            self.forget(list(self._tasks))
            raise RoomError(
                f"workers end one after the other ({reason}): try fewer, or see with --workers 1"
            )
        self.crew.replace(worker)
        self._is_fresh[worker] = True
        for number in reversed(own):
            self._waiting.appendleft(number)
        watch(Note(f"worker {worker + 1} {reason}; another takes its place"))
        if own and own[0] == given[0]:
            self._attempts[own[0]] += 1
            if self._attempts[own[0]] >= ATTEMPTS:
                self._give_up(own[0], reason)

    def _give_up(self, number: int, reason: str) -> None:
        """Let the candidates of a task fail that has cost so many workers."""
        self._waiting.remove(number)
        task = self._tasks[number]
        if task.plan.schedules:
            self.forget(list(self._tasks))
            raise RoomError(f"a search has ended {ATTEMPTS} workers: the last one {reason}")
        why = f"it has ended {ATTEMPTS} workers: the last one {reason}"
        self._results[number] = [lost(task, why)]

    def _end_what_hangs(self, watch: Watch) -> None:
        """Replace workers that take far longer than all before them."""
        now = self._clock()
        for worker, given in enumerate(self._given):
            if not given or now - self._began[worker] <= self._limit(worker, given[0]):
                continue
            self._lose(worker, f"did not answer for {now - self._began[worker]:.0f} s", watch)

    def _limit(self, worker: int, number: int) -> float:
        """Return the seconds that a worker's task may take."""
        if self._is_fresh[worker] or not self._pace:
            return FIRST
        task = self._tasks.get(number)
        return AT_LEAST if task is None else max(AT_LEAST, PATIENCE * self._pace * task.size)
