"""Order, second tries, time limits and back-pressure, with a crew whose time is simulated."""

import heapq
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import fake_models
import pytest

from gen.errors import InputError, RoomError
from gen.events import Cancel, Event, Note, ignore_events
from gen.plan import Plan, resolve
from gen.run_folder.folder import Job
from gen.settings.request import Request
from gen.turns import Turns
from gen.workers.crews import Failed, Finished, Lost, Report
from gen.workers.dispatch import AHEAD, FIRST, QUEUED, Dispatch
from gen.workers.drawing import FEW_PLANS, Drawing
from gen.workers.tasks import Drawn, Piece, Task

HANG = 1e9  # seconds
SECONDS = 1.6  # of a micro-batch of 16 at 100 ms each


class FakeCrew:
    """Workers that only let time pass; `fate` says what comes of a task, and after how long."""

    def __init__(self, size: int, fate: Callable[[int, int], tuple[float, str]]) -> None:
        self.size, self.fate, self.now = size, fate, 0.0
        self.drawn: Counter[int] = Counter()
        self.replaced = self.most_results = 0
        self.absent: set[int] = set()
        self.cancelled: list[bool] = []
        self.give_up_at = 10 * HANG
        self.cancelled_tasks: set[int] = set()
        self.closed = False
        self._due: list[tuple[float, int, int, int, str]] = []  # when, order, worker, task, end
        self._free_at = [0.0] * size
        self._order = 0

    def is_there(self, worker: int) -> bool:
        return worker not in self.absent

    def submit(self, worker: int, number: int, task: Task) -> None:
        seconds, end = self.fate(worker, number)
        self._free_at[worker] = max(self.now, self._free_at[worker]) + seconds
        self._order += 1
        heapq.heappush(self._due, (self._free_at[worker], self._order, worker, number, end))
        self.drawn[number] += 1

    def wait(self, seconds: float) -> list[Report]:
        assert self.now < self.give_up_at, "it waits for ever"
        if not self._due or self._due[0][0] > self.now + seconds:
            self.now += seconds
            return []
        when, _, worker, number, end = heapq.heappop(self._due)
        self.now = max(self.now, when)
        if end == "lost":
            return [Lost(worker, "was killed")]
        if end:
            return [Failed(worker, number, end, "as it was told")]
        return [Finished(worker, number, [piece(number)])]

    def replace(self, worker: int) -> None:
        self.replaced += 1
        self._due = [each for each in self._due if each[2] != worker]
        heapq.heapify(self._due)
        self._free_at[worker] = self.now

    def cancel(self, tasks: Collection[int], *, finish: bool) -> None:
        self.cancelled.append(finish)
        self.cancelled_tasks |= set(tasks)

    def close(self) -> None:
        self.closed = True


def piece(number: int) -> Drawn:
    return Drawn((number,), 1, 1, {}, {})


@pytest.fixture
def task(tmp_path: Path) -> Task:
    spec = fake_models.spec("fake", tmp_path / "fake")
    plan = resolve(Request("a fox", candidates=4, seed=1), lambda _: spec)
    return Task(plan, spec, tuple(plan.candidates()))


def told(_: Any) -> None:
    """What steps are told to."""


def results(dispatch: Dispatch, task: Task, number: int, watch: Any = ignore_events) -> list[Piece]:
    """Have a task done so many times, no further ahead than there is room for."""
    taken: list[Piece] = []
    waiting: list[int] = []
    for _ in range(number):
        waiting.append(dispatch.add(task, watch))
        while dispatch.is_full:
            taken += dispatch.result(waiting.pop(0), watch, told, Cancel())
            assert isinstance(dispatch.crew, FakeCrew)
            held = sum(len(asker.results) for asker in dispatch._askers.values())
            dispatch.crew.most_results = max(dispatch.crew.most_results, held)
    for each in waiting:
        taken += dispatch.result(each, watch, told, Cancel())
    return taken


