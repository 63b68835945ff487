import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from pipelines.diffusion.pipeline import LatentDiffusion
from rerank import Reranker
from train import evaluate
from train.report import Drawn, Plan
from train.stickers import prompts as world
from train.stickers.facts import Description
from train.stickers.held_out import is_held_out
from train.stickers.renderer import render
from train.stickers.scene import KINDS, Placed, Scene
from train.stickers.vocabulary import Thing
from train.worlds import Question

pytestmark = pytest.mark.slow

PROMPTS = world.make_prompts()


def drawn(index: int, right: list[bool], scores: list[float]) -> Drawn:
    pictures = torch.zeros(len(right), 3, 64, 64, dtype=torch.uint8)
    return Drawn(PROMPTS[index], pictures, right, scores)


class FakeDraft:
    """Draws what it is told in place of a network; the second seed fails."""

    total = 3

    def __init__(self, prompt: str, seeds: range) -> None:
        self.seeds, self.failed = tuple(seeds), {1: "not finite"}

    def __enter__(self) -> "FakeDraft":
        return self

    def __exit__(self, *error: object) -> None: ...

    def step(self, count: int) -> None:
        assert count == self.total

    def pixels(self) -> torch.Tensor:
        scene = Scene("x", (Placed(Thing("panda"), 2, 2, 3),), "white")
        return render([scene] * (len(self.seeds) - 1))


class FakePipeline:
    spec = SimpleNamespace(settings=("steps", "guidance", "sampler"))

    def begin(self, prompt: str, *, seeds: range, **settings: object) -> FakeDraft:
        assert settings == {"steps": 3, "guidance": 0.0}
        return FakeDraft(prompt, seeds)


class FakeReranker:
    """Likes captions with the word `red`."""

    def score(self, prompt: str, pictures: torch.Tensor) -> list[float]:
        return pictures.float().mean((1, 2, 3)).tolist()

    def similarity(self, texts: list[str], pictures: torch.Tensor) -> torch.Tensor:
        assert len(texts) == evaluate.CAPTIONS
        return torch.tensor([[1.0]] + [[0.5]] * (len(texts) - 1))


def test_draw_judges_every_seed_and_failed_ones_are_wrong() -> None:
    prompt = world.Prompt("single_object", "a panda", Description((Thing("panda"),)))
    plan = Plan(steps=3, guidance=0.0, temperature=0.5)
    result = evaluate.draw(FakePipeline(), FakeReranker(), prompt, 4, plan)  # type: ignore[arg-type]
    assert result.right == [True, False, True, True]
    assert result.scores[1] == 0  # black
    assert result.pictures.shape == (4, 3, 64, 64)


def test_one_candidate_takes_the_first_seeds() -> None:
    rows = [
        drawn(0, [True, False, True, True], [0] * 4),
        drawn(6, [True, True, False, True], [0] * 4),
    ]
    figures = evaluate.one_candidate(rows, seeds=2)
    assert figures["overall"].value == figures["single_object"].value == 0.75
    assert math.isnan(figures["counting"].value)
    assert figures["counting"].number == 0


def test_choice_by_hand() -> None:
    rows = [
        drawn(0, [False, True, False, False], [0.1, 0.9, 0.2, 0.3]),  # picked
        drawn(1, [False, True, False, False], [0.8, 0.7, 0.2, math.nan]),  # missed
        drawn(2, [True, True, True, True], [0.1, 0.1, 0.1, 0.1]),  # nothing to choose
        drawn(3, [False, False, False, False], [0.1, 0.1, 0.1, 0.1]),  # nothing either
    ]
    choice = evaluate.best_of(rows, candidates=4)["overall"]
    assert choice.mean.value == pytest.approx((0.25 + 0.25 + 1 + 0) / 4)
    assert choice.top_1.value == 0.5
    assert choice.oracle.value == 0.75
    assert choice.captured.value == pytest.approx((0.5 - 0.375) / (0.75 - 0.375))
    assert choice.captured.low <= choice.captured.value <= choice.captured.high
    fewer = evaluate.best_of(rows, candidates=1)["overall"]
    assert fewer.mean.value == fewer.top_1.value == fewer.oracle.value == 0.25
    assert math.isnan(fewer.captured.value)


