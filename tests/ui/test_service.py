import gc
import threading
from itertools import pairwise
from pathlib import Path

import fake_models
import pytest

from gen.engine import Engine, Outcome
from gen.errors import InputError, RoomError
from gen.run_folder.folder import RunFolder
from gen.settings.request import Request
from ui.service.catalog import UnknownModelError, read_catalog
from ui.service.queue import StoppingError
from ui.service.rules import LIMITS
from ui.service.service import Service

PATIENCE = 30
PANDA = Request("a panda", seed=1, candidates=2, top_k=1)


def drawn(service: Service, request: Request) -> Outcome:
    return service.submit(request).future.result(PATIENCE)


@pytest.mark.fault("two buttons at once")
def test_the_jobs_of_many_are_drawn_one_by_one(service: Service, fakes: fake_models.Studio) -> None:
    seeds: list[int] = []
    fakes.pipeline.seconds_per_step = 0.005
    fakes.pipeline.on_step = lambda draft: seeds.append(draft.seeds[0])
    threads = [
        threading.Thread(target=drawn, args=(service, Request("a", seed=i, candidates=1)))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(seeds) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert sum(a != b for a, b in pairwise(seeds)) == 3  # never interleaved


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.fault("too much by the API")
def test_too_much_is_refused_before_it_waits(name: str, service: Service) -> None:
    with pytest.raises(InputError, match=name):
        drawn(service, Request("a panda", **{name: LIMITS[name] + 8}))


@pytest.mark.parametrize("name", ["/", "fake,/etc", "org/name", "../fake", "fake/../fake"])
def test_no_folder_of_the_disk_is_a_model(name: str, service: Service) -> None:
    with pytest.raises(UnknownModelError, match="choose from"):
        drawn(service, Request("a panda", model=name))


def test_settings_that_are_not_for_visitors(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.service.service.SERVED", ("prompt", "seed", "candidates", "top_k"))
    drawn(service, PANDA)
    with pytest.raises(InputError, match="steps: not a setting for visitors"):
        drawn(service, Request("a panda", steps=3))


@pytest.mark.fault("memory runs out")
def test_who_ranks_is_chosen_unless_workers_have_loaded_it(service: Service) -> None:
    assert service.usual_rerankers == ["fake-jury"]
    assert service.chooses_rerankers  # between this one and those that ship
    outcome = service.submit(PANDA, rerankers=["stickers-clip"]).future.result(PATIENCE)
    assert outcome.made == 2
    assert service.engine.rerankers == [("stickers-clip", 1.0)]
    drawn(service, PANDA.replace(seed=9))
    assert service.engine.rerankers == [("fake-jury", 1.0)]
    service.engine.workers = 2
    assert not service.chooses_rerankers


def test_out_of_memory_fails_one_job_and_the_next_one_runs(
    service: Service, fakes: fake_models.Studio
) -> None:
    fakes.pipeline.room_in_step = 0
    with pytest.raises(RoomError):
        drawn(service, PANDA)
    fakes.pipeline.room_in_step = 1  # two candidates are halved
    assert drawn(service, PANDA).made == 2


def test_stop_saves_what_is_in_the_making_as_it_is(
    service: Service, fakes: fake_models.Studio, tmp_path: Path
) -> None:
    began = threading.Event()
    fakes.pipeline.on_step = lambda _: began.set()
    fakes.pipeline.seconds_per_step = 0.05
    running = service.submit(Request("a panda", seed=1, candidates=2, steps=200))
    waiting = service.submit(PANDA)
    assert began.wait(PATIENCE)
    service.stop()
    outcome = running.future.result(0)
    assert len(outcome.best) == 2
    assert "of 200" in outcome.best[0].unfinished
    assert all(result.path.is_file() for result in outcome.best)
    with pytest.raises(StoppingError):
        waiting.future.result(0)


def test_what_a_server_begins_with_is_not_gone_through_for_garbage(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.service.catalog.DEFAULT_MODEL", "fake")
    service.load()
    assert len(gc.get_objects()) < gc.get_freeze_count() / 10
    service.release(service.default).future.result(PATIENCE)
    assert len(gc.get_objects()) < gc.get_freeze_count() / 10
    gc.unfreeze()


@pytest.mark.slow
def test_workers_draw_jobs_of_several_at_once(
    tiny_diffusion_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    reranker, catalog = str(tiny_clip_folder), read_catalog([str(tiny_diffusion_folder)])
    small = Request("a fox", seed=7, candidates=2, top_k=2, steps=2)
    long = small.replace(candidates=16, steps=60)
    with RunFolder(tmp_path / "out") as folder:
        engine = Engine("cpu", reranker=reranker, threads=1, batch_size=1, workers=2)
        service = Service(engine, folder, catalog=catalog)
        slow = service.submit(long, "first")
        quick = [service.submit(small.replace(seed=seed), str(seed)) for seed in (7, 9)]
        outcomes = [job.future.result(300) for job in quick]
        assert not slow.future.done()  # it had come first, and 16 times as much to do
        slow.cancel.finish_now()
        assert slow.future.result(300).made < 16
        service.stop()
        engine.close()
    with RunFolder(tmp_path / "alone") as folder:
        service = Service(Engine("cpu", reranker=reranker, batch_size=1), folder, catalog=catalog)
        for seed, outcome in zip((7, 9), outcomes, strict=True):
            alone = service.submit(small.replace(seed=seed)).future.result(300)
            assert [each.seed for each in outcome.best] == [each.seed for each in alone.best]
            for one, other in zip(outcome.best, alone.best, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-5)
        service.stop()
