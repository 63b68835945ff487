"""The world of a thousand things as a source of scenes, images and captions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from train.pool import Source
from train.world import words
from train.world.captions import Speaker
from train.world.facts import describe
from train.world.renderer import render
from train.world.scene import STYLE_WEIGHTS, Scene, draw_scene
from train.world.vocabulary import EARLY, FIRST, NOUN_NUMBERS

SHEET_PROMPTS = (
    "a panda",
    "three apples",
    "a cat and a rocket",
    "a red circle",
    "a 3d render of a fox",
    "a small house in the top right corner",
    "a blue star and a green triangle",
    "draw me a big sunflower on a light blue background, please",
    "flat icon of two cups of coffee",
    "a robot above a car",
    "glossy butterfly",
    "a whale to the left of a tree",
)


@dataclass(frozen=True)
class Stage:
    """How large the world is, while networks learn to draw it."""

    things: Sequence[int]
    others: float  # the share of scenes that have all other things, too
    styles: Mapping[str, int]  # their weights

    def draw(self, rng: random.Random, *, held_out: bool = False) -> Scene:
        """Draw one scene."""
        things = NOUN_NUMBERS if rng.random() < self.others else self.things
        return draw_scene(rng, things, held_out=held_out, styles=self.styles)


# A network that draws 125 things in three styles learns the rest from there.
STAGES = {
    "early": Stage(EARLY, 0.0, {"glossy": 1, "flat": 1, "3d": 1}),
    "whole": Stage(FIRST, 0.35, STYLE_WEIGHTS),
}


def source(stage: str = "whole", *, held_out: bool = False) -> Source:
    """Return the world at one of `STAGES`, with combinations that training never sees or not."""
    table = words.load()
    speaker = Speaker(table.unknown, table.adjectives, table.verbs)

    def caption(scene: Scene, rng: random.Random) -> str:
        return speaker.phrase(describe(scene, rng), rng)

    draw = partial(STAGES[stage].draw, held_out=held_out)
    return Source(draw, render, caption, SHEET_PROMPTS)