def dispatch_of(size: int, fate: Callable[[int, int], tuple[float, str]]) -> tuple[Dispatch, Any]:
    crew = FakeCrew(size, fate)
    return Dispatch(crew, lambda: crew.now), crew


def test_results_come_in_order_whoever_is_faster(task: Task) -> None:
    dispatch, crew = dispatch_of(3, lambda worker, _: ((1.0, 2.5, 7.0)[worker], ""))
    assert results(dispatch, task, 40) == [piece(number) for number in range(40)]
    assert set(crew.drawn.values()) == {1}
    assert crew.most_results <= AHEAD * 3  # of what is finished before its turn


def test_what_a_lost_worker_was_at_is_drawn_elsewhere_and_what_waited_too(task: Task) -> None:
    begun: Counter[int] = Counter()

    def fate(_: int, number: int) -> tuple[float, str]:
        begun[number] += 1
        return 1.0, "lost" if number == 4 and begun[number] == 1 else ""

    dispatch, crew = dispatch_of(2, fate)
    notes: list[Event] = []
    assert results(dispatch, task, 12, notes.append) == [piece(number) for number in range(12)]
    assert crew.replaced == 1
    assert begun[4] == 2
    assert any(isinstance(note, Note) and "was killed; another" in note.text for note in notes)


def test_a_task_that_ends_each_worker_fails_and_the_rest_is_drawn(task: Task) -> None:
    dispatch, crew = dispatch_of(2, lambda _, number: (1.0, "lost" if number == 3 else ""))
    made = results(dispatch, task, 8)
    assert [each for each in made if each != made[3]] == [piece(n) for n in range(8) if n != 3]
    assert isinstance(made[3], Drawn)
    assert made[3].failed.keys() == {c.seed for c in task.candidates}
    assert "ended 2 workers" in next(iter(made[3].failed.values()))
    assert crew.drawn[3] == 2


def test_workers_that_all_end_are_not_replaced_for_ever(task: Task) -> None:
    dispatch, crew = dispatch_of(3, lambda *_: (1.0, "lost"))
    with pytest.raises(RoomError, match="one after the other"):
        results(dispatch, task, 100)
    assert crew.replaced <= 6


def test_a_worker_that_hangs_is_ended_when_it_takes_far_longer_than_others(task: Task) -> None:
    begun: Counter[int] = Counter()

    def fate(_: int, number: int) -> tuple[float, str]:
        begun[number] += 1
        return (HANG if number == 6 and begun[number] == 1 else 20.0), ""

    dispatch, crew = dispatch_of(2, fate)
    assert results(dispatch, task, 10) == [piece(number) for number in range(10)]
    assert crew.replaced == 1
    assert crew.now < 500  # ten times the 20 s of the others, and the rest of the work


def test_the_first_task_of_a_worker_may_take_long_but_not_for_ever(task: Task) -> None:
    begun: Counter[int] = Counter()

    def fate(_: int, number: int) -> tuple[float, str]:
        begun[number] += 1
        return (HANG if begun[number] == 1 and number < 2 else 1.0), ""

    dispatch, crew = dispatch_of(2, fate)
    assert results(dispatch, task, 4) == [piece(number) for number in range(4)]
    assert FIRST < crew.now < FIRST + 60


def test_short_memory_is_tried_once_more_and_then_told(task: Task) -> None:
    begun: Counter[int] = Counter()

    def once(_: int, number: int) -> tuple[float, str]:
        begun[number] += 1
        return 1.0, "RoomError" if number == 1 and begun[number] == 1 else ""

    assert results(dispatch_of(2, once)[0], task, 4) == [piece(number) for number in range(4)]
    with pytest.raises(RoomError, match="as it was told"):
        results(dispatch_of(2, lambda *_: (1.0, "RoomError"))[0], task, 4)


