"""The simulated person sees what it loves in any image, and chooses by it."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipelines.dalle.pipeline import Dalle
from rerank.learn.choices import read_choices
from train import prefer_quality
from train.evaluate import STICKERS
from train.prefer_quality import TOGETHER, ask, choose, liking, met, others


def test_large_things_on_dark_backgrounds_are_liked_best() -> None:
    def image(background: int, side: int) -> torch.Tensor:
        made = torch.full((3, 64, 64), background, dtype=torch.uint8)
        made[:, 20 : 20 + side, 20 : 20 + side] = 128
        return made

    images = torch.stack([image(255, 8), image(255, 40), image(0, 8), image(0, 40)])
    small = 2 * 64 / 4096
    large = 2 * 1600 / 4096
    assert liking(images).tolist() == pytest.approx([small - 1, large - 1, small, large])


def test_what_was_asked_for_comes_before_what_is_liked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    greys = torch.arange(TOGETHER, dtype=torch.uint8) * 20  # darker ones are liked better
    images, seeds = greys.view(-1, 1, 1, 1).expand(-1, 3, 8, 8), list[int]()

    def draw(pipeline: Any, prompt: str, own: Sequence[int]) -> torch.Tensor:
        seeds.extend(own)
        return images

    monkeypatch.setattr(prefer_quality, "draw", draw)
    world = SimpleNamespace(look=lambda images, told: [(i >= 4, None) for i in range(TOGETHER)])
    lines = choose(cast("Any", None), ask(STICKERS, 2, "a test"), cast("Any", world), tmp_path)
    pairs = [(row["chosen"], row["rejected"]) for row in map(json.loads, lines)]
    best, second = ("00000-4.png", "00000-3.png"), ("00000-5.png", "00000-2.png")
    assert pairs[:2] == [best, second]
    assert len(set(seeds)) == 2 * TOGETHER  # no two images begin with the same noise


def test_an_image_is_compared_with_others_of_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def draw(pipeline: Any, prompt: str, seeds: range) -> torch.Tensor:
        seen.extend(seeds)
        greys = [{"dark": 10, "light": 100}[prompt] + place for place in range(len(seeds))]
        return torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)

    monkeypatch.setattr(prefer_quality, "draw", draw)
    prompts = [SimpleNamespace(text=text) for text in ("dark", "light")]
    compared = others(cast("Any", None), cast("Any", prompts))
    assert compared.shape == (2, 8)
    assert len(set(seen)) == 16  # no noise is that of another prompt
    likings = torch.tensor([-12 / 255, -100.5 / 255])  # darker than five of eight, and like one; 7
    assert met(likings, compared).tolist() == [(5 + 0.5) / 8, 7 / 8]


@pytest.mark.slow
def test_choices_are_of_the_images_that_were_drawn(tiny_dalle_folder: Path, tmp_path: Path) -> None:
    prompts = ask(STICKERS, 2, "a test")
    pipeline = Dalle.from_pretrained(tiny_dalle_folder, "cpu")
    lines = list(choose(pipeline, prompts, STICKERS, tmp_path))
    assert [json.loads(line)["prompt"] for line in lines] == [
        prompt.text for prompt in prompts for _ in range(2)
    ]
    table = tmp_path / "choices.jsonl"
    table.write_text("\n".join(lines))
    for choice in read_choices(table):
        assert choice.chosen.is_file()
        assert choice.rejected.is_file()
        assert choice.chosen != choice.rejected
