"""Learning from choices: the reward head, what it is worth, and that it scores."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from rerank import AestheticHead, Reranker, WeightsError
from rerank.cli import main
from rerank.learn.choices import read_choices
from rerank.learn.learning import _fit_linear, _wanted, learn


def simulated(number: int, width: int = 32, noise: float = 0.0, seed: int = 0) -> tuple:
    """Features of pairs, the one first that a person with a known linear taste prefers."""
    generator = torch.Generator().manual_seed(seed)
    taste = torch.randn(width, generator=torch.Generator().manual_seed(99))
    pairs = torch.nn.functional.normalize(
        torch.randn(number, 2, width, generator=generator), dim=-1
    )
    swapped = ((pairs[:, 1] - pairs[:, 0]) @ taste > 0) ^ (
        torch.rand(number, generator=generator) < noise / 2
    )
    pairs[swapped] = pairs[swapped].flip(1)
    return pairs[:, 0], pairs[:, 1], [f"prompt {i // 4}" for i in range(number)], taste


def test_a_linear_taste_is_learned_and_its_worth_is_told() -> None:
    chosen, rejected, prompts, taste = simulated(500)
    learned = learn(chosen, rejected, prompts)
    others, worse, _, _ = simulated(1000, seed=1)
    agreement = (learned.reward(others) > learned.reward(worse)).float().mean().item()
    assert agreement > 0.9
    assert learned.low <= learned.accuracy <= learned.high
    assert abs(learned.accuracy - agreement) < 0.05  # what it says of itself is so
    [(weight, _)] = learned.layers  # a hidden layer brings nothing here
    assert torch.cosine_similarity(weight[0], taste, dim=0) > 0.9


def test_a_taste_that_is_not_linear_needs_a_hidden_layer(tmp_path: Path) -> None:
    """Somebody likes extremes: both ends of one direction, more than its middle."""

    def choose(number: int, seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        pairs = torch.randn(number, 2, 16, generator=generator)
        pairs[..., 0] *= 3
        pairs = torch.nn.functional.normalize(pairs, dim=-1)
        order = pairs[..., 0].abs().argsort(dim=1, descending=True)
        return [pairs[torch.arange(number), order[:, place]] for place in (0, 1)]

    chosen, rejected = choose(600, seed=0)
    learned = learn(chosen, rejected, [f"prompt {i // 4}" for i in range(600)])
    assert len(learned.layers) == 2
    others, worse = choose(1000, seed=1)
    agreement = (learned.reward(others) > learned.reward(worse)).float().mean().item()
    assert agreement > 0.8
    assert abs(learned.accuracy - agreement) < 0.06
    few = learn(chosen[:100], rejected[:100], [f"prompt {i // 4}" for i in range(100)])
    assert len(few.layers) == 1


def test_chance_is_told_as_chance_and_asks_for_more() -> None:
    chosen, rejected, prompts, _ = simulated(200, noise=2.0 / 2)
    coin = torch.rand(200, generator=torch.Generator().manual_seed(5)) < 0.5
    first, second = chosen.clone(), rejected.clone()
    first[coin], second[coin] = rejected[coin], chosen[coin]
    learned = learn(first, second, prompts)
    assert learned.low < 0.5 + 0.1
    assert learned.accuracy < 0.65


def test_two_thousand_choices_take_less_than_a_minute() -> None:
    chosen, rejected, prompts, _ = simulated(2000, width=256)
    began = time.process_time()
    assert learn(chosen, rejected, prompts).wanted >= 0
    assert time.process_time() - began < 60


def test_the_fit_is_where_the_gradient_of_the_loss_is_nothing() -> None:
    chosen, rejected, _, _ = simulated(60, width=5)
    [(weight, _)] = _fit_linear(chosen, rejected, torch.ones(60), strength=0.1)
    x = (chosen - rejected).double()
    scale = x.pow(2).mean(0).sqrt()
    x, theta = x / scale, (weight[0].double() * scale).requires_grad_()
    loss = torch.nn.functional.softplus(-(x @ theta)).sum() + 0.5 * 0.1 * 60 * theta @ theta
    loss.backward()
    assert theta.grad is not None
    assert theta.grad.norm() < 1e-4  # the head is in float32


def test_how_many_are_wanted_follows_from_the_last_doubling() -> None:
    assert _wanted(100, 0.2, 0.2) == 0
    assert _wanted(100, 0.2, 0.0) == 0
    more = _wanted(100, 0.2, 0.1)  # b = 1: error(m) = 10/m; 10/m - 5/m = 0.01 at m = 500
    assert more == 400
    assert _wanted(1000, 0.021, 0.02) >= 0


def test_choices_about_one_prompt_or_not_finite_are_refused() -> None:
    chosen, rejected, _, _ = simulated(10)
    with pytest.raises(ValueError, match="one prompt only"):
        learn(chosen, rejected, ["a fox"] * 10)
    with pytest.raises(ValueError, match="not all finite"):
        learn(chosen * math.nan, rejected, [str(i) for i in range(10)])


@pytest.mark.parametrize(
    "line",
    ["x", "[]", '{"prompt": "a"}', '{"prompt": 1, "chosen": "a", "rejected": "b"}',
     '{"prompt": "a", "chosen": "a", "rejected": "b", "weight": 0}'],
)  # fmt: skip
def test_a_line_that_is_no_choice_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "choices.jsonl"
    file.write_text('{"prompt": "a", "chosen": "a.png", "rejected": "b.png"}\n' + line)
    with pytest.raises(ValueError, match=r"line 2: not a choice"):
        read_choices(file)


@pytest.mark.slow
def test_the_command_makes_a_head_that_ranks_as_was_chosen(
    tmp_path: Path, tiny_clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for i in range(12):
        for name, grey in (("dark", 10 + i), ("bright", 240 - i)):
            Image.new("RGB", (32, 32), (grey,) * 3).save(tmp_path / f"{name}{i}.png")
        rows.append({"prompt": f"p{i}", "chosen": f"dark{i}.png", "rejected": f"bright{i}.png"})
    (tmp_path / "choices.jsonl").write_text("\n".join(map(json.dumps, rows)))
    head, model = tmp_path / "mine.safetensors", str(tiny_clip_folder)
    assert main(["learn", str(tmp_path / "choices.jsonl"), "-o", str(head), "-m", model]) == 0
    assert "of the choices about other prompts as you did" in capsys.readouterr().out
    with safe_open(head, framework="pt") as file:
        assert file.metadata()["choices"] == "12"
    images = [str(tmp_path / "bright3.png"), str(tmp_path / "dark3.png")]
    words = ["a fox", *images, "-m", f"{model}=0.001", "--head", str(head), "--csv"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("dark3.png")
    scores = AestheticHead.load(head, Reranker.load(model)).score("", images)
    assert scores[1] > scores[0]


def test_a_head_of_another_reranker_is_refused(tmp_path: Path, tiny_clip_folder: Path) -> None:
    chosen, rejected, prompts, _ = simulated(20)
    head = tmp_path / "mine.safetensors"
    learn(chosen, rejected, prompts).save(head, "0123456789")
    with pytest.raises(WeightsError, match="learned with another reranker"):
        AestheticHead.load(head, Reranker.load(tiny_clip_folder))