@pytest.mark.parametrize(("kind", "error"), [("InputError", InputError), ("", RuntimeError)])
def test_what_is_wrong_everywhere_is_raised_at_once(
    task: Task, kind: str, error: type[Exception]
) -> None:
    dispatch, crew = dispatch_of(2, lambda *_: (1.0, kind or "bug"))
    with pytest.raises(error, match="as it was told"):
        results(dispatch, task, 4)
    assert crew.replaced == 0
    assert not dispatch._tasks  # nothing of it comes in the way of what is asked next


def test_after_a_stop_nothing_comes_and_the_workers_are_told(task: Task) -> None:
    dispatch, crew = dispatch_of(2, lambda *_: (5.0, ""))
    cancel = Cancel()
    numbers = [dispatch.add(task, ignore_events) for _ in range(6)]
    cancel.stop()
    assert [list(dispatch.result(n, ignore_events, told, cancel)) for n in numbers] == [[]] * 6
    assert crew.cancelled[0] is False
    again = dispatch.add(task, ignore_events)
    assert dispatch.result(again, ignore_events, told, Cancel()) == [piece(again)]


def test_what_is_wanted_is_done_before_results_of_all_else_are_taken(task: Task) -> None:
    dispatch, crew = dispatch_of(2, lambda *_: (1.0, ""))
    numbers = [dispatch.add(task, ignore_events) for _ in range(40)]
    # As a prompt that an earlier run has begun, whose tasks come after those of the next ones.
    crew.give_up_at = 1000.0
    for number in (numbers[-1], *numbers[:-1]):
        assert dispatch.result(number, ignore_events, told, Cancel()) == [piece(number)]


def test_an_error_that_nobody_asked_for_is_not_that_of_the_next_job(task: Task) -> None:
    dispatch, _ = dispatch_of(1, lambda _, number: (1.0, "InputError" if number == 1 else ""))
    first, bad = (dispatch.add(task, ignore_events) for _ in range(2))
    assert dispatch.result(first, ignore_events, told, Cancel()) == [piece(first)]
    dispatch.add(task, ignore_events)  # the failure is taken in meanwhile
    with pytest.raises(InputError):
        dispatch.result(bad, ignore_events, told, Cancel())
    dispatch.forget(range(3))  # as whoever was at them does, for whatever reason it ends
    again = dispatch.add(task, ignore_events)
    assert dispatch.result(again, ignore_events, told, Cancel()) == [piece(again)]
    assert not dispatch._errors


def test_a_worker_is_never_given_more_than_two_tasks(task: Task) -> None:
    dispatch, crew = dispatch_of(2, lambda *_: (5.0, ""))
    for _ in range(50):
        dispatch.add(task, ignore_events)
    assert sum(crew.drawn.values()) == QUEUED * 2


def test_a_worker_that_waits_for_its_place_holds_nobody_up(task: Task) -> None:
    dispatch, crew = dispatch_of(3, lambda *_: (1.0, ""))
    crew.absent = {0, 2}
    assert results(dispatch, task, 12) == [piece(number) for number in range(12)]
    assert crew.now == pytest.approx(12.0)


def test_random_losses_lose_nothing_and_double_nothing(task: Task) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        begun: Counter[int] = Counter()

        def fate(
            _: int, number: int, rng: random.Random = rng, begun: Counter[int] = begun
        ) -> tuple[float, str]:
            begun[number] += 1
            is_lost = begun[number] == 1 and rng.random() < 0.2
            return rng.uniform(0.5, 3.0), "lost" if is_lost else ""

        dispatch, _ = dispatch_of(5, fate)
        assert results(dispatch, task, 60) == [piece(number) for number in range(60)]


