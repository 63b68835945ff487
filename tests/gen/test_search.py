"""Search: schedules, looks, and that all which holds for plain runs holds for it."""

import json
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_models
import pytest
from fake_models import FakeDraft, Studio
from PIL import Image
from test_run_folder import Killer

from gen import Engine, InputError, Request, generate
from gen.again import make_again, read_plan
from gen.cli import main
from gen.events import Cancel, Event, Progress
from gen.metadata import parameters, read
from gen.plan import resolve
from gen.run_folder.events import from_json, to_json
from gen.run_folder.folder import RunFolder
from gen.search import looking
from gen.search.looking import find_head
from gen.search.paths import Branch, NoisePath, read_path
from gen.search.race import Field, Rating, Runner, parts, thin_out
from gen.search.schedule import Rung, Schedule, make_schedule
from pipelines.checkpoints.hashes import files_hash
from pipelines.courses import Course
from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.diffusion.samplers import SAMPLERS
from pipelines.families import find
from rerank import Reranker
from rerank.calibration.calibration import Logistic
from rerank.learn.previews import PreviewHead

STEPS = Course(20, looks=(0.4, 0.65), forks=(0.25, 0.5))
TOKENS = Course(64, stride=8, looks=(0.625,), forks=(0.25, 0.5, 0.75))
PRUNE = {"seed": 7, "candidates": 8, "top_k": 2, "steps": 10, "search": "prune"}


# --- schedules ---


@pytest.mark.parametrize("course", [STEPS, TOKENS])
@pytest.mark.parametrize("search", ["prune", "beam"])
@pytest.mark.parametrize("candidates", [3, 5, 8, 16, 40])
def test_a_schedule_spends_its_budget_and_no_more(
    course: Course, search: str, candidates: int
) -> None:
    budget = candidates * course.total
    found = make_schedule(search, course, budget, finished=2)
    assert found.finished == 2
    assert 0.65 * budget < found.evaluations <= budget
    assert found.begin >= candidates
    steps = [rung.step for rung in found.rungs]
    assert steps == sorted(set(steps))
    assert all(0 < step < course.total and step % course.stride == 0 for step in steps)
    if search == "prune":
        assert list(found.widths) == sorted(found.widths, reverse=True)


def test_a_schedule_adds_up_by_hand() -> None:
    schedule = Schedule(10, (Rung(8, 5), Rung(13, 2)), 0, 20)
    assert schedule.evaluations == 10 * 8 + 5 * 5 + 2 * 7
    assert Schedule(8, (Rung(24, 2, 4), Rung(48, 2)), 16, 64).evaluations == 8 * 8 + 8 * 24 + 32
    assert Schedule(8, (Rung(24, 2, 4), Rung(48, 2)), 16, 64).taken(48) == 16


def test_too_small_a_budget_says_what_is_needed() -> None:
    with pytest.raises(InputError, match="budget 39: 2 images alone take 40 steps"):
        make_schedule("prune", STEPS, 39, 2)
    assert make_schedule("prune", STEPS, 40, 2) == Schedule(2, (), 0, 20)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_evaluations_are_known_without_loading(pipeline: LatentDiffusion, sampler: str) -> None:
    draft = pipeline.begin("a", seeds=[1], steps=7, sampler=sampler)
    assert draft.total == SAMPLERS[sampler].evaluations(7)


# --- paths ---


def test_a_path_says_what_it_was_at_each_step() -> None:
    path = NoisePath(7).branched(40, 16).branched(52, 32)
    assert (path.text, path.first) == ("7:16 40:32", 7)
    assert read_path(52, "7:16 40:32") == path
    assert [path.until(step).seed for step in (1, 16, 17, 32, 33)] == [7, 7, 40, 40, 52]
    assert path.until(17) == NoisePath(40, (Branch(7, 16),))
    assert parts([path, NoisePath(7), NoisePath(9)], 16) == [NoisePath(7), NoisePath(9)]


