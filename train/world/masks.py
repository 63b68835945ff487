"""The world of a thousand things as lessons for the network that finds things by name."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from train.masks import BACKGROUND, DETERMINERS, Lesson, Name
from train.world import words
from train.world.dvae import draw_images
from train.world.facts import word_for
from train.world.held_out import is_held_out
from train.world.renderer import CELL, render, sprite_pixels
from train.world.scene import CELLS, Scene, draw_scene
from train.world.vocabulary import ACCEPTED, FIRST, THINGS

PACKED = 0.2  # of the scenes
SOLID = 128  # of 255: from here on a pixel belongs to a thing
UNKNOWN = 0.3  # of the names that need not be there mean nothing that can be drawn


def draw(rng: random.Random, number: int, held_out: bool) -> list[Scene]:
    """Return scenes; all with something that is held out, or none."""
    if not held_out:
        return draw_images(rng, number, PACKED)
    scenes: list[Scene] = []
    while len(scenes) < number:
        scene = draw_scene(rng, held_out=True)
        if is_held_out(scene.things, scene.style):
            scenes.append(scene)
    return scenes


def things(scenes: Sequence[Scene]) -> torch.Tensor:
    """Return which thing each pixel shows, int64 (B, side, side), BACKGROUND for none."""
    maps = torch.full((len(scenes), CELLS * CELL, CELLS * CELL), BACKGROUND)
    for each, scene in zip(maps, scenes, strict=True):
        for sprite in scene.sprites:
            side = sprite.side * CELL
            x, y = round(sprite.x * CELL), round(sprite.y * CELL)
            drawn = sprite_pixels(sprite.thing, scene.style, side)
            solid = torch.from_numpy(drawn[..., 3] >= SOLID)
            each[y : y + side, x : x + side][solid] = sprite.thing
    return maps


def name(number: int, rng: random.Random) -> Name:
    """Return a name of a thing, which may mean others, too, or of the background."""
    if number == BACKGROUND:
        return Name("the background", frozenset((BACKGROUND,)))
    word = word_for(number, rng)
    return Name(rng.choice(DETERMINERS).format(word), ACCEPTED.get(word, frozenset()) | {number})


def other(rng: random.Random) -> Name:
    """Return a name of anything, in this world or out of it."""
    if rng.random() < UNKNOWN:
        return Name(rng.choice(words.load().unknown), frozenset())
    return name(rng.choice(FIRST), rng)


LESSON = Lesson(draw, render, things, name, other, len(THINGS))
