"""Gives tasks to a crew and takes the results in order; what is lost is done elsewhere, once more.

A worker that ends, runs out of memory, or takes far longer than its tasks have taken before loses
the task that it was at, and another gets it. A second time its candidates fail.
"""

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from gen.errors import InputError, RoomError
from gen.events import Cancel, Note, Watch
from gen.turns import Turns
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


@dataclass
class Asker:
    """A thread that has tasks done, and what it has yet to be told."""

    waiting: deque[int] = field(default_factory=deque)  # its tasks that no worker has
    results: dict[int, Sequence[Piece]] = field(default_factory=dict)
    wanted: int | None = None  # the task whose result it waits for
    step: Step | None = None  # of that
    notes: list[str] = field(default_factory=list)


class Dispatch:
    """Tasks on their way, of threads that use it in turn: who has `turns` passes the turn on
    whenever it waits for workers.

    The tasks of a thread are begun in their order, those of several threads in turn.
    """

    def __init__(
        self,
        crew: Crew,
        clock: Callable[[], float] = perf_counter,
        turns: Turns | None = None,
    ) -> None:
        self.crew = crew
        self._clock = clock
        self._turns = Turns() if turns is None else turns
        self._numbers = itertools.count()
        self._tasks: dict[int, Task] = {}  # all that are neither taken nor dropped
        self._asker_of: dict[int, Asker] = {}  # by task
        self._errors: dict[int, Exception] = {}  # by task, until it is asked for or dropped
        self._askers: dict[int, Asker] = {}  # by thread
        self._given: list[list[int]] = [[] for _ in range(crew.size)]  # by worker, in its order
        self._began = [0.0] * crew.size  # when each worker began the first of them
        self._is_fresh = [True] * crew.size
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
        number, asker = next(self._numbers), self._asker()
        self._tasks[number] = task
        self._asker_of[number] = asker
        asker.waiting.append(number)
        for report in self.crew.wait(0.0):
            self._take_in(report)
        self._hand_out()
        self._tell_notes(asker, watch)
        return number

    def result(
        self, number: int, watch: Watch, on_step: Callable[[Step], None], cancel: Cancel
    ) -> Sequence[Piece]:
        """Return what has come of a task, when there is something; nothing after a stop.

        Raises what a worker has raised, and RoomError if workers end one after the other.
        """
        asker, has_told = self._asker(), False
        asker.wanted = number
        if number in asker.waiting:  # perhaps behind so much that results of that pile up
            asker.waiting.remove(number)
            asker.waiting.appendleft(number)
        while number not in asker.results:
            if number in self._errors:
                raise self._errors.pop(number)
            if cancel.stopped:
                own = self._tasks_of(asker)
                self.crew.cancel(own, finish=False)
                self.forget(own)
                return ()
            if cancel.finishing and not has_told:
                self.crew.cancel(self._tasks_of(asker), finish=True)
                self.forget(list(asker.waiting))
                has_told = True
            if number not in self._tasks:
                return ()
            self._hand_out()
            for report in self.crew.wait(POLL_SECONDS):
                self._take_in(report)
            self._end_what_hangs()
            self._tell_notes(asker, watch)
            if asker.step is not None:
                step, asker.step = asker.step, None
                on_step(step)
            self._turns.pass_on()
        found = asker.results[number]
        self.forget([number])
        return found

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop tasks; results of those that are begun are not looked at."""
        for number in numbers:
            self._tasks.pop(number, None)
            self._errors.pop(number, None)
            if (asker := self._asker_of.pop(number, None)) is not None:
                asker.results.pop(number, None)
                if number in asker.waiting:
                    asker.waiting.remove(number)

    def close(self) -> None:
        """End all workers at once."""
        self.crew.close()

    def _asker(self) -> Asker:
        return self._askers.setdefault(threading.get_ident(), Asker())

    def _tell_notes(self, asker: Asker, watch: Watch) -> None:
        while asker.notes:
            watch(Note(asker.notes.pop(0)))

    def _hand_out(self) -> None:
        """Give tasks to the workers that have fewest."""
        there = [i for i in range(self.crew.size) if self.crew.is_there(i)]
        while there and (asker := self._next_asker()) is not None:
            worker = min(there, key=lambda i: len(self._given[i]))
            given = self._given[worker]
            if len(given) >= QUEUED:
                return
            number = asker.waiting.popleft()
            if not given:
                self._began[worker] = self._clock()
            given.append(number)
            self.crew.submit(worker, number, self._tasks[number])

    def _next_asker(self) -> Asker | None:
        """Return who has fewest tasks at workers, of those whose results do not pile up."""
        at_work = Counter(
            id(self._asker_of[number])
            for given in self._given
            for number in given
            if number in self._asker_of
        )
        most = AHEAD * self.crew.size
        free = [
            asker
            for asker in self._askers.values()
            if asker.waiting and (asker.waiting[0] == asker.wanted or len(asker.results) < most)
        ]
        return min(free, key=lambda asker: at_work[id(asker)], default=None)

    def _take_in(self, report: Report) -> None:
        match report:
            case Finished(worker, number, pieces):
                self._losses = 0
                self._end(worker, number)
                if number in self._tasks:
                    self._asker_of[number].results[number] = pieces
            case Failed(worker, number, kind, text):
                self._end(worker, number)
                if number in self._tasks:
                    self._fail(number, kind, text)
            case Lost(worker, reason):
                self._lose(worker, reason)
            case Stepped(_, number, step) if number in self._tasks:
                asker = self._asker_of[number]
                asker.step = step if number == asker.wanted else asker.step
            case Told(worker, text) if text not in self._notes:
                self._notes.add(text)
                self._say(self._given[worker], text)

    def _say(self, numbers: Sequence[int], text: str) -> None:
        """Have those told whose tasks these are."""
        for asker in {id(a): a for n in numbers if (a := self._asker_of.get(n))}.values():
            asker.notes.append(text)

    def _raise(self, asker: Asker, error: Exception) -> None:
        """Drop an asker's tasks, and let this error be what comes of each."""
        own = self._tasks_of(asker)
        self.forget(own)
        self._errors |= dict.fromkeys(own, error)

    def _tasks_of(self, asker: Asker) -> list[int]:
        return [number for number, of in self._asker_of.items() if of is asker]

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

    def _fail(self, number: int, kind: str, text: str) -> None:
        """Try once more where memory was short; raise what is wrong everywhere."""
        asker = self._asker_of[number]
        self._attempts[number] += 1
        if kind == RoomError.__name__ and self._attempts[number] < ATTEMPTS:
            asker.notes.append(
                f"a worker had too little memory ({text}); its images are drawn elsewhere"
            )
            asker.waiting.appendleft(number)
        elif kind in ERRORS:
            self._raise(asker, ERRORS[kind](text))
        else:
            self._raise(asker, RuntimeError(f"in a worker: {text}"))

    def _lose(self, worker: int, reason: str) -> None:
        """Have the task that a worker was at done elsewhere, and start another worker."""
        given, self._given[worker] = self._given[worker], []
        own = [number for number in given if number in self._tasks]
        self.crew.replace(worker)
        self._is_fresh[worker] = True
        self._losses += 1
        if self._losses >= ATTEMPTS * self.crew.size:
            self._losses = 0  # whoever asks next tries again
            for asker in {id(asker): asker for asker in self._asker_of.values()}.values():
                text = f"workers end one after the other ({reason}): try fewer, or see with "
                self._raise(asker, RoomError(f"{text}--workers 1"))
            return
        for number in reversed(own):
            self._asker_of[number].waiting.appendleft(number)
        self._say(own, f"worker {worker + 1} {reason}; another takes its place")
        if own and own[0] == given[0]:
            self._attempts[own[0]] += 1
            if self._attempts[own[0]] >= ATTEMPTS:
                self._give_up(own[0], reason)

    def _give_up(self, number: int, reason: str) -> None:
        """Let the candidates of a task fail that has cost so many workers."""
        task, asker = self._tasks[number], self._asker_of[number]
        asker.waiting.remove(number)
        why = f"ended {ATTEMPTS} workers: the last one {reason}"
        if task.plan.schedules:
            self._raise(asker, RoomError(f"a search has {why}"))
        else:
            asker.results[number] = [lost(task, f"it has {why}")]

    def _end_what_hangs(self) -> None:
        """Replace workers that take far longer than all before them."""
        now = self._clock()
        for worker, given in enumerate(self._given):
            if not given or now - self._began[worker] <= self._limit(worker, given[0]):
                continue
            self._lose(worker, f"did not answer for {now - self._began[worker]:.0f} s")

    def _limit(self, worker: int, number: int) -> float:
        """Return the seconds that a worker's task may take."""
        if self._is_fresh[worker] or not self._pace:
            return FIRST
        task = self._tasks.get(number)
        return AT_LEAST if task is None else max(AT_LEAST, PATIENCE * self._pace * task.size)
