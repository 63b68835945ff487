"""The simulated person sees what it loves in any image, and chooses by it."""

import json
from pathlib import Path

import pytest
import torch

from pipelines.dalle.pipeline import Dalle
from rerank.learn.choices import read_choices
from train.evaluate import STICKERS
from train.prefer_quality import ask, choose, liking


def test_large_things_on_dark_backgrounds_are_liked_best() -> None:
    def image(background: int, side: int) -> torch.Tensor:
        made = torch.full((3, 64, 64), background, dtype=torch.uint8)
        made[:, 20 : 20 + side, 20 : 20 + side] = 128
        return made

    images = torch.stack([image(255, 8), image(255, 40), image(0, 8), image(0, 40)])
    small = 2 * 64 / 4096
    large = 2 * 1600 / 4096
    assert liking(images).tolist() == pytest.approx([small - 1, large - 1, small, large])


@pytest.mark.slow
def test_choices_are_of_the_images_that_were_drawn(tiny_dalle_folder: Path, tmp_path: Path) -> None:
    prompts = ask(STICKERS, 2, "a test")
    lines = list(choose(Dalle.from_pretrained(tiny_dalle_folder, "cpu"), prompts, tmp_path))
    assert [json.loads(line)["prompt"] for line in lines] == [
        prompt.text for prompt in prompts for _ in range(2)
    ]
    table = tmp_path / "choices.jsonl"
    table.write_text("\n".join(lines))
    for choice in read_choices(table):
        assert choice.chosen.is_file()
        assert choice.rejected.is_file()
        assert choice.chosen != choice.rejected
