"""Prompts that change from step to step, and prompts that AND joins."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.diffusion.pipeline import LatentDiffusion
from pipelines.diffusion.prompt_editing import (
    MOST_CHANGES,
    MOST_JOINED,
    MOST_TEXTS,
    Moment,
    Part,
    changing,
    finals,
    misunderstood,
    moments,
)
from pipelines.settings import InputError


def told(prompt: str, steps: int = 10) -> list[tuple[int, str]]:
    """How many steps each text holds."""
    texts = [moment.texts[0].text for moment in moments(prompt, None, steps)]
    return [(len(list(group)), text) for text, group in itertools.groupby(texts)]


# The first fourteen are the examples in AUTOMATIC1111's prompt_parser.py, with what it says.
CASES: list[tuple[str, list[tuple[int, str]]]] = [
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (7, "a b")]),
    ("a [b: 3]", [(3, "a "), (7, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (8, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (7, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (9, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (1, "ace"), (8, "ade")]),
    ("a [unbalanced", [(10, "a [unbalanced")]),
    ("a [b:.5] c", [(5, "a  c"), (5, "a b c")]),
    ("a [{b|d{:.5] c", [(5, "a  c"), (5, "a {b|d{ c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (7, "((a][:b:c d")]),
    ("[a|(b:1.1)]", [(1, "a"), (1, "(b:1.1)")] * 5),
    ("[fe|]male", [(1, "female"), (1, "male")] * 5),
    ("[fe|||]male", [(1, "female"), (3, "male")] * 2 + [(1, "female"), (1, "male")]),
    ("[a::5]", [(5, "a"), (5, "")]),
    ("[:b:5]", [(5, ""), (5, "b")]),
    ("[a:b:0.25]", [(2, "a"), (8, "b")]),
    ("[a:b:0]", [(10, "b")]),
    ("[a:b:12]", [(10, "a")]),
    ("[a:b:1.0]", [(10, "a")]),
    ("[[a|b]:c:2]", [(1, "a"), (1, "b"), (8, "c")]),
    (r"\[a:b:5\] [c\:d:e:5]", [(5, r"\[a:b:5\] c\:d"), (5, r"\[a:b:5\] e")]),
    ("[a|[:b]]", [(1, "a"), (1, "[:b]")] * 5),
    ("ratio 16:9, [low] (high:1.2) [a:b:c]", [(10, "ratio 16:9, [low] (high:1.2) [a:b:c]")]),
]


@pytest.mark.parametrize(("prompt", "expected"), CASES)
def test_grammar(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert told(prompt) == expected


def test_and_joins_prompts_with_weights() -> None:
    [moment] = moments("a cat :1.2 AND a dog AND (fog:1.1) :-.5", None, 1)
    assert moment.texts == (Part("a cat", 1.2), Part("a dog"), Part("(fog:1.1)", -0.5))
    assert moments("SAND AND_X ratio 16:9", "a AND b", 1) == [
        Moment((Part("SAND AND_X ratio 16:9"),), "a AND b")
    ]
    both = moments("[a:b:1] AND c", "[d|e]", 2)
    assert [moment.texts[0].text for moment in both] == ["a", "b"]
    assert [moment.negative for moment in both] == ["d", "e"]
    assert moments("[a|b] AND c", "[d|e]", 1, "plain") == [Moment((Part("[a|b] AND c"),), "[d|e]")]


def test_what_a_prompt_comes_to() -> None:
    assert finals("[cow|horse] in a [field:wood:0.5][ at night:0.9]", 10) == [
        "cow horse in a wood at night"
    ]
    assert finals("a [cat::5] AND [fe|]male", 10) == ["a ", "female"]


def test_brackets_that_are_misunderstood() -> None:
    prompt = "a [fox:1.3] [b:9] [c:d:20] [red:blue:green] [x] [y:z] [a:[b:c]:d]"
    lines = [*misunderstood(prompt, 10)]
    assert [line.partition("] ")[0] for line in lines] == [
        "[red:blue:green",
        "[a:[b:c]:d",
        "[fox:1.3",
    ]
    assert "(word:1.3)" in lines[-1]
    deep = "[" * 4000 + ":a:" + "]" * 4000
    assert next(misunderstood(deep, 10)).startswith("[:a:] only weighs its words")
    assert [*changing("a [b:c:3] AND d AND [e|[f|g]] [h]")] == [
        "AND",
        "[b:c:3]",
        "[f|g]",
        "[e|[f|g]]",
    ]


def test_what_is_too_much_is_refused() -> None:
    for prompt, match in [
        ("[a:b:1]" * (MOST_CHANGES + 1), "100 brackets"),
        (" AND ".join("a" * (MOST_JOINED + 1)), "AND joins 9"),
        ("[" + "|".join(map(str, range(MOST_TEXTS + 1))) + "]", "different texts over 1000"),
    ]:
        with pytest.raises(InputError, match=match):
            moments(prompt, None, 1000)
    assert told("[" * 5000 + "]" * 5000, 2) == [(2, "[" * 5000 + "]" * 5000)]


# --- drawn


def latents(pipeline: LatentDiffusion, prompt: str, **settings: Any) -> torch.Tensor:
    chosen: dict[str, Any] = {"seeds": [3], "steps": 4, "guidance": 3.0, "sampler": "ddim"}
    with pipeline.begin(prompt, **(chosen | settings)) as draft:
        draft.step(draft.total - draft.done)
        return draft._open.latents.clone()


def by_hand(pipeline: LatentDiffusion, prompts: list[str], **settings: Any) -> torch.Tensor:
    """What drafts come to that are told another prompt at each step."""
    chosen: dict[str, Any] = {"seeds": [3], "steps": 4, "guidance": 3.0, "sampler": "ddim"}
    drafts = [pipeline.begin(prompt, **(chosen | settings)) for prompt in prompts]
    state = drafts[0]._state
    for draft in drafts:
        draft._state = state
        draft.step()
        state = draft._state
    assert state is not None
    return state.latents


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "each"),
    [
        ("a [panda:balloon:0.5]", ["a panda"] * 2 + ["a balloon"] * 2),
        ("a [panda|balloon]", ["a panda", "a balloon"] * 2),
        ("a panda[ red::1]", ["a panda red"] + ["a panda"] * 3),
    ],
)
def test_each_step_is_told_its_own_text(
    pipeline: LatentDiffusion, prompt: str, each: list[str]
) -> None:
    drawn = latents(pipeline, prompt, negative_prompt="blue")
    assert torch.equal(drawn, by_hand(pipeline, each, negative_prompt="blue"))
    assert not torch.equal(drawn, latents(pipeline, each[0], negative_prompt="blue"))


@pytest.mark.slow
def test_a_sampler_that_asks_twice_is_told_the_same_twice(pipeline: LatentDiffusion) -> None:
    draft = pipeline.begin("[panda|balloon]", seeds=[1], steps=3, sampler="heun", guidance=1.0)
    told: list[int] = []
    panda, balloon, _ = draft._passes[0].conditions
    draft._passes[0].conditions = [_Spy(each, told) for each in draft._passes[0].conditions]
    draft.step(draft.total)
    assert told == [id(each) for each in (panda, panda, balloon, balloon, panda)]


class _Spy:
    """A condition that notes when it is asked."""

    def __init__(self, condition: Any, told: list[int]) -> None:
        self.condition, self.told = condition, told

    def predict(self, *arguments: Any, **named: Any) -> Any:
        self.told.append(id(self.condition))
        return self.condition.predict(*arguments, **named)


@pytest.mark.slow
def test_and_follows_each_text_by_its_weight(pipeline: LatentDiffusion) -> None:
    """ε(x) + w Σ wᵢ (ε(x, cᵢ) − ε(x)), from one network evaluation at a time."""
    draft = pipeline.begin("a panda :0.6 AND red AND blue :-0.3", seeds=[1, 2], guidance=4.0)
    x_t, t = draft._open.latents, draft._passes[0].times[0]
    condition = draft._passes[0].conditions[0]

    def evaluated(prompt: str) -> torch.Tensor:
        return condition.evaluate(pipeline.unet, x_t, t, [pipeline.text.encode(prompt)] * 2)

    with torch.inference_mode():
        without = evaluated("")
        towards = [w * (evaluated(p) - without) for p, w in WEIGHTED]
        expected = without + 4.0 * torch.stack(towards).sum(dim=0)
        assert torch.allclose(condition.predict(pipeline.unet, x_t, t), expected, atol=1e-4)


WEIGHTED = [("a panda", 0.6), ("red", 1.0), ("blue", -0.3)]


@pytest.mark.slow
def test_and_without_guidance_is_a_mean(pipeline: LatentDiffusion) -> None:
    alone = latents(pipeline, "a panda", guidance=1.0)
    both = latents(pipeline, "a panda :0.2 AND a panda :2", guidance=1.0)
    assert torch.allclose(both, alone, atol=1e-5)
    with pytest.raises(InputError, match="must come to more than 0"):
        pipeline.begin("a panda AND red :-1", seeds=[1], guidance=1.0)


@pytest.mark.slow
def test_and_of_short_and_long_prompts(pipeline: LatentDiffusion) -> None:
    draft = pipeline.begin("a panda AND " + "red " * 50, seeds=[1], guidance=2.0)
    assert {each.hidden.shape for each in draft._passes[0].conditions[0].texts} == {(1, 64, 32)}
    draft.step()


@pytest.mark.slow
def test_a_batch_is_drawn_as_each_alone(pipeline: LatentDiffusion) -> None:
    prompt = "a [panda|balloon] AND [red:blue:0.5] :0.7"
    together = latents(pipeline, prompt, seeds=[3, 4, 5], sampler="euler_a")
    alone = [latents(pipeline, prompt, seeds=[seed], sampler="euler_a") for seed in (3, 4, 5)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    with pipeline.begin(prompt, seeds=[3, 4, 5], steps=4, guidance=3.0, sampler="euler_a") as draft:
        draft.step(2)
        draft.keep([1, 2])
        draft.step(2)
        assert torch.allclose(draft._open.latents, torch.cat(alone[1:]), atol=1e-4)


@pytest.mark.slow
def test_an_edit_counts_its_own_steps(pipeline: LatentDiffusion) -> None:
    from PIL import Image

    from pipelines.editing import Start

    start = Start((Image.new("RGB", (64, 64), "red"),), strength=0.5)
    draft = pipeline.begin("[panda:balloon:0.5]", seeds=[1], start=start, steps=8)
    assert len(draft._passes[0].conditions) == draft.total == 4
    assert [each is draft._passes[0].conditions[0] for each in draft._passes[0].conditions] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.slow
def test_a_model_that_takes_guidance_itself(make_diffusion_folder: Any, tmp_path: Path) -> None:
    folder = make_diffusion_folder(tmp_path / "lcm", time_cond_proj_dim=16)
    pipeline = LatentDiffusion.from_pretrained(folder, device="cpu")
    images = pipeline("a [panda|balloon] AND red", seeds=[1], steps=2)
    assert images[0] is not None