def test_a_score_that_is_not_a_number_is_never_the_favourite() -> None:
    assert evaluate._favourite([math.nan, 0.2, 0.3, 0.3]) == 2
    assert evaluate._favourite([math.nan, math.nan]) == 0


def test_the_interval_is_that_of_the_normal_distribution() -> None:
    """By a second way: for many independent truths the bootstrap is p ± 1.96 √(p(1 − p)/n)."""
    truths = (np.random.default_rng(1).random(1000) < 0.3).tolist()
    estimate = evaluate.share(truths)
    p = float(np.mean(truths))
    half = 1.96 * math.sqrt(p * (1 - p) / 1000)
    assert estimate.value == pytest.approx(p)
    assert estimate.low == pytest.approx(p - half, abs=0.004)
    assert estimate.high == pytest.approx(p + half, abs=0.004)
    assert estimate == evaluate.share(truths)  # the same in every run


def test_no_failure_in_forty_is_no_proof() -> None:
    assert evaluate.share([True] * 40).low == pytest.approx(0.912, abs=1e-3)  # Clopper–Pearson
    assert evaluate.share([False] * 40).high == pytest.approx(0.088, abs=1e-3)
    assert math.isnan(evaluate.share([]).value)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_perfect_clip_picks_every_true_caption(held_out: bool) -> None:
    figures = evaluate.true_captions(FakeReranker(), 60, held_out=held_out)  # type: ignore[arg-type]
    assert figures["overall"].number == 60
    assert {name: each.value for name, each in figures.items() if each.number > 0} == (
        dict.fromkeys((name for name, each in figures.items() if each.number > 0), 1.0)
    )
    assert figures["object"].number == 60
    assert figures["count"].number > 10


def test_changed_captions_are_fifteen_and_false() -> None:
    told = Description((Thing("panda"), Thing("bus")), relation="above", ground="white")
    changed = evaluate._changed(told, random.Random(0), held_out=False)
    assert len(changed) == evaluate.CAPTIONS - 1
    assert told not in changed
    assert set(changed.values()) == {"object", "relation", "ground"}
    assert not any(is_held_out(each.things) for each in changed)


def test_a_random_autoencoder_has_a_low_ceiling(tiny_diffusion_folder: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_diffusion_folder / "vae", torch_dtype=torch.float32)
    figures = evaluate.ceiling(evaluate.through_latents(vae.eval()), 12)
    assert figures.keys() == {"overall", *KINDS}
    assert figures["overall"].value == 0
    assert figures["overall"].number == 12


def test_the_sheet_shows_first_candidates_with_marks() -> None:
    scene = Scene("x", (Placed(Thing("panda"), 2, 2, 3),), "white")
    pictures = render([scene])
    rows = [Drawn(PROMPTS[0], pictures, [right], [0.0]) for right in (True, False)]
    image = evaluate.sheet(rows)
    colours = [
        {image.getpixel((x, y)) for x in range(left, left + 256) for y in range(240, 260)}
        for left in (4, 264)
    ]
    assert (0, 128, 0) in colours[0]
    assert (255, 0, 0) in colours[1]
    assert (255, 0, 0) not in colours[0]


