import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import fake_models
import pytest

from gen.errors import InputError
from gen.events import Loading, Progress
from gen.models import WeightsError
from gen.settings.request import Request
from ui.service.service import Service

batches = pytest.importorskip("ui.page.batch", reason="gradio is not installed")

PATIENCE = 30
FOX = Request("a fox", seed=1, candidates=2, top_k=1)
LONG = Request("an elephant", seed=1, candidates=2, top_k=1, steps=200)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LOOK_SECONDS", 0.005)


@pytest.fixture
def go_on(service: Service) -> Iterator[threading.Event]:
    """What a test holds something up with; set at last, however the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def held(fakes: fake_models.Studio, go_on: threading.Event) -> threading.Event:
    """Until it is set, the second step of whatever is drawn does not end."""
    fakes.pipeline.on_step = lambda draft: draft.done < 2 or go_on.wait(PATIENCE)
    return go_on


@pytest.fixture
def queue(service: Service):
    return batches.VisitorQueue(service, "me")


def batch_of(*requests: Request, order: list[str] | None = None, name: str = ""):
    """A batch that adds its name to `order` whenever one of its requests is drawn."""
    order = [] if order is None else order
    named = {str(place): request for place, request in enumerate(requests)}
    return batches.Batch(named, note=lambda _: order.append(name))


def visitor(session: str, **cookies: str) -> SimpleNamespace:
    return SimpleNamespace(session_hash=session, client=None, cookies=cookies)


def seen(queue, until: Callable[..., object], session: str = "tab"):
    """Look, as a session, until what is shown is so; return what is shown."""
    with closing(queue.looks(session)) as looks:
        for batch, waiting in looks:
            if until(batch, waiting):
                return batch, waiting
    raise AssertionError("all was over before it was so")


def is_drawing(batch, waiting) -> bool:
    return batch.live is not None and batch.live.progress is not None


def test_requests_are_drawn_in_turn_and_their_matches_noted(service: Service) -> None:
    so_far: list[list[str]] = []
    batch = batches.Batch(
        {"x": FOX, "y": LONG},
        note=lambda outcomes: so_far.append([o.plan.request.prompt for o in outcomes]),
    )
    assert not batch.is_over
    batch.run(service, "me")
    assert batch.is_over
    assert batch.problem == ""
    assert so_far == [["a fox"], ["a fox", "an elephant"]]
    assert [o.plan.request.prompt for o in batch.outcomes] == ["a fox", "an elephant"]
    service.history.refresh()
    for outcome in batch.outcomes:
        best = service.history.find(outcome.number).best[0]
        assert best.match == pytest.approx(best.score)  # of the fake jury


def test_a_finished_candidate_is_seen_while_the_others_are_in_the_making(
    service: Service, fakes: fake_models.Studio, queue, go_on: threading.Event
) -> None:
    service.engine.batch_size = 2
    later = LONG.seed + 2

    def hold(draft: fake_models.FakeDraft) -> None:
        if later in draft.seeds and draft.done == 2:
            assert go_on.wait(PATIENCE)

    fakes.pipeline.on_step = hold
    queue.add(batch_of(replace(LONG, candidates=4, steps=20)))

    def is_half_made(batch, waiting) -> bool:
        return is_drawing(batch, waiting) and batch.live.progress.made == 2

    for session in ("tab", "one opened later"):
        batch, _ = seen(queue, is_half_made, session)
        assert not batch.is_over
        statuses = batch.live.statuses
        assert {place for place, each in statuses.items() if each.end is not None} == {0, 1}
        for place in (0, 1):
            whole = fake_models.picture(LONG.prompt, LONG.seed + place)
            assert statuses[place].image.tobytes() == whole.tobytes()
            assert statuses[place].end.score == fake_models.score(whole)
    go_on.set()
    batch, _ = list(queue.looks("tab"))[-1]
    assert batch.is_over
    assert {place for place, each in batch.live.statuses.items() if each.end} == {0, 1, 2, 3}


def test_who_waits_for_a_model_knows_of_it(
    service: Service,
    fakes: fake_models.Studio,
    queue,
    held: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_loaded = threading.Event()

    def load(spec, engine, watch):
        watch(Loading(spec.name, 5, 10))
        assert is_loaded.wait(PATIENCE)
        return fakes.pipeline

    def knows(batch, waiting) -> bool:
        return batch.live is not None and batch.live.loading == Loading("fake", 5, 10)

    monkeypatch.setattr("gen.models.load_pipeline", load)
    other = batches.VisitorQueue(service, "other")
    try:
        for each, request, ahead in ((queue, FOX, 0), (other, LONG, 1)):
            each.add(batch_of(request))
            batch, _ = seen(each, knows)
            assert batch.live.ahead == ahead
            assert batch.live.seconds_left is None
    finally:
        is_loaded.set()
    for each, ahead in ((queue, 0), (other, 1)):  # while the first is drawn
        batch, _ = seen(each, lambda batch, _: batch.live.loading is None)
        assert batch.live.ahead == ahead
    held.set()
    last, _ = list(queue.looks("tab"))[-1]
    assert last.live.loading is None
    assert len(last.outcomes) == 1
    other.stop()
    assert list(other.looks("tab"))[-1][0].is_over


@pytest.mark.parametrize("end", ["finish_now", "stop"])
def test_what_waits_is_taken_back(
    end: str, service: Service, fakes: fake_models.Studio, queue, held: threading.Event
) -> None:
    other = service.submit(LONG)
    queue.add(batch_of(FOX, FOX))
    batch, _ = seen(queue, lambda batch, _: fakes.pipeline.settings and batch.live.ahead)
    assert service.queue.running == (other,)
    assert batch.live.ahead == 1
    assert len(service.queue) == 1
    getattr(queue, end)()
    assert list(queue.looks("tab"))[-1] == (batch, [])
    assert batch.is_over
    assert batch.outcomes == []
    assert batch.problem == ""
    assert len(service.queue) == 0
    assert not other.future.done()  # it is not what was ended
    assert not other.cancel.asked
    held.set()
    other.cancel.stop()
    other.future.result(PATIENCE)
    assert not service.queue.running
    assert {settings["steps"] for settings in fakes.pipeline.settings} == {200}  # no fox


@pytest.mark.parametrize("end", ["finish_now", "stop"])
def test_what_is_in_the_making_is_ended_early_and_what_follows_is_not_drawn(
    end: str, service: Service, fakes: fake_models.Studio, queue, held: threading.Event
) -> None:
    order: list[str] = []
    queue.add(batch_of(LONG, FOX, order=order, name="first"))
    queue.add(batch_of(FOX, order=order, name="second"))
    first, [second] = seen(queue, lambda *_: fakes.pipeline.steps == 2)
    [job] = service.queue.running
    getattr(queue, end)()
    assert (job.cancel.finishing, job.cancel.stopped) == (end == "finish_now", end == "stop")
    held.set()
    seen(queue, lambda batch, _: batch is second and batch.is_over)
    assert order == ["first", "second"]
    assert fakes.pipeline.steps < 200
    [outcome] = first.outcomes
    unfinished = [result.unfinished for result in outcome.best + outcome.rest]
    assert unfinished == (["step 2 of 200"] * 2 if end == "finish_now" else [])
    assert [o.made for o in second.outcomes] == [2]  # it goes on, and is whole


def test_it_goes_on_while_nobody_looks(
    service: Service, fakes: fake_models.Studio, held: threading.Event
) -> None:
    visitors = batches.Visitors(service)
    queue = visitors.queue_of(visitor("a session", salon="me"))
    batch = batch_of(LONG, FOX)
    queue.add(batch)
    seen(queue, is_drawing, "a session")
    assert queue.watchers == set()  # its looks were closed
    [job], worker = service.queue.running, queue._worker
    assert not job.cancel.asked
    again = visitors.queue_of(visitor("a reload", salon="me"))
    assert again is queue
    shown, _ = seen(again, is_drawing, "a reload")
    assert shown is batch
    held.set()
    job.future.result(PATIENCE)
    assert not job.cancel.asked
    worker.join(PATIENCE)
    assert queue.is_idle
    assert [o.made for o in batch.outcomes] == [2, 2]
    assert fakes.pipeline.steps >= 200
    assert list(queue.looks("much later")) == [(batch, [])]


def test_a_visitor_is_known_by_a_cookie_or_else_by_the_session(service: Service) -> None:
    visitors = batches.Visitors(service)
    queues = {
        id(visitors.queue_of(visitor(session, **cookies)))
        for session in ("s", "t")
        for cookies in ({"salon": "me"}, {"salon": "other"}, {})
    }
    assert len(queues) == 4


def test_idle_visitors_are_forgotten_when_there_are_too_many(
    service: Service, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_VISITORS", 2)
    visitors = batches.Visitors(service)
    busy, idle = (visitors.queue_of(visitor(name)) for name in ("busy", "idle"))
    busy.add(batch_of(FOX))
    visitors.queue_of(visitor("third"))
    assert visitors.queue_of(visitor("busy")) is busy
    assert visitors.queue_of(visitor("idle")) is not idle


def test_one_batch_at_a_time_for_one_visitor(service: Service, held: threading.Event) -> None:
    visitors = batches.Visitors(service)
    order: list[str] = []
    first = batch_of(LONG, FOX, order=order, name="first")
    second = batch_of(replace(FOX, seed=9), order=order, name="second")
    queue = visitors.queue_of(visitor("a tab", salon="me"))
    queue.add(first)
    seen(queue, is_drawing)
    [job] = service.queue.running
    visitors.queue_of(visitor("another tab", salon="me")).add(second)
    assert seen(queue, lambda _, waiting: waiting) == (first, [second])
    assert second.live is None  # not begun,
    assert len(service.queue) == 0  # nor in the queue of all
    assert not job.cancel.asked  # and the first is not cut short
    assert not queue.is_idle
    held.set()
    for batch, waiting in queue.looks("a tab"):
        assert (batch, waiting) in [(first, [second]), (first, []), (second, [])]
        assert batch is first or first.is_over
    assert queue.is_idle
    assert order == ["first", "first", "second"]
    assert [o.made for o in first.outcomes] == [2, 2]
    assert [o.made for o in second.outcomes] == [2]
    whole = [r.unfinished for o in first.outcomes + second.outcomes for r in o.best + o.rest]
    assert whole == [None] * 6


def test_what_waits_is_moved_up_and_dropped(queue, held: threading.Event) -> None:
    order: list[str] = []
    first, a, b, c = (batch_of(FOX, order=order, name=name) for name in ("first", *"abc"))
    queue.add(first)
    seen(queue, is_drawing)
    for batch in (a, b, c):
        queue.add(batch)
    moves = (
        (queue.move_up, c, [a, c, b]),
        (queue.move_up, c, [c, a, b]),
        (queue.move_up, c, [c, a, b]),  # the next one already
        (queue.move_up, b, [c, b, a]),
        (queue.move_up, first, [c, b, a]),  # does not wait
        (queue.drop, first, [c, b, a]),
        (queue.drop, c, [b, a]),
        (queue.drop, c, [b, a]),
        (queue.move_up, c, [b, a]),
    )
    for move, batch, left in moves:
        move(batch.number)
        assert seen(queue, is_drawing) == (first, left)
    held.set()
    assert list(queue.looks("tab"))[-1] == (a, [])
    assert order == ["first", "b", "a"]
    assert c.live is None
    assert c.outcomes == []


def test_only_so_many_wait(queue, held: threading.Event) -> None:
    first, one_more = batch_of(FOX), batch_of(FOX)
    queue.add(first)
    seen(queue, is_drawing)
    waiting = [batch_of(FOX) for _ in range(batches.MOST_WAITING)]
    for batch in waiting:
        queue.add(batch)
    with pytest.raises(InputError, match=f"^{batches.MOST_WAITING} of yours are waiting: let some"):
        queue.add(one_more)
    assert seen(queue, is_drawing) == (first, waiting)
    queue.drop(waiting[0].number)
    queue.add(one_more)
    assert seen(queue, is_drawing) == (first, [*waiting[1:], one_more])
    for batch in (*waiting, one_more):
        queue.drop(batch.number)
    held.set()
    assert list(queue.looks("tab"))[-1] == (first, [])


def test_each_session_is_shown_it_once(queue, held: threading.Event) -> None:
    assert list(queue.looks("tab")) == []  # nothing was asked for
    batch = batch_of(FOX)
    queue.add(batch)
    with closing(queue.looks("tab")) as looks:
        assert next(looks) == (batch, [])
        assert list(queue.looks("tab")) == []
        assert next(queue.looks("another")) == (batch, [])
        assert next(looks) == (batch, [])
    assert next(queue.looks("tab")) == (batch, [])  # it looks no more, so it may again
    held.set()
    assert list(queue.looks("tab"))[-1] == (batch, [])
    assert batch.is_over


def test_a_problem_ends_its_batch_alone(
    service: Service, fakes: fake_models.Studio, queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [WeightsError("no weights")]

    def load(spec, engine, watch):
        if problems:
            raise problems.pop()
        return fakes.pipeline

    monkeypatch.setattr("gen.models.load_pipeline", load)
    bad, good = batch_of(LONG, FOX), batch_of(FOX)
    queue.add(bad)
    queue.add(good)
    assert list(queue.looks("tab"))[-1] == (good, [])
    assert (bad.is_over, bad.problem, bad.outcomes) == (True, "no weights", [])
    assert (good.is_over, good.problem, len(good.outcomes)) == (True, "", 1)


def test_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(batches, "perf_counter", lambda: now)
    live = batches.Live(FOX)
    assert live.seconds_left is None
    live(Loading("fake", 5, 10))
    now += 100  # of waiting and loading, which do not count
    live(Progress("a fox", made=4, candidates=16))
    now += 1
    live(Progress("a fox", made=4, candidates=16))
    assert live.seconds_left is None  # no pace yet
    now += 1
    live(Progress("a fox", made=4, candidates=16, places=range(4, 12), step=10, steps=20))
    assert live.progress.share == 0.5
    assert live.seconds_left == pytest.approx(4)  # a quarter in 2 s
    now += 1
    assert live.seconds_left == pytest.approx(3)
    now += 100
    assert live.seconds_left == 0
