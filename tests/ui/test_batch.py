import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_models
import pytest

from gen.engine import Engine, Outcome
from gen.events import Loading, Progress
from gen.run_folder.folder import RunFolder
from gen.settings.request import Request
from ui.service.service import Service

batches = pytest.importorskip("ui.page.batch", reason="gradio is not installed")

PATIENCE = 30
FOX = Request("a fox", seed=1, candidates=2, top_k=1)
LONG = Request("an elephant", seed=1, candidates=2, top_k=1, steps=200)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_models.Studio:
    return fake_models.Studio(tmp_path, monkeypatch.setattr, monkeypatch.setitem)


@pytest.fixture
def service(fakes: fake_models.Studio, tmp_path: Path) -> Iterator[Service]:
    with RunFolder(tmp_path / "out") as folder:
        service = Service(Engine(), folder)
        yield service
        service.stop()


def test_requests_are_drawn_in_turn_and_their_matches_noted(service: Service) -> None:
    events = list(batches.Batch(service, [FOX, LONG], "me").events())
    outcomes = [event for event in events if isinstance(event, Outcome)]
    assert [o.plan.request.prompt for o in outcomes] == ["a fox", "an elephant"]
    service.history.refresh()
    best = service.history.find(outcomes[0].number).best[0]
    assert best.match == pytest.approx(best.score)  # of the fake jury


def test_a_finished_candidate_is_seen_while_the_others_are_in_the_making(
    service: Service, fakes: fake_models.Studio
) -> None:
    service.engine.batch_size = 2
    fakes.pipeline.seconds_per_step = 0.01
    request = replace(LONG, candidates=4, steps=20)
    while_making = []
    for event in batches.Batch(service, [request], "me").events():
        if isinstance(event, batches.Live) and event.progress is not None:
            statuses = event.statuses.items()
            ended = {place: each for place, each in statuses if each.end is not None}
            while_making.append((event.progress.made, ended))
    [first, *_] = [ended for made, ended in while_making if made == 2]
    assert set(first) >= {0, 1}
    for place in (0, 1):
        whole = fake_models.picture(LONG.prompt, LONG.seed + place)
        assert first[place].image.tobytes() == whole.tobytes()
        assert first[place].end.score == fake_models.score(whole)


def test_who_waits_for_a_model_knows_of_it(
    service: Service, fakes: fake_models.Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def load(spec, engine, watch):
        watch(Loading(spec.name, 5, 10))
        assert go_on.wait(PATIENCE)
        return fakes.pipeline

    monkeypatch.setattr("gen.models.load_pipeline", load)
    events = batches.Batch(service, [FOX], "me").events()
    others = batches.Batch(service, [LONG], "other").events()
    for asked, ahead in ((events, 0), (others, 1)):
        told = next(live for live in asked if live.loading == Loading("fake", 5, 10))
        assert told.ahead == ahead
    go_on.set()
    last = [event for event in events if isinstance(event, batches.Live)][-1]
    assert last.loading is None
    others.close()


@pytest.mark.parametrize("end", ["finish_now", "stop"])
def test_what_waits_is_taken_back(end: str, service: Service, fakes: fake_models.Studio) -> None:
    go_on = threading.Event()
    fakes.pipeline.on_step = lambda _: go_on.wait(PATIENCE)
    other = service.submit(LONG)
    batch = batches.Batch(service, [FOX, FOX], "me")
    events = batch.events()
    assert next(events).ahead == 1
    getattr(batch, end)()
    assert list(events) == []
    go_on.set()
    other.cancel.stop()
    other.future.result(PATIENCE)
    assert len(service.queue) == 0


def test_who_looks_no_more_wants_no_more(service: Service, fakes: fake_models.Studio) -> None:
    fakes.pipeline.seconds_per_step = 0.02
    with closing(batches.Batch(service, [LONG, FOX], "me").events()) as events:
        while (job := service.queue.running) is None:
            next(events)
    job.future.result(PATIENCE)
    assert job.cancel.stopped
    assert fakes.pipeline.steps < 200


def test_one_batch_at_a_time_on_a_panel(service: Service, fakes: fake_models.Studio) -> None:
    fakes.pipeline.seconds_per_step = 0.02
    visitors = batches.Visitors(service)
    visitor = SimpleNamespace(session_hash="s", client=None)
    first = visitors.begin(visitor, [LONG, LONG]).events()
    next(first)
    second = visitors.begin(visitor, [FOX]).events()
    assert sum(isinstance(event, Outcome) for event in first) <= 1
    assert sum(isinstance(event, Outcome) for event in second) == 1


def test_time_left() -> None:
    live = batches.Live(FOX)
    assert live.seconds_left is None
    live(Progress("a fox", made=4, candidates=16, places=range(4, 12), step=10, steps=20))
    assert live.progress.share == 0.5
    live.began = batches.perf_counter() - 3
    assert live.seconds_left == pytest.approx(3, rel=0.2)