@pytest.mark.parametrize("text", ["", "7", "7:", "7:16  9:20", "7:16 9:16", "7:16 7:20", "52:3"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="branches"):
        read_path(52, text)


# --- looks ---


def field_of(*seeds: int) -> Field:
    return Field(0, tuple(Runner(NoisePath(seed)) for seed in seeds))


def test_the_best_go_on_and_of_equals_the_earlier() -> None:
    scores = {1: 0.5, 2: 0.9, 3: float("nan"), 4: 0.5}
    look = thin_out(field_of(1, 2, 3, 4), Rating(scores), Rung(8, 2), [])
    assert look.field == Field(8, (Runner(NoisePath(2), 0.9), Runner(NoisePath(1), 0.5)))
    assert look.dropped == (Runner(NoisePath(4), 0.5), Runner(NoisePath(3), None))


def test_beams_part_into_copies_with_fresh_seeds() -> None:
    scores = {1: 0.1, 2: 0.9, 3: 0.5}
    look = thin_out(field_of(1, 2, 3), Rating(scores), Rung(8, 2, 2), [10, 11])
    assert [(r.path.seed, r.path.text) for r in look.field.runners] == [
        (2, None),
        (10, "2:8"),
        (3, None),
        (11, "3:8"),
    ]


def test_repeated_beams_are_merged_and_their_places_taken_by_copies() -> None:
    rating = Rating({1: 0.8, 2: 0.8, 3: 0.5}, {1: b"x", 2: b"x", 3: b"y"})
    look = thin_out(field_of(1, 2, 3), rating, Rung(8, 2, 2), [10, 11])
    assert [runner.path.seed for runner in look.dropped] == [2]
    one = Rating({1: 0.8, 2: 0.8, 3: 0.8}, dict.fromkeys((1, 2, 3), b"x"))
    look = thin_out(field_of(1, 2, 3), one, Rung(8, 2, 2), [10, 11, 12])
    assert [r.path.seed for r in look.field.runners] == [1, 10, 11, 12]
    look = thin_out(field_of(1, 2, 3), one, Rung(8, 2), [])  # as many are finished as promised
    assert [r.path.seed for r in look.field.runners] == [1, 2]


def test_a_look_is_read_back_from_the_manifest() -> None:
    line = {
        "event": "searched",
        "number": 3,
        "model": "m",
        "step": 8,
        "total": 20,
        "kept": [{"seed": 2, "score": 0.9}, {"seed": str(2**60), "branches": "2:8"}],
        "dropped": [{"seed": 1}],
    }
    event = from_json(line)
    assert event is not None
    assert to_json(event) == line
    assert "Damaged" in repr(from_json({**line, "kept": [{"seed": 2, "branches": "x"}]}))


# --- a prompt ---


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def expected_best(first: int, begun: int, count: int) -> list[int]:
    """The fakes look half-way as they will at the end, so the best of all are found."""
    seeds = range(first, first + begun)
    value = {seed: fake_models.score(fake_models.picture("a fox", seed)) for seed in seeds}
    return sorted(seeds, key=lambda seed: -value[seed])[:count]


@pytest.mark.parametrize("batch_size", [None, 3])
def test_pruning_finds_the_best_of_many_for_the_price_of_few(
    studio: Studio, tmp_path: Path, batch_size: int | None
) -> None:
    engine = Engine(batch_size=batch_size)
    found = generate("a fox", engine=engine, outdir=tmp_path, **PRUNE)
    plan = resolve(Request("a fox", **PRUNE))
    assert plan.begun > 10
    assert [result.seed for result in found] == expected_best(7, plan.begun, 2)
    assert studio.pipeline.evaluations == plan.schedules[0].evaluations <= 80
    assert all(result.request.search is None for result in found)
    dropped = [each for line in records(tmp_path) for each in line.get("dropped", ())]
    assert len(dropped) == plan.begun - 2
    assert all(-1 <= each["score"] <= 1 for each in dropped)
    assert sorted(studio.pipeline.drawn) == sorted(result.seed for result in found)


def test_the_same_command_draws_nothing_again(studio: Studio, tmp_path: Path) -> None:
    first = generate("a fox", outdir=tmp_path, **PRUNE)
    steps = studio.pipeline.steps
    again = generate("a fox", outdir=tmp_path, **PRUNE)
    assert [r.seed for r in again] == [r.seed for r in first]
    assert studio.pipeline.steps == steps
    generate("a fox", outdir=tmp_path, **{**PRUNE, "search": "none"})
    assert studio.pipeline.steps > steps  # another job


def test_an_image_that_was_removed_is_made_again_alone(studio: Studio, tmp_path: Path) -> None:
    first = generate("a fox", outdir=tmp_path, **PRUNE)
    assert first[0].path is not None
    first[0].path.unlink()
    looks = len(studio.pipeline.looks)
    again = generate("a fox", outdir=tmp_path, **PRUNE)
    assert [r.seed for r in again] == [r.seed for r in first]
    assert studio.pipeline.drawn[2:] == (first[0].seed,)
    assert len(studio.pipeline.looks) == looks


def test_memory_that_is_short_changes_nothing(studio: Studio) -> None:
    expected = [r.seed for r in generate("a fox", **PRUNE)]
    studio.pipeline.room_in_begin, studio.pipeline.room_in_step = 5, 2
    assert [r.seed for r in generate("a fox", engine=Engine(batch_size=8), **PRUNE)] == expected


def test_a_candidate_that_cannot_be_shown_is_dropped(studio: Studio, tmp_path: Path) -> None:
    expected = expected_best(7, resolve(Request("a fox", **PRUNE)).begun, 3)
    studio.pipeline.broken_seeds = {expected[0]}
    found = generate("a fox", outdir=tmp_path, **PRUNE)
    assert [r.seed for r in found] == expected[1:]
    dropped = [each for line in records(tmp_path) for each in line.get("dropped", ())]
    assert {"seed": expected[0]} in dropped


def test_finish_now_keeps_as_many_as_are_wanted_and_the_next_run_goes_on(
    studio: Studio, tmp_path: Path
) -> None:
    expected = [r.seed for r in generate("a fox", **PRUNE)]
    cancel, plan = Cancel(), resolve(Request("a fox", **PRUNE))

    def finish(draft: FakeDraft) -> None:
        if draft.done == 5:  # behind the first look
            cancel.finish_now()

    studio.pipeline.on_step = finish
    with RunFolder(tmp_path) as folder:
        outcome = Engine().draw(plan, folder, cancel=cancel)
    assert [r.unfinished for r in outcome.best] == ["step 5 of 10"] * 2
    studio.pipeline.on_step = lambda draft: None
    with RunFolder(tmp_path) as folder:
        outcome = Engine().draw(plan, folder)
    assert [r.seed for r in outcome.best] == expected
    assert all(r.unfinished is None for r in outcome.best)
    assert len(list(tmp_path.rglob("[0-9]*.png"))) == 2


def test_stop_leaves_what_is_noted_and_the_next_run_looks_at_nothing_twice(
    studio: Studio, tmp_path: Path
) -> None:
    expected = [r.seed for r in generate("a fox", **PRUNE)]
    cancel, plan = Cancel(), resolve(Request("a fox", **PRUNE))
    studio.pipeline.on_step = lambda draft: cancel.stop() if draft.done == 5 else None
    studio.pipeline.looks = []
    with RunFolder(tmp_path) as folder:
        assert Engine().draw(plan, folder, cancel=cancel).best == []
    studio.pipeline.on_step = lambda draft: None
    with RunFolder(tmp_path) as folder:
        assert [r.seed for r in Engine().draw(plan, folder).best] == expected
    assert len(studio.pipeline.looks) == plan.begun + plan.schedules[0].rungs[0].keep


def test_progress_shows_no_more_candidates_than_come_of_it(studio: Studio) -> None:
    told: list[Event] = []
    generate("a fox", watch=told.append, **PRUNE)
    progress = [event for event in told if isinstance(event, Progress)]
    assert progress
    assert all(event.candidates == 2 and max(event.places) < 2 for event in progress)


def test_what_cannot_be_searched_is_refused_before_anything_is_drawn(studio: Studio) -> None:
    for asked, why in (
        ({"search": "beam"}, "euler draws no noise on the way"),
        ({"search": "prune", "budget": 3}, "budget 3: 4 images alone take 16 steps"),
        ({"budget": 300}, "is for a search"),
        ({"branches": "9:2"}, "ask for 1 candidate"),
        ({"search": "prune", "model": "fake,fake"}, "name each model once"),
    ):
        with pytest.raises(InputError, match=why):
            resolve(Request("a fox", seed=1, **asked))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="need a reranker"):
        generate("a fox", engine=Engine(reranker="none"), **PRUNE)
    assert studio.pipeline.batches == []


