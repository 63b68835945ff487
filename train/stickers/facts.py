"""What can be true of a scene: what a caption tells (`describe`), whether it is so (`holds`), and
how to make it false (`change`)."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from train.stickers.held_out import is_held_out
from train.stickers.scene import (
    OPPOSITE,
    SIZE_CELLS,
    Scene,
    draw_scene,
    stands_at,
    stands_in,
)
from train.stickers.vocabulary import COLOURS, GROUNDS, PLACES, RELATIONS, SIZES, THINGS, Thing

T = TypeVar("T")


@dataclass(frozen=True)
class Description:
    """The facts that a caption tells; None is what it leaves open.

    `things` are the different things in the order of mention; `count` is how many there are of a
    single one; `relation` holds from the first to the second.
    """

    things: tuple[Thing, ...]
    count: int = 1
    relation: str | None = None
    size: str | None = None
    place: str | None = None
    ground: str | None = None


def describe(scene: Scene, rng: random.Random) -> Description:
    """Choose which facts of `scene` to tell."""
    ground = scene.ground if rng.random() < 0.5 else None
    if scene.kind in ("single", "coloured shape"):
        size = scene.size if rng.random() < (0.1 if scene.size == "medium" else 0.5) else None
        place = _tell_place(scene.place, rng) if rng.random() < 0.5 else None
        return Description(scene.things, size=size, place=place, ground=ground)
    if scene.kind == "count":
        return Description(scene.things[:1], count=len(scene.things), ground=ground)
    told = {"pair": 0.0, "relation": 1.0, "two shapes": 0.4, "three": 0.5}[scene.kind]
    if rng.random() < told:
        return _turn(Description(scene.things, relation=scene.relation, ground=ground), rng)
    things = list(scene.things)
    rng.shuffle(things)
    return Description(tuple(things), ground=ground)


def _tell_place(place: str | None, rng: random.Random) -> str:
    """Return the place itself, or one side of a corner."""
    assert place is not None
    sides = place.split()
    return rng.choice(sides) if len(sides) == 2 and rng.random() < 0.25 else place


def _turn(description: Description, rng: random.Random) -> Description:
    """Return the same relation told from either end: A left of B is B right of A."""
    if rng.random() < 0.5:
        return description
    assert description.relation is not None
    first, second, *rest = description.things
    return replace(
        description, things=(second, first, *rest), relation=OPPOSITE[description.relation]
    )


def holds(description: Description, scene: Scene) -> bool:
    """Return whether all that is told is true of `scene`, and nothing else stands there."""
    things = description.things * description.count
    if sorted(things) != sorted(scene.things):
        return False
    if description.ground not in (None, scene.ground):
        return False
    by_thing = {sprite.thing: sprite for sprite in scene.sprites}
    first = by_thing[description.things[0]]
    if description.size is not None and first.side != SIZE_CELLS[description.size]:
        return False
    if description.place is not None and not stands_at(first, description.place):
        return False
    return description.relation is None or stands_in(
        description.relation, first, by_thing[description.things[1]]
    )


def draw_told(description: Description, rng: random.Random) -> Scene:
    """Draw a scene that a description is true of: its things, where those of another stood."""
    while True:
        scene = draw_scene(rng, held_out=True)
        kinds = tuple(dict.fromkeys(scene.things))
        if len(kinds) != len(description.things):
            continue
        turned = dict(zip(kinds, description.things, strict=True))
        sprites = tuple(replace(each, thing=turned[each.thing]) for each in scene.sprites)
        scene = replace(scene, sprites=sprites, ground=description.ground or scene.ground)
        if holds(description, scene):
            return scene


CHANGES = ("object", "count", "colour", "swap", "relation", "size", "place", "ground")


def possible_changes(description: Description) -> tuple[str, ...]:
    """Return the facts of `description` that can be changed into something false."""
    shapes = [thing for thing in description.things if thing.colour is not None]
    possible = {
        "object": True,
        "count": description.count > 1 or len(description.things) == 1,
        "colour": bool(shapes),
        "swap": len(shapes) == 2
        and shapes[0].colour != shapes[1].colour
        # a red circle and a blue circle are the same the other way round
        and (shapes[0].name != shapes[1].name or description.relation is not None),
        "relation": description.relation is not None,
        "size": description.size is not None,
        "place": description.place is not None,
        "ground": description.ground is not None,
    }
    return tuple(name for name in CHANGES if possible[name])


def change(
    description: Description, fact: str, rng: random.Random, *, held_out: bool = False
) -> Description | None:
    """Return `description` with one `fact` made false; None if only held-out combinations are left.

    A changed caption of training never names a held-out combination: a scorer would learn that
    those are always wrong.
    """
    for _ in range(20):
        changed = _change(description, fact, rng)
        if held_out or not is_held_out(changed.things):
            return changed
    return None


def _change(description: Description, fact: str, rng: random.Random) -> Description:
    if fact == "count":
        return replace(description, count=_other(range(1, 6), description.count, rng))
    if fact == "relation":
        assert description.relation is not None
        if rng.random() < 0.7:
            return replace(description, relation=OPPOSITE[description.relation])
        return replace(description, relation=_other(RELATIONS, description.relation, rng))
    if fact == "size":
        return replace(description, size=_other(SIZES, description.size, rng))
    if fact == "place":
        return replace(description, place=_false_place(description.place, rng))
    if fact == "ground":
        return replace(
            description, ground=_other([g.name for g in GROUNDS], description.ground, rng)
        )
    return replace(description, things=_change_things(description.things, fact, rng))


def _change_things(things: tuple[Thing, ...], fact: str, rng: random.Random) -> tuple[Thing, ...]:
    shapes = [index for index, thing in enumerate(things) if thing.colour is not None]
    changed = list(things)
    if fact == "swap":
        first, second = shapes
        changed[first] = replace(things[first], colour=things[second].colour)
        changed[second] = replace(things[second], colour=things[first].colour)
    elif fact == "colour":
        index = rng.choice(shapes)
        colours = [colour.name for colour in COLOURS]
        changed[index] = replace(things[index], colour=_other(colours, things[index].colour, rng))
    else:
        index = rng.randrange(len(things))
        old, present = things[index], {thing.name for thing in things}
        # A shape turns into another shape of the same colour, a noun into anything else.
        likes = THINGS if old.colour is None else [t for t in THINGS if t.colour == old.colour]
        changed[index] = rng.choice([thing for thing in likes if thing.name not in present])
    return tuple(changed)


def _false_place(place: str | None, rng: random.Random) -> str:
    """Return a place that excludes `place`: they differ in a direction that both name."""
    assert place is not None
    column, row = PLACES[place]
    return rng.choice(
        [
            name
            for name, (c, r) in PLACES.items()
            if (c is not None and column is not None and c != column)
            or (r is not None and row is not None and r != row)
        ]
    )


def _other(choices: Iterable[T], present: T | None, rng: random.Random) -> T:
    return rng.choice([choice for choice in choices if choice != present])
