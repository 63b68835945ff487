"""Stickers as lessons for the network that finds things by name."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import torch

from train.masks import BACKGROUND, DETERMINERS, Lesson, Name
from train.stickers.atlas import sprites
from train.stickers.held_out import is_held_out
from train.stickers.renderer import SIZE, render
from train.stickers.scene import CELLS, Scene, draw_scene, pack_scene
from train.stickers.vocabulary import (
    NOUN_BY_NAME,
    SHAPE_BY_NAME,
    SIZES,
    THING_INDEX,
    THINGS,
    Thing,
    category,
)
from train.stickers.wording import other_words
from train.world import words
from train.world.lexicon import plural
from train.world.vocabulary import NOUNS as WORLD

PACKED = 0.2  # of the scenes
SOLID = 0.5  # of a pixel: from here on it belongs to a thing
OTHER_WORD = 0.4  # of the things are called by another word for them
PLURAL = 0.2
ADJECTIVE = 0.15
GENERAL = 0.08  # of the names are of all animals, of all shapes, of circles in any colour
GENERALS = ("animal", "food", "vehicle", "plant", "shape")  # categories that are words for things
UNKNOWN = 0.5  # of the names that need not be there are of nothing in this world
BACKGROUND_WORDS = ("background", "background", "backdrop", "ground", "empty space")


def draw(rng: random.Random, number: int, held_out: bool) -> list[Scene]:
    """Return scenes, on any pixel; all with a combination that is held out, or none."""
    scenes: list[Scene] = []
    while len(scenes) < number:
        if held_out:
            scene = draw_scene(rng, snap=False, held_out=True)
            if not is_held_out(scene.things):
                continue
        else:
            make = pack_scene if rng.random() < PACKED else draw_scene
            scene = make(rng, snap=rng.random() < 0.5)
        scenes.append(scene)
    return scenes


def things(scenes: Sequence[Scene]) -> torch.Tensor:
    """Return which thing each pixel shows, int64 (B, SIZE, SIZE), BACKGROUND for none."""
    maps = torch.full((len(scenes), SIZE, SIZE), BACKGROUND)
    cell = SIZE // CELLS
    for each, scene in zip(maps, scenes, strict=True):
        for sprite in scene.sprites:
            side, number = sprite.side * cell, THING_INDEX[sprite.thing]
            x, y = round(sprite.x * cell), round(sprite.y * cell)
            solid = sprites(side)[number, 3] >= SOLID
            each[y : y + side, x : x + side][solid] = number
    return maps


def name(number: int, rng: random.Random) -> Name:
    """Return a name of a thing, or of the background."""
    if number == BACKGROUND:
        return Name(_said(rng.choice(BACKGROUND_WORDS), rng), frozenset((BACKGROUND,)))
    thing = THINGS[number]
    if rng.random() < GENERAL and (wholes := _wholes(thing)):
        whole = rng.choice(wholes)
        return Name(_said(rng.choice((whole, plural(whole))), rng), meant_by(whole))
    one, many = rng.choice(_names(thing)) if rng.random() < OTHER_WORD else _names(thing)[0]
    said = many if rng.random() < PLURAL else one
    said = said if thing.colour is None else f"{thing.colour} {said}"
    if rng.random() < ADJECTIVE:
        said = f"{rng.choice([word for size in SIZES.values() for word in size])} {said}"
    return Name(_said(said, rng), frozenset((number,)))


def other(rng: random.Random) -> Name:
    """Return a name of anything, in this world or out of it."""
    if rng.random() >= UNKNOWN:
        return name(rng.choice(_trained()), rng)
    return Name(_said(rng.choice(unknown_words()), rng), frozenset())


@cache
def _trained() -> tuple[int, ...]:
    """Return the things of training; any other one would be learned as never being there."""
    return tuple(number for thing, number in THING_INDEX.items() if not is_held_out([thing]))


def _wholes(thing: Thing) -> list[str]:
    """Return words for many things, of which this is one."""
    shapes = [] if thing.colour is None else [thing.name]
    return [word for word in (category(thing), *shapes) if word in (*GENERALS, *shapes)]


@cache
def meant_by(word: str) -> frozenset[int]:
    """Return the numbers of the things of a category, or of a shape in any colour."""
    return frozenset(
        number for thing, number in THING_INDEX.items() if word in (category(thing), thing.name)
    )


@cache
def unknown_words() -> tuple[str, ...]:
    """Return names of what is in the world of a thousand things and not here, and words that mean
    nothing that can be drawn."""
    ours = {word for thing in THINGS for pair in _names(thing) for word in pair}
    parts = {part for word in ours for part in word.split()}
    others = [word for thing in WORLD for word in (thing.name, thing.plural, *thing.also)]
    found = {word for word in (*others, *words.load().unknown) if not parts & {*word.split()}}
    return tuple(sorted(found))


@cache
def _names(thing: Thing) -> tuple[tuple[str, str], ...]:
    """Return the words for a noun, or for a shape without its colour, as one and as many."""
    known = NOUN_BY_NAME[thing.name] if thing.colour is None else SHAPE_BY_NAME[thing.name]
    others = {word: plural(word) for word in other_words()[thing.name]} | dict(known.synonyms)
    return ((known.name, known.plural), *others.items())


def _said(words: str, rng: random.Random) -> str:
    return rng.choice(DETERMINERS).format(words)


LESSON = Lesson(draw, render, things, name, other, len(THINGS))