def test_beam_of_fakes_keeps_its_count(studio: Studio, tmp_path: Path) -> None:
    asked = {**PRUNE, "search": "beam", "sampler": "euler_a"}
    found = generate("a fox", outdir=tmp_path, **asked)
    assert len(found) == 2
    looks = [line for line in records(tmp_path) if line["event"] == "searched"]
    assert any("branches" in each for each in looks[0]["kept"])
    assert [r.seed for r in generate("a fox", engine=Engine(batch_size=2), **asked)] == [
        r.seed for r in found
    ]


# --- kills ---


@pytest.mark.slow
@pytest.mark.parametrize("search", ["prune", "beam"])
@pytest.mark.fault("kill -9")
def test_a_search_killed_at_any_moment_comes_to_the_same(
    studio: Studio, tmp_path: Path, generate_in_fork: Callable[..., int], search: str
) -> None:
    """Ten kills of each search; benchmarks/kill_search.py does the same with real models."""
    words = ["a fox", "--seed", "7", "--candidates", "8", "--top-k", "2", "--steps", "10"]
    words += ["--search", search, "--sampler", "euler_a", "--batch-size", "3", "-q"]
    calm, counter = tmp_path / "calm", Killer(None)

    def count_operations() -> None:
        counter.install()
        main([*words, "-o", str(calm)])
        (tmp_path / "count").write_text(str(counter.count))

    generate_in_fork(["--version"], count_operations)
    operations = int((tmp_path / "count").read_text())
    for fatal in sorted(random.Random(0).sample(range(1, operations + 1), 10)):
        out = tmp_path / f"killed-{fatal}"
        assert generate_in_fork([*words, "-o", str(out)], Killer(fatal).install) == -signal.SIGKILL
        assert main([*words, "-o", str(out)]) == 0
        assert files(out) == files(calm)
        looks = [line for line in records(out) if line["event"] == "searched"]
        assert looks == [line for line in records(calm) if line["event"] == "searched"]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("[0-9]*.png")
    }