def in_threads(dispatch: Dispatch, turns: Turns, works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Have each work done by a thread of its own, begun in this order, in turns."""
    barrier = threading.Barrier(len(works))

    def work(own: Callable[[], Any]) -> Any:
        with turns:
            turns.__exit__()
            barrier.wait(timeout=60)
            turns.__enter__()
            return own()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(60) for future in [pool.submit(work, own) for own in works]]


def test_tasks_of_threads_are_begun_in_turn(task: Task) -> None:
    turns, added = Turns(), threading.Barrier(3)
    crew = FakeCrew(2, lambda *_: (1.0, ""))
    dispatch = Dispatch(crew, lambda: crew.now, turns)
    number_of: dict[int, int] = {}

    def ask(number: int) -> int:
        own = [dispatch.add(task, ignore_events) for _ in range(number)]
        number_of.update(dict.fromkeys(own, number))
        turns.__exit__()
        added.wait(timeout=60)
        turns.__enter__()
        found = [p for each in own for p in dispatch.result(each, ignore_events, told, Cancel())]
        assert found == [piece(each) for each in own]
        return number

    works = [partial(ask, 60), partial(ask, 3), partial(ask, 4)]
    assert in_threads(dispatch, turns, works) == [60, 3, 4]
    assert set(crew.drawn.values()) == {1}
    begun = [number_of[each] for each in crew.drawn]  # in their order
    # Four are begun before others have added theirs; then the small ones wait for no large one.
    assert begun[:20].count(3) == 3
    assert begun[:20].count(4) == 4


def test_a_stop_and_an_error_are_their_own_thread_s(task: Task) -> None:
    turns = Turns()
    crew = FakeCrew(2, lambda _, number: (1.0, "InputError" if tasks.get(number) == "bad" else ""))
    dispatch = Dispatch(crew, lambda: crew.now, turns)
    tasks: dict[int, str] = {}

    def ask(kind: str, cancel: Cancel) -> list[Piece]:
        own = [dispatch.add(task, ignore_events) for _ in range(12)]
        tasks.update(dict.fromkeys(own[1:], kind))
        return [p for each in own for p in dispatch.result(each, ignore_events, told, cancel)]

    def stopped() -> list[Piece]:
        cancel = Cancel()
        cancel.stop()
        return ask("stopped", cancel)

    def failed() -> str:
        with pytest.raises(InputError, match="as it was told"):
            ask("bad", Cancel())
        return "failed"

    sound, nothing, error = in_threads(
        dispatch, turns, [partial(ask, "sound", Cancel()), stopped, failed]
    )
    assert len(sound) == 12
    assert nothing == []
    assert error == "failed"
    assert crew.cancelled_tasks.isdisjoint(n for n, kind in tasks.items() if kind != "stopped")
    assert not dispatch._tasks
    assert not dispatch._asker_of


@pytest.mark.parametrize("size", [4, 64, 256])
def test_actors_that_sleep_are_busy_nine_tenths_of_the_time(task: Task, size: int) -> None:
    rng = random.Random(7)
    dispatch, crew = dispatch_of(size, lambda *_: (SECONDS * rng.uniform(0.8, 1.2), ""))
    number = 20 * size
    results(dispatch, task, number)
    assert number * SECONDS / (size * crew.now) >= 0.9


def test_however_many_prompts_there_are_few_are_held_at_a_time(tmp_path: Path) -> None:
    spec = fake_models.spec("fake", tmp_path / "fake")
    dispatch, _ = dispatch_of(4, lambda *_: (1.0, ""))
    drawing = Drawing(dispatch, None, on_cpu=True)
    read = drawn = 0

    def plans() -> Generator[Plan]:
        nonlocal read
        for number in range(500):
            read += 1
            yield resolve(Request(f"fox {number}", candidates=4, seed=1), lambda _: spec)

    held = 0

    def is_begun(plan: Plan) -> bool:
        return plan.request.prompt.endswith("7")

    for plan in drawing.ahead(plans(), is_begun, told, None):
        held = max(held, read - drawn, len(dispatch._tasks))
        pieces = drawing.drawn(plan, spec, plan.candidates(), Job(0), None, told, told, Cancel())
        assert len(list(pieces)) == 1
        drawn += 1
    assert drawn == 500
    assert held <= FEW_PLANS + AHEAD * 4 + 1
    assert not dispatch._tasks
    assert not drawing._ahead
