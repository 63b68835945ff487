"""Stickers as a source of scenes, images and captions."""

from __future__ import annotations

import random
from functools import partial

from train.diffusion import HARD_KINDS, SHEET_PROMPTS
from train.pool import Source
from train.stickers.facts import describe
from train.stickers.renderer import render
from train.stickers.scene import Scene, draw_scene
from train.stickers.wording import Wording


def source(free: float, *, held_out: bool = False) -> Source:
    """Return stickers, `free` of the captions in free wordings.

    With combinations that training never sees, they come as often as they do; without, what is hard
    to draw comes more often.
    """
    wording = Wording(free)

    def caption(scene: Scene, rng: random.Random) -> str:
        return wording.say(describe(scene, rng), rng)

    draw = partial(draw_scene, held_out=True) if held_out else draw_hard
    return Source(draw, render, caption, SHEET_PROMPTS)


def draw_hard(rng: random.Random) -> Scene:
    """Draw a scene of training, of kinds as in `HARD_KINDS`."""
    [kind] = rng.choices(tuple(HARD_KINDS), tuple(HARD_KINDS.values()))
    while True:
        scene = draw_scene(rng)
        if scene.kind == kind:
            return scene
