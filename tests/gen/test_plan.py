"""From a request to the exact candidates."""

from dataclasses import replace
from pathlib import Path

import pytest

from gen.errors import InputError
from gen.plan import Survey, resolve
from gen.settings.request import MAX_SEED, Request
from pipelines.checkpoints.errors import WeightsError

pytestmark = pytest.mark.usefixtures("studio")


def test_what_is_open_comes_from_the_model() -> None:
    plan = resolve(Request("a panda", seed=7))
    assert plan.request == Request(
        "a panda",
        model="fake",
        seed=7,
        width=64,
        height=64,
        steps=4,
        guidance=3.0,
        sampler="euler",
        schedule="default",
        candidates=16,
        top_k=4,
    )
    assert resolve(plan.request).request == plan.request


def test_what_is_given_holds_even_if_it_is_zero() -> None:
    request = resolve(Request("a panda", seed=0, guidance=0, candidates=2, top_k=1)).request
    assert (request.seed, request.guidance, request.candidates, request.top_k) == (0, 0.0, 2, 1)


@pytest.mark.parametrize(
    ("candidates", "top_k", "expected"),
    [(None, None, (16, 4)), (2, None, (2, 2)), (None, 20, (20, 20)), (8, 3, (8, 3))],
)
def test_how_many(candidates: int | None, top_k: int | None, expected: tuple[int, int]) -> None:
    plan = resolve(Request("a panda", candidates=candidates, top_k=top_k))
    assert (plan.count, plan.top_k) == expected


def test_a_small_run_is_the_start_of_a_large_one() -> None:
    request = {"model": "fake,other", "seed": 3, "width": 128}
    small = resolve(Request("a panda", candidates=8, top_k=1, **request))
    large = resolve(Request("a panda", candidates=16, top_k=1, **request))
    assert small.candidates() == large.candidates()[:8]


def test_models_take_turns_and_each_gets_only_its_own_settings() -> None:
    plan = resolve(Request("a panda", model="fake, other", seed=5, steps=9, temperature=0.5))
    first, second, third = plan.candidates()[:3]
    assert [c.spec.name for c in (first, second, third)] == ["fake", "other", "fake"]
    assert [c.seed for c in (first, second, third)] == [5, 6, 7]
    assert (first.request.steps, first.request.temperature) == (9, None)
    assert (second.request.steps, second.request.temperature) == (None, 0.5)
    assert second.request.guidance is None
    assert {c.request.model for c in (first, third)} == {"fake"}
    assert (first.request.candidates, first.request.top_k) == (1, 1)


def test_a_candidate_alone_is_the_same_candidate() -> None:
    fourth = resolve(Request("a panda", seed=5, steps=9)).candidate(4)
    [alone] = resolve(fourth.request).candidates()
    assert alone.request == fourth.request


def test_seeds_go_on_from_zero_after_the_largest() -> None:
    plan = resolve(Request("a panda", seed=MAX_SEED, candidates=3))
    assert [candidate.seed for candidate in plan.candidates()] == [MAX_SEED, 0, 1]


@pytest.mark.parametrize("seed", [None, -1])
def test_a_seed_is_drawn_that_every_tool_can_read(seed: int | None) -> None:
    seeds = {resolve(Request("a panda", seed=seed)).seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= drawn < 2**32 for drawn in seeds)


def test_a_setting_that_no_chosen_model_takes() -> None:
    with pytest.raises(InputError, match=r"temperature: .*fake takes .*steps"):
        resolve(Request("a panda", temperature=1))
    resolve(Request("a panda", temperature=1, model="fake,other"))


@pytest.mark.parametrize("width", [513, 65, 512])
def test_a_size_that_the_model_cannot_draw(width: int) -> None:
    with pytest.raises(InputError, match=f"width {width}: .*multiple of 16, from 64 to 256"):
        resolve(Request("a panda", width=width))


def test_a_sampler_without_that_schedule() -> None:
    with pytest.raises(InputError, match="karras"):
        resolve(Request("a panda", sampler="ddim", schedule="karras"))


def test_an_unknown_model_lists_the_known() -> None:
    with pytest.raises(WeightsError, match="fake"):
        resolve(Request("a panda", model="nonesuch"))


def test_a_survey_counts_and_tells_runs_apart() -> None:
    surveys = [Survey() for _ in range(3)]
    for survey, prompts in zip(surveys, (["a", "b"], ["a", "b"], ["b", "a"]), strict=True):
        for prompt in prompts:
            survey.add(Request(prompt, candidates=5))
    assert (surveys[0].prompts, surveys[0].candidates) == (2, 10)
    assert surveys[0].fingerprint == surveys[1].fingerprint != surveys[2].fingerprint


def test_choices_are_made_once_and_the_template_is_kept(tmp_path: Path) -> None:
    (tmp_path / "animals.txt").write_text("fox\nowl\n")
    template = "a {red|blue} __animals__"
    request = Request(template, seed=7, wildcards=str(tmp_path))
    made = resolve(request).request
    assert made.prompt in {f"a {c} {a}" for c in ("red", "blue") for a in ("fox", "owl")}
    assert (made.template, made.wildcards) == (template, None)
    assert resolve(made).request == made
    literal = resolve(Request(r"\{a|b\}", seed=7)).request
    assert literal.prompt == "{a|b}"
    assert resolve(literal).request == literal
    prompts = {resolve(replace(request, seed=seed)).request.prompt for seed in range(30)}
    assert len(prompts) == 4
    assert resolve(Request("a fox", seed=7)).request.template is None
