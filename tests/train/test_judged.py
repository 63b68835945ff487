"""Choices by the judge: right before wrong, of one prompt, and nothing twice after a stop."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rerank.learn.choices import read_choices
from train.evaluate import STICKERS
from train.judged import ASKED, judged, share_right
from train.stickers.facts import Description
from train.stickers.renderer import render
from train.stickers.scene import Placed, Scene
from train.stickers.vocabulary import Thing
from train.worlds import Question

THINGS = ("panda", "cat", "rocket")
WORLD = replace(STICKERS, lesson=lambda rng: _question(rng.choice(THINGS)))


def _question(name: str) -> Question:
    return Question(f"a {name}", Description((Thing(name),)))


class Painter:
    """Draws what is asked for with even seeds, with others a house; a cat it never gets right."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def begin(self, prompt: str, seeds: Sequence[int]) -> Any:
        self.asked[prompt] += 1
        self.names = [
            "house" if seed % 2 or prompt == "a cat" else prompt.removeprefix("a ")
            for seed in seeds
        ]
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    total = 1

    def step(self, number: int) -> None:
        pass

    def pixels(self) -> torch.Tensor:
        placed = [Placed(Thing(name), 2.0, 2.0, 3) for name in self.names]
        return render([Scene("single", (each,), "white") for each in placed])


def test_right_images_are_preferred_to_wrong_ones(tmp_path: Path) -> None:
    choices = read_choices(judged(Painter(), WORLD, tmp_path, prompts=12, candidates=3))  # type: ignore
    asked = [WORLD.lesson(random.Random(f"judged:{number}")).text for number in range(12)]
    of_each = Counter(choice.prompt for choice in choices)
    assert of_each["a cat"] == 0  # nothing to be preferred
    for prompt in ("a panda", "a rocket"):
        assert of_each[prompt] == 2 * asked.count(prompt) > 0  # no right and no wrong one unused
    for choice in choices:
        assert choice.chosen.is_file()
        assert choice.rejected.is_file()
    seeds = [number * 3 + place for number in range(12) for place in range(3)]
    wanted = [seed % 2 == 0 and asked[place // 3] != "a cat" for place, seed in enumerate(seeds)]
    assert share_right(tmp_path) == sum(wanted) / len(wanted)


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    whole = judged(Painter(), WORLD, tmp_path / "whole", 6, 4)  # type: ignore
    judged(Painter(), WORLD, tmp_path / "parts", 4, 4)  # type: ignore
    table = tmp_path / "parts" / ASKED
    table.write_bytes(table.read_bytes()[:-7])  # killed as it wrote the fourth line
    painter = Painter()
    parts = judged(painter, WORLD, tmp_path / "parts", 6, 4)  # type: ignore
    assert painter.asked.total() == 3
    assert parts.read_bytes() == whole.read_bytes()
    assert [json.loads(line)["number"] for line in table.open()] == list(range(6))
