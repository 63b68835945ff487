"""The recipe: what is drawn, in which order, and what happens when something gives way."""

import time
from pathlib import Path
from typing import Any

import fake_models
import pytest
from fake_models import FakeDraft, Studio

from gen import generate, metadata
from gen.engine import Engine, Outcome
from gen.errors import RoomError
from gen.events import Cancel, Event, Finished, Loading, Note, Progress
from gen.plan import resolve
from gen.run_folder.folder import RunFolder
from gen.settings.request import Request


def draw(request: Request, folder: Path | None = None, **options: Any) -> Outcome:
    engine = options.pop("engine", None) or Engine(batch_size=options.pop("batch_size", None))
    if folder is None:
        return engine.draw(resolve(request), **options)
    with RunFolder(folder) as run_folder:
        return engine.draw(resolve(request), run_folder, **options)


def test_generate_returns_the_best_first(studio: Studio) -> None:
    results = generate("a panda", candidates=8, top_k=3, seed=7)
    everything = sorted(
        ((fake_models.score(fake_models.picture("a panda", seed)), seed) for seed in range(7, 15)),
        reverse=True,
    )
    assert [(result.score, result.seed) for result in results] == everything[:3]
    assert [result.rank for result in results] == [1, 2, 3]
    for result in results:
        expected = fake_models.picture("a panda", result.seed)
        assert result.image is not None
        assert result.image.tobytes() == expected.tobytes()
        assert result.request.candidates == 1
    assert studio.pipeline.drawn == tuple(range(7, 15))


def test_the_pipeline_gets_the_resolved_settings(studio: Studio) -> None:
    generate("a panda", candidates=1, guidance=0, negative_prompt="red", seed=0)
    assert studio.pipeline.settings == [
        {
            "negative_prompt": "red",
            "width": 64,
            "height": 64,
            "steps": 4,
            "guidance": 0.0,
            "sampler": "euler",
            "schedule": "default",
        }
    ]


def test_two_models_share_the_candidates(studio: Studio) -> None:
    results = generate("a panda", model="fake,other", candidates=5, top_k=5, seed=0)
    assert studio.pipelines["fake"].drawn == (0, 2, 4)
    assert studio.pipelines["other"].drawn == (1, 3)
    assert {result.seed: result.request.model for result in results}[3] == "other"
    assert studio.loads == ["jury", "fake", "other"]


def test_models_are_loaded_once(studio: Studio) -> None:
    engine = Engine()
    for seed in range(3):
        generate("a panda", candidates=1, seed=seed, engine=engine)
    assert studio.loads == ["jury", "fake"]


def test_without_a_jury_the_order_of_making_holds(studio: Studio) -> None:
    results = generate("a panda", candidates=4, top_k=2, seed=3, engine=Engine(reranker="none"))
    assert [(r.seed, r.score, r.rank) for r in results] == [(3, None, 1), (4, None, 2)]
    assert studio.loads == ["fake"]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.fault("one seed, every batch and device")
def test_the_micro_batch_does_not_matter(studio: Studio, batch_size: int) -> None:
    results = generate("a panda", candidates=8, seed=7, engine=Engine(batch_size=batch_size))
    assert [result.seed for result in results] == [
        result.seed for result in generate("a panda", candidates=8, seed=7)
    ]
    assert max(studio.pipeline.batches[:-1]) == batch_size


@pytest.mark.parametrize("where", ["room_in_step", "room_in_begin"])
@pytest.mark.fault("memory runs out")
def test_short_memory_halves_the_batch_and_nothing_is_lost(studio: Studio, where: str) -> None:
    setattr(studio.pipeline, where, 3)
    notes: list[object] = []
    results = generate(
        "a panda",
        candidates=16,
        top_k=16,
        seed=0,
        engine=Engine(batch_size=10),
        watch=lambda event: notes.append(event) if isinstance(event, Note) else None,
    )
    assert sorted(result.seed for result in results) == list(range(16))
    assert sorted(studio.pipeline.drawn) == list(range(16))
    assert max(studio.pipeline.batches[-2:]) <= 3  # and the next micro-batch was chosen smaller
    if where == "room_in_step":
        assert "halved" in str(notes)


def test_a_batch_that_is_halved_goes_on_from_its_step(studio: Studio) -> None:
    def shrink(draft: FakeDraft) -> None:
        if draft.done == 2:
            studio.pipeline.room_in_step = 2

    studio.pipeline.on_step = shrink
    generate("a panda", candidates=4, seed=0)
    assert studio.pipeline.steps == 2 + 2 * 2


