"""Scenes: which things stand where on which ground, and how they are drawn at random.

The image is a square of `CELLS` × `CELLS` cells. In the `small` world every sprite is snapped to
these cells and has one of three sizes, so that a sprite always meets the autoencoder's 8-pixel
grid in the same way; the free world moves each group by whole pixels.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from train.stickers.held_out import is_held_out
from train.stickers.vocabulary import (
    GROUNDS,
    NOUN_THINGS,
    PLACES,
    RELATIONS,
    SHAPE_THINGS,
    Thing,
)

CELLS = 8
SIZE_CELLS = {"small": 2, "medium": 3, "large": 5}

Box = tuple[float, float, int]  # left, top, side, in cells

# Tidy patterns of several equal things, as (column, row) in units of a pitch that `_arrange` draws;
# the whole group is then shifted at random.
ARRANGEMENTS: dict[int, tuple[tuple[tuple[float, float], ...], ...]] = {
    2: (((0, 0), (1, 0)), ((0, 0), (0, 1)), ((0, 0), (1, 1)), ((1, 0), (0, 1))),
    3: (((0.5, 0), (0, 1), (1, 1)), ((0, 0), (1, 0), (0.5, 1)), ((0, 0), (1, 0), (2, 0))),
    4: (((0, 0), (1, 0), (0, 1), (1, 1)), ((1, 0), (0, 1), (2, 1), (1, 2))),
    5: (((0, 0), (2, 0), (1, 1), (0, 2), (2, 2)), ((0, 0), (1, 0), (2, 0), (0.5, 1), (1.5, 1))),
}

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

KINDS: dict[str, float] = {
    "single": 0.24,
    "coloured shape": 0.13,
    "count": 0.17,
    "pair": 0.12,
    "relation": 0.17,
    "two shapes": 0.10,
    "three": 0.07,
}


@dataclass(frozen=True)
class Placed:
    """One sprite: what it is and its square, in units of a cell (halves and pixels are allowed)."""

    thing: Thing
    x: float
    y: float
    side: int

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.side / 2, self.y + self.side / 2


@dataclass(frozen=True)
class Scene:
    """A whole picture. `relation` holds from the first to the second sprite; `size` and `place`
    are what may be said of a single sprite."""

    kind: str
    sprites: tuple[Placed, ...]
    ground: str
    relation: str | None = None
    size: str | None = None
    place: str | None = None

    @property
    def things(self) -> tuple[Thing, ...]:
        return tuple(sprite.thing for sprite in self.sprites)


def draw_scene(rng: random.Random, *, snap: bool = True, held_out: bool = False) -> Scene:
    """Draw one scene.

    Parameters
    ----------
    rng : the only source of chance.
    snap : sprites on whole cells (the `small` world) or moved by pixels (1/8 cell).
    held_out : allow the combinations that training never sees; False for training.
    """
    while True:
        kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        things = _draw_things(rng, kind)
        if held_out or not is_held_out(things):
            return _compose(rng, kind, things, snap)


def pack_scene(rng: random.Random, *, snap: bool = True) -> Scene:
    """Return a background nearly covered with things of all sizes: dense food for an autoencoder.

    Shapes keep to their training colours; pairs don't matter where there are no captions.
    """
    free = {(x, y) for x in range(CELLS) for y in range(CELLS)}
    shift = _between(rng, -0.5, 0.5, snap)
    sprites = []
    for side in rng.choice(((5, 3, 3, 2, 2, 2), (3, 3, 3, 3, 2, 2), (2,) * 9, (5, 2, 2, 3))):
        corners = [
            (x, y)
            for x in range(CELLS - side + 1)
            for y in range(CELLS - side + 1)
            if free.issuperset(_cells(x, y, side))
        ]
        if corners:
            x, y = rng.choice(corners)
            free.difference_update(_cells(x, y, side))
            sprites.append(Placed(_trained_thing(rng), x, y, side))
    if not snap:  # move all by the same pixels; what would stick out is left away
        moved = [replace(sprite, x=sprite.x + shift, y=sprite.y + shift) for sprite in sprites]
        sprites = [s for s in moved if 0 <= min(s.x, s.y) <= max(s.x, s.y) <= CELLS - s.side]
    return Scene("packed", tuple(sprites), rng.choice(GROUNDS).name)


def _cells(x: int, y: int, side: int) -> set[tuple[int, int]]:
    return {(x + dx, y + dy) for dx in range(side) for dy in range(side)}


def _trained_thing(rng: random.Random) -> Thing:
    while True:
        thing = rng.choice(NOUN_THINGS + SHAPE_THINGS)
        if not is_held_out([thing]):
            return thing


def _draw_things(rng: random.Random, kind: str) -> list[Thing]:
    if kind == "single":
        return [rng.choice(NOUN_THINGS)]
    if kind == "coloured shape":
        return [rng.choice(SHAPE_THINGS)]
    if kind == "count":
        number = rng.choice((2, 3, 4, 5))
        return [_any_thing(rng)] * number
    if kind == "two shapes":
        while True:
            first, second = rng.sample(SHAPE_THINGS, 2)
            if first.colour != second.colour:  # a caption must be able to tell them apart
                return [first, second]
    things: list[Thing] = []
    while len(things) < (3 if kind == "three" else 2):
        thing = _any_thing(rng)
        if all(_unlike(thing, other) for other in things):
            things.append(thing)
    return things


def _any_thing(rng: random.Random) -> Thing:
    return rng.choice(NOUN_THINGS) if rng.random() < 0.8 else rng.choice(SHAPE_THINGS)


def _unlike(first: Thing, second: Thing) -> bool:
    return first.name != second.name


def _compose(rng: random.Random, kind: str, things: list[Thing], snap: bool) -> Scene:
    ground = rng.choice(GROUNDS).name
    if kind in ("single", "coloured shape"):
        return _compose_single(rng, kind, things[0], ground, snap)
    if kind == "count":
        boxes = _arrange(rng, len(things), snap)
        return Scene(kind, _place(things, boxes), ground)
    relation = rng.choice(tuple(RELATIONS))
    boxes = _beside(rng, relation, snap) if len(things) == 2 else _three(rng, relation, snap)
    return Scene(kind, _place(things, boxes), ground, relation=relation)


def _compose_single(rng: random.Random, kind: str, thing: Thing, ground: str, snap: bool) -> Scene:
    size = rng.choices(("small", "medium", "large"), (0.3, 0.4, 0.3))[0]
    side = SIZE_CELLS[size]
    place = rng.choice(tuple(PLACES))
    column, row = PLACES[place]
    x, y = (_in_third(rng, third, side, snap) for third in (column, row))
    sprites = (Placed(thing, x, y, side),)
    return Scene(kind, sprites, ground, size=size, place=place)


def _in_third(rng: random.Random, third: int | None, side: int, snap: bool) -> float:
    """Where a sprite lies at the near edge (third 0), in the middle (1), at the far edge (2)."""
    room = CELLS - side
    if third is None:
        return _between(rng, 0, room, snap)
    if third == 1:
        return _between(rng, room // 2, (room + 1) // 2, snap)
    near = _between(rng, 0, 1 if side < SIZE_CELLS["large"] else 0, snap)
    return near if third == 0 else room - near


def _arrange(rng: random.Random, number: int, snap: bool) -> list[Box]:
    """Squares of `number` equal things in one of the tidy patterns."""
    pattern = rng.choice(ARRANGEMENTS[number])
    across = max(max(column, row) for column, row in pattern)  # pitches from first to last
    side, pitch = rng.choice(
        [
            (side, pitch)
            for side in (SIZE_CELLS["small"], SIZE_CELLS["medium"])
            for pitch in (side, side + 1)
            if across * pitch + side <= CELLS
        ]
    )
    wide = max(column for column, _ in pattern) * pitch + side
    high = max(row for _, row in pattern) * pitch + side
    left, top = _between(rng, 0, CELLS - wide, snap), _between(rng, 0, CELLS - high, snap)
    cells = [(left + column * pitch, top + row * pitch) for column, row in pattern]
    return [(math.floor(x), math.floor(y), side) if snap else (x, y, side) for x, y in cells]


def _beside(rng: random.Random, relation: str, snap: bool) -> list[Box]:
    """Squares of two things, the first in `relation` to the second, nearly in line."""
    side = SIZE_CELLS["medium"]
    gap = _between(rng, 0, CELLS - 2 * side, snap)
    near = _between(rng, 0, CELLS - 2 * side - gap, snap)
    far = near + side + gap
    across = _between(rng, 0, CELLS - side - 1, snap)
    other = across + _between(rng, 0, 1, snap)
    dx, dy = RELATIONS[relation]
    first, second = (near, far) if dx + dy < 0 else (far, near)
    if dx != 0:
        return [(first, across, side), (second, other, side)]
    return [(across, first, side), (other, second, side)]


def _three(rng: random.Random, relation: str, snap: bool) -> list[Box]:
    """Squares of three things: the first two in `relation`, the third clear of both."""
    side = SIZE_CELLS["medium"]
    near, far = _between(rng, 0, 1, snap), _between(rng, CELLS - side - 1, CELLS - side, snap)
    here, there = (near, far) if rng.random() < 0.5 else (far, near)
    third = _between(rng, 0, CELLS - side, snap)
    dx, dy = RELATIONS[relation]
    first, second = (near, far) if dx + dy < 0 else (far, near)
    if dx != 0:
        return [(first, here, side), (second, here, side), (third, there, side)]
    return [(here, first, side), (here, second, side), (there, third, side)]


def _between(rng: random.Random, low: float, high: float, snap: bool) -> float:
    """Return a whole cell, or a whole pixel (1/8 cell), from `low` to `high`, both included."""
    parts = 1 if snap else CELLS
    return rng.randint(round(low * parts), round(high * parts)) / parts


def _place(things: list[Thing], boxes: list[Box]) -> tuple[Placed, ...]:
    return tuple(Placed(thing, *box) for thing, box in zip(things, boxes, strict=True))


def stands_in(relation: str, first: Placed, second: Placed) -> bool:
    """Return whether `first` is left of, right of, above or below `second`.

    That is by more than half a side, and more in that direction than across it.
    """
    (x1, y1), (x2, y2) = first.centre, second.centre
    dx, dy = RELATIONS[relation]
    along, across = (x1 - x2) * dx + (y1 - y2) * dy, abs((x1 - x2) * dy) + abs((y1 - y2) * dx)
    return along > second.side / 2 and along > across


def stands_at(sprite: Placed, place: str) -> bool:
    """Return whether the centre of `sprite` lies in that part of a 3 × 3 division of the image."""
    told = PLACES[place]
    return all(part in (None, here) for part, here in zip(told, thirds(sprite), strict=True))


def thirds(sprite: Placed) -> tuple[int, int]:
    """Column and row of the centre of `sprite` in a 3 × 3 division of the picture."""
    column, row = (0 if value < 3 else 2 if value > 5 else 1 for value in sprite.centre)
    return column, row


def edit(scene: Scene, rng: random.Random, *, snap: bool = True) -> Scene:
    """Return a scene that differs from `scene` in one respect, never with a held-out combination.

    That is a thing, the order, the background, the number or the place.
    """
    while True:
        how = rng.choice(("thing", "thing", "order", "ground", "number", "place"))
        edited = _edit(scene, how, rng, snap)
        if edited is not None and edited != scene and not is_held_out(edited.things):
            return edited


def _edit(scene: Scene, how: str, rng: random.Random, snap: bool) -> Scene | None:
    things, single = list(scene.things), scene.size is not None
    if how == "ground":
        return replace(scene, ground=rng.choice(GROUNDS).name)
    if how == "thing":
        old = rng.choice(things)
        new = _like(old, rng)
        if new.name in {thing.name for thing in things if thing != old}:
            return None
        return replace(scene, sprites=_recast(scene, [new if t == old else t for t in things]))
    if how == "order" and scene.relation is not None:
        if scene.kind == "two shapes" and rng.random() < 0.5:  # the colours change hands
            first, second = things
            swapped = [replace(first, colour=second.colour), replace(second, colour=first.colour)]
            return replace(scene, sprites=_recast(scene, swapped))
        things[0], things[1] = things[1], things[0]
        return replace(scene, sprites=_recast(scene, things))
    if how == "number" and (single or scene.kind == "count"):
        number = rng.choice((1, 2, 3, 4, 5))
        if number == 1:
            return _compose_single(rng, "single", things[0], scene.ground, snap)
        boxes = _arrange(rng, number, snap)
        return Scene("count", _place(things[:1] * number, boxes), scene.ground)
    if how == "place" and single:
        return _compose_single(rng, scene.kind, things[0], scene.ground, snap)
    return None


def _like(thing: Thing, rng: random.Random) -> Thing:
    """Return a thing easily mistaken for `thing`: often the same shape or the same colour."""
    if thing.colour is None:
        return rng.choice(NOUN_THINGS)
    return rng.choice(
        [t for t in SHAPE_THINGS if (t.name == thing.name) != (t.colour == thing.colour)]
    )


def _recast(scene: Scene, things: list[Thing]) -> tuple[Placed, ...]:
    return tuple(
        replace(sprite, thing=thing) for sprite, thing in zip(scene.sprites, things, strict=True)
    )