def test_the_command_with_tiny_networks(
    tiny_diffusion_folder: Path,
    tiny_clip_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Random networks draw nothing right, and every figure is there, as JSON and as text."""
    few = ["--prompts", "2", "--seeds", "1", "--candidates", "2", "--best-prompts", "1"]
    few += ["--scenes", "8", "--steps", "2", "--device", "cpu", "--clip", str(tiny_clip_folder)]
    sheet = tmp_path / "sheet.png"
    command = [*few, "-m", str(tiny_diffusion_folder), "--sheet", str(sheet), "--json"]
    assert evaluate.main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["one_candidate"]["overall"]["value"] == 0
    assert report["best_of"]["overall"]["mean"]["number"] == 1
    assert report["best_of"]["overall"]["captured"]["value"] is None
    assert report["true_caption"]["overall"]["number"] == 8
    assert report["plan"]["prompts"] == 2
    with Image.open(sheet) as image:
        assert image.width > 8 * 256


def test_a_pool_deals_candidates_in_turns() -> None:
    first = drawn(3, [True, False, True, False], [0.1, 0.2, 0.3, 0.4])
    second = drawn(3, [False, True, True, True], [0.5, 0.6, 0.7, 0.8])
    [pool] = evaluate.pooled([[first], [second]])
    assert (pool.prompt, pool.right) == (first.prompt, [True, True, True, True])
    assert pool.scores == [0.1, 0.6, 0.3, 0.8]
    [alone] = evaluate.pooled([[first]])
    assert (alone.right, alone.scores) == (first.right, first.scores)


def test_both_paths_and_their_pool_by_the_command(
    tiny_diffusion_folder: Path,
    tiny_clip_folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    make_dalle_folder: Callable[..., Path],
) -> None:
    """As JSON and as text; settings go to the path that takes them."""
    dalle = make_dalle_folder(tmp_path / "dalle", size=64)
    few = ["--prompts", "2", "--seeds", "1", "--candidates", "2", "--best-prompts", "1"]
    few += ["--scenes", "8", "--steps", "2", "--temperature", "0.5", "--device", "cpu"]
    few += ["--clip", str(tiny_clip_folder), "-m", f"{tiny_diffusion_folder},{dalle}"]
    assert evaluate.main([*few, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [Path(each["model"]) for each in report["models"]] == [tiny_diffusion_folder, dalle]
    assert report["pool"]["overall"]["mean"]["number"] == 1
    assert report["models"][1]["ceiling"]["overall"]["number"] == 8
    assert evaluate.main(few) == 0
    text = capsys.readouterr().out
    assert text.count("one candidate right") == 2
    assert f"pool of {tiny_diffusion_folder}, {dalle}: best of 2" in text


def test_words_that_mean_nothing_are_measured_against_the_twin() -> None:
    black = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    told = PROMPTS[0].description
    asked = [
        world.Prompt("unknown", "a frumious fox", told, "a fox"),
        world.Prompt("counting", "a fox", told),
    ]
    seen = ("right", "right", "it shows a cat", "it shows a cat")
    rows = [Drawn(each, black, [True, True, False, False], [0.0] * 4, seen) for each in asked]
    texts = []

    def draw_twin(prompt: Question, number: int) -> Drawn:
        texts.append((prompt.text, number))
        others = ("right", "something else", "it shows a cat", "it shows a dog")
        return Drawn(prompt, black, [True, False, False, False], [0.0] * 4, others)

    estimate = evaluate.same_as_twin(rows, draw_twin)
    assert texts == [("a fox", 4)]
    assert estimate is not None
    assert (estimate.value, estimate.number) == (0.5, 1)
    assert evaluate.same_as_twin(rows[1:], draw_twin) is None


def test_the_text_has_every_section() -> None:
    estimate = evaluate.share([True, False])
    by_name = {"overall": estimate}
    report = evaluate.Report(
        model="model",
        clip="clip",
        plan=Plan(),
        one_candidate=by_name,
        same_as_twin=estimate,
        best_of={"overall": evaluate.Choice(estimate, estimate, estimate, estimate)},
        true_caption=by_name,
        true_caption_held_out=by_name,
        ceiling=by_name,
    )
    text = evaluate.to_text(report)
    for words in (
        "240 prompts × 4 seeds",
        "best of 16",
        "among 16",
        "held-out",
        "ceiling",
        "without the words that mean nothing",
        "50.0%",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["-m", "no-such-model"], 3, "no-such-model"),
        (["--prompts-file", "missing.jsonl"], 2, "missing.jsonl"),
        (["--seeds", "0"], 2, "at least 1"),
    ],
)
def test_bad_input_is_one_line(
    command: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(command) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_quick_and_said_numbers() -> None:
    parse = evaluate._parser().parse_args
    assert evaluate._plan(parse([])) == Plan()
    assert evaluate._plan(parse(["--quick"])) == evaluate.QUICK
    quick = evaluate._plan(parse(["--quick", "--prompts", "6", "--guidance", "0"]))
    assert (quick.prompts, quick.best_prompts, quick.seeds, quick.guidance) == (6, 6, 2, 0.0)


def test_real_interfaces_are_the_ones_that_are_called(
    tiny_diffusion_folder: Path, tiny_clip_folder: Path
) -> None:
    pipeline = LatentDiffusion.from_pretrained(tiny_diffusion_folder, device="cpu")
    reranker = Reranker.load(tiny_clip_folder, device="cpu")
    result = evaluate.draw(pipeline, reranker, PROMPTS[0], 3, Plan(steps=2, guidance=1.0))
    assert result.right == [False] * 3
    assert len(set(result.scores)) == 3