@pytest.mark.parametrize("where", ["room_in_step", "room_in_begin"])
@pytest.mark.fault("memory runs out")
def test_memory_short_for_one_candidate_is_an_error_in_words(studio: Studio, where: str) -> None:
    setattr(studio.pipeline, where, 0)
    with pytest.raises(RoomError, match=r"not enough memory .*--width"):
        generate("a panda", candidates=4)
    setattr(studio.pipeline, where, 4)
    assert len(generate("a panda", candidates=4)) == 4  # the next job works


def test_other_errors_are_not_taken_for_short_memory(studio: Studio) -> None:
    def fail(draft: FakeDraft) -> None:
        raise RuntimeError("a bug")

    studio.pipeline.on_step = fail
    with pytest.raises(RuntimeError, match="a bug"):
        generate("a panda", candidates=4)


@pytest.mark.fault("values that are not finite")
def test_a_picture_that_is_not_finite_fails_alone(studio: Studio, tmp_path: Path) -> None:
    studio.pipeline.broken_seeds = {2}
    outcome = draw(Request("a panda", candidates=4, top_k=4, seed=0), tmp_path)
    assert sorted(result.seed for result in outcome.best) == [0, 1, 3]
    assert [(r.seed, r.failed, r.path) for r in outcome.failed] == [(2, "not finite", None)]
    assert not list(tmp_path.rglob("0001-2*"))
    results = generate("a panda", candidates=4, top_k=4, seed=0)
    assert (results[-1].seed, results[-1].image, results[-1].rank) == (2, None, None)


@pytest.mark.fault("scores that are not finite")
def test_a_score_that_is_not_a_number_never_wins(studio: Studio, tmp_path: Path) -> None:
    best = generate("a panda", candidates=4, seed=0)[0]
    studio.jury.nan_for = lambda value: value == best.score
    outcome = draw(Request("a panda", candidates=4, top_k=4, seed=0), tmp_path)
    assert best.seed not in [result.seed for result in outcome.best]
    assert [result.seed for result in outcome.failed] == [best.seed]
    assert "not a finite number" in str(outcome.failed[0].failed)


def test_equal_scores_keep_the_order_of_making(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio.jury, "score", lambda prompt, images: [0.5] * len(images))
    results = generate("a panda", candidates=6, top_k=6, seed=0, engine=Engine(batch_size=2))
    assert [result.seed for result in results] == list(range(6))


def test_stop_drops_the_micro_batch_in_the_making(studio: Studio, tmp_path: Path) -> None:
    cancel = Cancel()

    def stop(draft: FakeDraft) -> None:
        if 4 in draft.seeds and draft.done == 2:
            cancel.stop()

    studio.pipeline.on_step = stop
    request = Request("a panda", candidates=12, top_k=2, seed=0)
    outcome = draw(request, tmp_path, cancel=cancel, batch_size=4)
    assert studio.pipeline.drawn == (0, 1, 2, 3)
    assert (outcome.made, outcome.drawn, len(outcome.best)) == (4, 4, 2)
    assert all("-r" in str(result.path) for result in outcome.best)

    studio.pipeline.on_step = lambda draft: None
    again = draw(request, tmp_path)
    assert studio.pipeline.drawn == tuple(range(12))
    assert (again.made, again.drawn) == (12, 8)
    assert len(list(tmp_path.glob("0001-r*-*.png"))) == 2
    assert len(list(tmp_path.glob("candidates/*.png"))) == 10


def test_finish_now_keeps_candidates_as_they_are(studio: Studio, tmp_path: Path) -> None:
    cancel = Cancel()

    def finish(draft: FakeDraft) -> None:
        if 2 in draft.seeds and draft.done == 3:
            cancel.finish_now()

    studio.pipeline.on_step = finish
    request = Request("a panda", candidates=6, top_k=6, seed=0)
    outcome = draw(request, tmp_path, cancel=cancel, batch_size=2)
    marks = {result.seed: result.unfinished for result in outcome.best}
    assert marks == {0: None, 1: None, 2: "step 3 of 4", 3: "step 3 of 4"}
    rough = next(result for result in outcome.best if result.seed == 2)
    assert rough.path is not None
    assert metadata.read(rough.path).unfinished == "step 3 of 4"

    studio.pipeline.on_step = lambda draft: None
    whole = draw(request, tmp_path)
    assert whole.drawn == 4
    assert [result.unfinished for result in whole.best] == [None] * 6
    for result in whole.best:
        assert result.path is not None
        assert metadata.read(result.path).unfinished is None
    assert len(list(tmp_path.rglob("0001-*.png"))) == 6


