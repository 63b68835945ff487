"""What a model's own images are worth, and for which prompts they are drawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch

from rerank import scorers
from rerank.learn.choices import read_choices
from rerank.model.specs import DEFAULT
from rerank.panel import Panel, PanelScores
from rerank.scorers import Weighted
from train.evaluate import world_named
from train.worlds import Asked

LESSONS = 6000  # prompts that the judge can be asked for

# From a prompt and images, uint8 (N, 3, H, W), to scores among these.
Rewards: TypeAlias = Callable[[str, torch.Tensor], PanelScores]


def by_head(head: Weighted, choices: Path, clip: str | None) -> tuple[list[str], Rewards]:
    """Return the prompts of choices, and a reranker with the head that was learned from them.

    Raises ValueError for what is no file of choices, WeightsError for a head that does not fit.
    """
    prompts = list(dict.fromkeys(choice.prompt for choice in read_choices(choices)))
    models, aesthetic = [(clip or DEFAULT, 1.0)], (Path(head[0]), head[1])
    scorers.check(models, aesthetic)
    panel = scorers.load(models, aesthetic)
    assert isinstance(panel, Panel)
    return prompts, panel.score_each


def by_judge(of_thousand: bool) -> tuple[list[str], Rewards]:
    """Return prompts that no evaluation set has, and the judge: right images are worth 1."""
    world, rng, asked = world_named(of_thousand), random.Random("reinforced"), dict[str, Asked]()
    while len(asked) < LESSONS:
        prompt = world.lesson(rng)
        asked[prompt.text] = prompt

    def rewards(prompt: str, images: torch.Tensor) -> PanelScores:
        right = [float(each) for each, _ in world.look(images, asked[prompt].description)]
        return PanelScores(right, {"right": right}, {})

    return list(asked), rewards
