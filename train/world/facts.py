"""What a caption tells of a scene (`describe`), and whether that is so (`holds`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TypeVar

from train.world.held_out import is_held_out_word
from train.world.scene import OPPOSITE, Scene, Sprite, size_of, stands_at, stands_in, thirds
from train.world.vocabulary import (
    ACCEPTED,
    BACKGROUNDS,
    FIRST,
    GENERAL,
    PLACES,
    RELATIONS,
    SHAPE_NUMBERS,
    SIZES,
    STYLES,
    THINGS,
)

T = TypeVar("T")

# How often a thing is called by its name, another word for it, a kind of it, a word for many
# things, or a word that makes people think of it.
WORDINGS = {"name": 0.6, "also": 0.24, "kinds": 0.09, "general": 0.02, "tags": 0.05}
_GENERAL_OF = {
    name: tuple(word for word, names in GENERAL.items() if name in names)
    for names in GENERAL.values()
    for name in names
}


@dataclass(frozen=True)
class Told:
    """The facts of a caption; None is what it leaves open.

    `words` are what its different things are called, in the order of mention, and `things` which
    were meant; `count` is how many there are of a single one; `relation` holds from the first to
    the second.
    """

    words: tuple[str, ...]
    things: tuple[int, ...]
    count: int = 1
    relation: str | None = None
    size: str | None = None
    place: str | None = None
    background: str | None = None
    style: str | None = None


def describe(scene: Scene, rng: random.Random) -> Told:
    """Choose which facts of `scene` to tell, and in which words; never held-out ones."""
    things = list(dict.fromkeys(scene.things))
    single = len(scene.sprites) == 1
    relation = None
    if len(things) > 1:
        if rng.random() < (0.0 if scene.kind == "pair" else 0.85 if len(things) == 2 else 0.5):
            relation = scene.relation
            assert relation is not None
            if rng.random() < 0.5:
                things[:2] = things[1::-1]
                relation = OPPOSITE[relation]
        else:
            rng.shuffle(things)
    told = Told(
        tuple(word_for(thing, rng) for thing in things),
        tuple(things),
        count=len(scene.sprites) if len(things) == 1 else 1,
        relation=relation,
        background=scene.background if rng.random() < 0.4 else None,
        style=scene.style if rng.random() < 0.4 else None,
    )
    if not single:
        return told
    size, place = _of_single(scene.sprites[0], rng)
    return replace(told, size=size, place=place)


def _of_single(sprite: Sprite, rng: random.Random) -> tuple[str | None, str | None]:
    """Return size and place of a single thing, or None for what is not told."""
    size = size_of(sprite)
    place = next(name for name in PLACES if stands_at(sprite, name) and _is_exact(name, sprite))
    tells_size = rng.random() < (0.1 if size == "medium" else 0.35)
    tells_place = rng.random() < (0.12 if place == "centre" else 0.4)
    return size if tells_size else None, place if tells_place else None


def _is_exact(place: str, sprite: Sprite) -> bool:
    """Tell whether `place` names all that is not in the middle."""
    return tuple(1 if third is None else third for third in PLACES[place]) == thirds(sprite)


def word_for(thing: int, rng: random.Random) -> str:
    """Return a word that training may use for a thing (singular)."""
    known = THINGS[thing]
    for _ in range(4):
        how = rng.choices(tuple(WORDINGS), tuple(WORDINGS.values()))[0]
        words: Sequence[str] = (known.name,)
        if how == "general":
            words = _GENERAL_OF.get(known.name, ())
        elif how != "name":
            words = getattr(known, how)
        usable = [
            word
            for word in words
            if thing in ACCEPTED.get(word, ()) and not is_held_out_word(thing, word)
        ]
        if usable:
            return rng.choice(usable)
    return known.name


def holds(told: Told, scene: Scene) -> bool:
    """Tell whether all that is told is true of `scene`, and nothing stands there that is not."""
    if told.background not in (None, scene.background) or told.style not in (None, scene.style):
        return False
    if len(scene.sprites) != len(told.words) * told.count:
        return False
    if told.count > 1:
        return len(set(scene.things)) == 1 and scene.things[0] in ACCEPTED[told.words[0]]
    return any(_holds(told, order) for order in permutations(scene.sprites))


def _holds(told: Told, sprites: Sequence[Sprite]) -> bool:
    """Tell whether `sprites`, in the order of mention, are what is told."""
    pairs = zip(told.words, sprites, strict=True)
    if any(sprite.thing not in ACCEPTED[word] for word, sprite in pairs):
        return False
    first = sprites[0]
    if told.size is not None and size_of(first) != told.size:
        return False
    if told.place is not None and not stands_at(first, told.place):
        return False
    return told.relation is None or stands_in(told.relation, first, sprites[1])


CHANGES = ("thing", "count", "relation", "order", "size", "place", "background", "style")


def possible_changes(told: Told) -> tuple[str, ...]:
    """Return the facts of `told` that `change` can make false."""
    possible = {
        "thing": True,
        "count": len(told.words) == 1,
        "relation": told.relation is not None,
        "order": told.relation is not None,
        "size": told.size is not None,
        "place": told.place is not None,
        "background": told.background is not None,
        "style": told.style is not None,
    }
    return tuple(name for name in CHANGES if possible[name])


def change(told: Told, rng: random.Random, fact: str | None = None) -> Told:
    """Return `told` with one fact made false; without `fact`, any of the possible ones."""
    fact = rng.choice(possible_changes(told)) if fact is None else fact
    if fact == "thing":
        return _with_other_thing(told, rng)
    if fact == "count":
        return replace(told, count=_other((1, 2, 3, 4, 5), told.count, rng), size=None, place=None)
    if fact == "order":
        things, called = told.things, told.words
        order = (1, 0, *range(2, len(things)))
        return replace(
            told,
            things=tuple(things[number] for number in order),
            words=tuple(called[number] for number in order),
        )
    if fact == "relation":
        return replace(told, relation=_other(tuple(RELATIONS), told.relation, rng))
    if fact == "size":
        return replace(told, size=_other(tuple(SIZES), told.size, rng))
    if fact == "place":
        return replace(told, place=_other_place(told.place, rng))
    if fact == "background":
        return replace(told, background=_other(tuple(BACKGROUNDS), told.background, rng))
    return replace(told, style=_other(tuple(STYLES), told.style, rng))


def _with_other_thing(told: Told, rng: random.Random) -> Told:
    """Return `told` with another thing in place of one; often one of its own kind."""
    index = rng.randrange(len(told.things))
    old = told.things[index]
    if THINGS[old].colour is not None:
        choices: Sequence[int] = SHAPE_NUMBERS
    else:
        choices = FIRST
        if rng.random() < 0.6:
            alike = [n for n in FIRST if THINGS[n].category == THINGS[old].category]
            choices = alike or FIRST
    while True:
        new = rng.choice(choices)
        if new not in ACCEPTED[told.words[index]] and new not in told.things:
            break
    things, called = list(told.things), list(told.words)
    things[index], called[index] = new, word_for(new, rng)
    return replace(told, things=tuple(things), words=tuple(called))


def _other_place(place: str | None, rng: random.Random) -> str:
    """Return a place that excludes `place`: they differ in a direction that both name."""
    assert place is not None
    told = PLACES[place]
    return rng.choice(
        [
            name
            for name, thirds_there in PLACES.items()
            if any(
                None not in (here, there) and here != there
                for here, there in zip(told, thirds_there, strict=True)
            )
        ]
    )


def _other(choices: Sequence[T], present: T | None, rng: random.Random) -> T:
    return rng.choice([choice for choice in choices if choice != present])