def test_progress_counts_candidates_and_steps(studio: Studio) -> None:
    events: list[Event] = []
    generate("a panda", candidates=4, engine=Engine(batch_size=2), watch=events.append)
    seen = [(e.made, e.drawing, e.step, e.steps) for e in events if isinstance(e, Progress)]
    assert seen == [(made, 2, step, 4) for made in (0, 2) for step in (1, 2, 3, 4)]


def test_what_is_finished_is_told_with_its_picture(studio: Studio, tmp_path: Path) -> None:
    told: list[tuple[str, list[int], list[int]]] = []

    def watch(event: Event) -> None:
        if isinstance(event, Progress):
            told.append(("making", list(event.places), []))
        if isinstance(event, Finished):
            drawn = [result.index for result in event.results if result.image is not None]
            told.append(("finished", [result.index for result in event.results], drawn))

    request = Request("a panda", model="fake,other", seed=0, candidates=5, top_k=1, steps=1)
    studio.pipeline.broken_seeds = {4}
    studio.pipelines["other"].on_step = lambda draft: 1 / 0
    with pytest.raises(ZeroDivisionError):
        draw(request, tmp_path, watch=watch, batch_size=2)
    assert told == [
        *[("making", [0, 2], []), ("finished", [0, 2], [0, 2])],
        *[("making", [4], []), ("finished", [4], [])],
    ]
    told.clear()
    studio.pipeline.broken_seeds = set()
    studio.pipelines["other"].on_step = lambda draft: None
    draw(request, tmp_path, watch=watch, batch_size=2)
    assert told[0] == ("finished", [0, 2], [])  # by the run before: in files
    assert ("finished", [4], [4]) in told
    assert told[-1] == ("finished", [1, 3], [1, 3])


def test_what_is_loaded_is_told_before_it_is_waited_for(studio: Studio) -> None:
    told: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Loading):
            told.append(f"{event.model} after {len(studio.loads)}")

    draw(Request("a panda", model="fake,other", candidates=2, top_k=1), watch=watch)
    assert told == ["the reranker after 0", "fake after 1", "other after 2"]


def test_previews_take_a_tenth_of_the_time_at_most(studio: Studio) -> None:
    studio.pipeline.seconds_per_step = 0.003
    studio.pipeline.seconds_per_preview = 0.006
    seen = []

    def watch(event: Event) -> None:
        if isinstance(event, Progress) and event.previews is not None:
            seen.append(event.previews)

    start = time.perf_counter()
    draw(Request("a panda", candidates=2, steps=100), previews=True, watch=watch)
    spent = 0.006 * studio.pipeline.previews
    assert 1 <= len(seen) == studio.pipeline.previews
    assert spent <= 0.1 * (time.perf_counter() - start) + 0.006  # the first cannot be foreseen
    draw(Request("a panda", candidates=2, steps=100), watch=watch)
    assert len(seen) == studio.pipeline.previews  # none unless asked for


def test_memory_holds_no_more_pictures_than_are_returned(studio: Studio) -> None:
    held: list[int] = []
    studio.pipeline.on_step = lambda draft: held.append(studio.pipeline.pictures_in_memory)
    outcome = draw(Request("a panda", candidates=8, top_k=2, seed=0), batch_size=2)
    assert all(result.image is not None for result in outcome.best)
    assert max(held) == studio.pipeline.pictures_in_memory == 2


def test_dropped_text_and_unknown_words_are_named(studio: Studio) -> None:
    (studio.folder / "fake" / "vocabulary.json").write_text('{"words": ["a", "panda"]}')
    (studio.folder / "jury" / "vocabulary.json").write_text('{"words": ["a", "panda"]}')
    notes: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    generate("a panda " + "a " * 28 + "zebra crossing", candidates=1, watch=watch)
    assert len(notes) == 2
    assert "“zebra”, “crossing”" in notes[0]
    assert "-m FOLDER" in notes[0]
    assert "'zebra crossing'" in notes[1]


def test_the_record_says_how_it_was_made(studio: Studio, tmp_path: Path) -> None:
    outcome = draw(Request("a panda", candidates=3, top_k=1, seed=0), tmp_path)
    assert outcome.best[0].path is not None
    record = metadata.read(outcome.best[0].path)
    assert (record.model, record.attention, record.candidates) == ("fake", "sdpa", 3)
    assert (record.rank, record.score) == (1, outcome.best[0].score)
    assert len(record.model_hash) == 10
    assert set(record.versions) == {"salon", "torch", "diffusers"}
    assert record.rerank_model == "fake-jury"
    assert record.request == outcome.best[0].request