# --- real networks ---


@pytest.fixture(scope="module")
def pipeline(tiny_diffusion_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(tiny_diffusion_folder, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("search", ["prune", "beam"])
@pytest.mark.parametrize("kind", ["diffusion", "dalle"])
def test_a_found_image_is_made_again_alone(
    kind: str,
    search: str,
    tiny_diffusion_folder: Path,
    tiny_dalle_folder: Path,
    tiny_clip_folder: Path,
    tmp_path: Path,
) -> None:
    asked: dict[str, Any] = {"seed": 3, "candidates": 6, "top_k": 3, "search": search}
    if kind == "diffusion":
        asked |= {"model": str(tiny_diffusion_folder), "sampler": "euler_a", "steps": 8}
    else:
        asked |= {"model": str(tiny_dalle_folder), "temperature": 2.0}
    engine = Engine(reranker=str(tiny_clip_folder), device="cpu")
    found = generate("a fox", engine=engine, outdir=tmp_path, **asked)
    assert len(found) == 3
    for result in found:
        assert result.path is not None
        record = read(result.path)
        assert record.request.branches == result.request.branches
        again = make_again(result.path, read_plan(result.path), engine)
        assert again.difference is not None
        assert again.difference <= 2
        text = parameters.to_text(record)
        assert (result.request.branches is not None) == ("Branches:" in text)
    if search == "beam":
        assert any(r.request.branches is not None for r in found)
    small = Engine(reranker=str(tiny_clip_folder), device="cpu", batch_size=2)
    assert [r.seed for r in generate("a fox", engine=small, **asked)] == [r.seed for r in found]


@pytest.mark.slow
def test_a_head_for_previews_is_used_with_its_own_reranker(
    tiny_dalle_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_dalle_folder, model)
    scorer, spec = Reranker.load(tiny_clip_folder), find(str(model))
    assert find_head(spec, scorer) is None
    logistic = Logistic((0.0,) * 4, (1.0,) * 4, (0.0, 0.0, 5.0, 0.0), 0.0)  # the likelihood alone
    own = PreviewHead(files_hash(tiny_clip_folder), {0.5: logistic})
    replace(own, reranker="another").save(model / "previews.json")
    assert find_head(spec, scorer) is None
    own.save(model / "previews.json")
    head = find_head(spec, scorer)
    draft = Engine(device="cpu").pipeline(spec).begin("a fox", seeds=range(5), temperature=3.0)
    draft.step(8)
    told = looking.rate(scorer, head, "a fox", [draft]).scores
    assert all(0 <= value <= 1 for value in told.values())
    by_likelihood = sorted(range(5), key=lambda i: draft.log_likelihoods[i])
    assert sorted(told, key=lambda seed: told[seed]) == by_likelihood


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["euler_a", "heun"])
def test_an_edit_is_searched_over_the_steps_that_it_draws(
    sampler: str, tiny_diffusion_folder: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    asked: dict[str, Any] = {"seed": 3, "candidates": 4, "top_k": 2, "search": "prune"}
    asked |= {"model": str(tiny_diffusion_folder), "sampler": sampler, "steps": 8}
    asked |= {"init_image": str(tmp_path / "a.png"), "strength": 0.5, "width": 64, "height": 64}
    engine = Engine(reranker=str(tiny_clip_folder), device="cpu")
    plan = resolve(Request("a fox", **asked))
    assert plan.schedules[0].total == (7 if sampler == "heun" else 4)
    totals = []

    def note(event: Event) -> None:
        if isinstance(event, Progress):
            totals.append(event.steps)

    assert len(engine.draw(plan, watch=note).best) == 2
    assert set(totals) == {plan.schedules[0].total}
