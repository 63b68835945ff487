"""Scenes of the world: which things stand where, how large, in which style, on which background.

A scene at 64 pixels is laid out on `CELLS` × `CELLS` cells of 8 pixels, the grid of the latents
and codes; every sprite lies on whole cells.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from train.world.held_out import is_held_out
from train.world.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    FIRST,
    PLACES,
    RELATIONS,
    SHAPE_NUMBERS,
    SIZES,
    STYLES,
    THINGS,
    has_style,
)

CELLS = 8
Box = tuple[int, int, int]  # left, top, side
KINDS = {
    "single": 0.36,
    "shape": 0.07,
    "count": 0.17,
    "pair": 0.12,
    "relation": 0.16,
    "two shapes": 0.05,
    "three": 0.07,
}
# Sides of a single thing, in cells: people want to see it. Only the sides that other scenes have,
# and one that is large: each is another thing to learn for whoever draws on cells of 8 pixels.
SINGLE_SIDES = (2, 3, 4, 6)
SINGLE_WEIGHTS = (1, 3, 4, 6)
STYLE_WEIGHTS = {"glossy": 3, "flat": 3, "3d": 3, "plain": 3, "blob": 1}
# Corners of equal things, in cells, for a side; moved as a whole within the image.
ARRANGEMENTS: dict[int, tuple[tuple[int, tuple[tuple[int, int], ...]], ...]] = {
    2: (
        (4, ((0, 0), (4, 0))),
        (4, ((0, 0), (0, 4))),
        (4, ((0, 0), (4, 4))),
        (4, ((4, 0), (0, 4))),
        (3, ((0, 0), (4, 0))),
        (3, ((0, 0), (0, 4))),
        (3, ((0, 0), (4, 3))),
        (3, ((0, 0), (5, 0))),
    ),
    3: (
        (4, ((2, 0), (0, 4), (4, 4))),
        (4, ((0, 0), (4, 0), (2, 4))),
        (3, ((2, 0), (0, 4), (4, 4))),
        (3, ((0, 0), (4, 0), (2, 4))),
        (2, ((0, 0), (3, 0), (6, 0))),
        (2, ((0, 0), (0, 3), (0, 6))),
    ),
    4: (
        (4, ((0, 0), (4, 0), (0, 4), (4, 4))),
        (3, ((0, 0), (4, 0), (0, 4), (4, 4))),
        (3, ((0, 0), (3, 0), (0, 3), (3, 3))),
        (3, ((0, 0), (5, 0), (0, 5), (5, 5))),
    ),
    5: (
        (2, ((0, 0), (6, 0), (3, 3), (0, 6), (6, 6))),
        (2, ((0, 0), (4, 0), (2, 2), (0, 4), (4, 4))),
        (2, ((0, 0), (3, 0), (6, 0), (1, 3), (4, 3))),
        (2, ((1, 0), (4, 0), (0, 3), (3, 3), (6, 3))),
    ),
}
LEAST_CONTRAST = 90  # of a shape's colour to its background, largest difference of a channel
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Sprite:
    """One drawing: the number of its thing and its square, in cells (those of a scene that was only
    seen may lie between)."""

    thing: int
    x: float
    y: float
    side: int

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of its square, in cells."""
        return self.x + self.side / 2, self.y + self.side / 2


@dataclass(frozen=True)
class Scene:
    """A whole image, in one style. `relation` holds from the first sprite to the second."""

    kind: str
    style: str
    background: str
    sprites: tuple[Sprite, ...]
    relation: str | None = None

    @property
    def things(self) -> tuple[int, ...]:
        """The numbers of its things, one for each sprite."""
        return tuple(sprite.thing for sprite in self.sprites)


def draw_scene(
    rng: random.Random,
    nouns: Sequence[int] = FIRST,
    *,
    held_out: bool = False,
    styles: Mapping[str, int] = STYLE_WEIGHTS,
) -> Scene:
    """Draw one scene with things of `nouns` and shapes; `held_out` allows what training must not
    see."""
    while True:
        kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        style = rng.choices(tuple(styles), tuple(styles.values()))[0]
        background = rng.choice(tuple(BACKGROUNDS))
        things = _draw_things(rng, kind, nouns)
        if _fits(things, style, background, held_out):
            return compose(rng, kind, things, style, background)


def _fits(things: Sequence[int], style: str, background: str, held_out: bool) -> bool:
    return (
        all(has_style(thing, style) and is_visible(thing, background) for thing in things)
        and (held_out or not is_held_out(things, style))
    )  # fmt: skip


def is_visible(thing: int, background: str) -> bool:
    """Tell whether a shape's colour stands out from a background; drawings always do."""
    colour = THINGS[thing].colour
    if colour is None:
        return True
    pairs = zip(COLOURS[colour], BACKGROUNDS[background], strict=True)
    return max(abs(a - b) for a, b in pairs) >= LEAST_CONTRAST


def _draw_things(rng: random.Random, kind: str, nouns: Sequence[int]) -> list[int]:
    if kind == "single":
        return [rng.choice(nouns)]
    if kind == "shape":
        return [rng.choice(SHAPE_NUMBERS)]
    if kind == "count":
        thing = rng.choice(nouns) if rng.random() < 0.85 else rng.choice(SHAPE_NUMBERS)
        return [thing] * rng.choice((2, 3, 4, 5))
    if kind == "two shapes":
        return rng.sample(SHAPE_NUMBERS, 2)
    number = 3 if kind == "three" else 2
    return [
        thing if rng.random() < 0.88 else rng.choice(SHAPE_NUMBERS)
        for thing in rng.sample(nouns, number)
    ]


def compose(
    rng: random.Random, kind: str, things: Sequence[int], style: str, background: str
) -> Scene:
    """Place `things`: equal ones in a tidy pattern, two or three unlike ones beside each other."""
    if len(things) == 1:
        boxes, relation = [_single(rng)], None
    elif len(set(things)) == 1:
        boxes, relation = _arrange(rng, len(things)), None
    else:
        relation = rng.choice(tuple(RELATIONS))
        boxes = _beside(rng, relation) if len(things) == 2 else _three(rng, relation)
    sprites = tuple(Sprite(thing, *box) for thing, box in zip(things, boxes, strict=True))
    return Scene(kind, style, background, sprites, relation)


def _single(rng: random.Random) -> Box:
    side = rng.choices(SINGLE_SIDES, SINGLE_WEIGHTS)[0]
    room = CELLS - side
    if rng.random() < 0.45:
        return room // 2, (room + rng.randint(0, 1)) // 2, side
    return rng.randint(0, room), rng.randint(0, room), side


def _arrange(rng: random.Random, number: int) -> list[Box]:
    side, corners = rng.choice(ARRANGEMENTS[number])
    wide, high = (max(corner[axis] for corner in corners) + side for axis in (0, 1))
    left, top = rng.randint(0, CELLS - wide), rng.randint(0, CELLS - high)
    return [(left + x, top + y, side) for x, y in corners]


def _beside(rng: random.Random, relation: str) -> list[Box]:
    """Return squares of two things, the first in `relation` to the second, nearly in line."""
    side = rng.choice((3, 4, 4))
    gap = rng.randint(0, min(2, CELLS - 2 * side))
    near = rng.randint(0, CELLS - 2 * side - gap)
    across = rng.randint(0, CELLS - side)
    other = min(max(across + rng.randint(-1, 1), 0), CELLS - side)
    dx, dy = RELATIONS[relation]
    ends = (near, near + side + gap)
    first, second = ends if dx + dy < 0 else ends[::-1]
    if dx != 0:
        return [(first, across, side), (second, other, side)]
    return [(across, first, side), (other, second, side)]


def _three(rng: random.Random, relation: str) -> list[Box]:
    """Return squares of three things: the first two in `relation`, the third clear of both."""
    side = rng.choice((3, 4))
    here, there = rng.choice(((0, CELLS - side), (CELLS - side, 0)))
    dx, dy = RELATIONS[relation]
    ends = (0, CELLS - side)
    first, second = ends if dx + dy < 0 else ends[::-1]
    third = rng.randint(0, CELLS - side)
    if dx != 0:
        return [(first, here, side), (second, here, side), (third, there, side)]
    return [(here, first, side), (here, second, side), (there, third, side)]


def pack_scene(rng: random.Random, nouns: Sequence[int] = FIRST) -> Scene:
    """Draw a scene that is nearly covered with things of all sizes: much to learn from each."""
    style, background = rng.choice(tuple(STYLES)), rng.choice(tuple(BACKGROUNDS))
    free = {(x, y) for x in range(CELLS) for y in range(CELLS)}
    sprites = []
    for side in rng.choice(
        ((7,), (6, 2, 2), (5, 3, 3, 2, 2), (4, 4, 4, 4), (3, 3, 3, 3, 2, 2), (2,) * 9, (4, 4, 3, 2))
    ):
        corners = [
            (x, y)
            for x in range(CELLS - side + 1)
            for y in range(CELLS - side + 1)
            if free.issuperset(_cells(x, y, side))
        ]
        if corners:
            x, y = rng.choice(corners)
            free -= _cells(x, y, side)
            sprites.append(Sprite(_packed(rng, nouns, style, background), x, y, side))
    return Scene("packed", style, background, tuple(sprites))


def _packed(rng: random.Random, nouns: Sequence[int], style: str, background: str) -> int:
    while True:
        thing = rng.choice(nouns) if rng.random() < 0.92 else rng.choice(SHAPE_NUMBERS)
        if _fits([thing], style, background, held_out=True):
            return thing


def _cells(x: int, y: int, side: int) -> set[tuple[int, int]]:
    return {(x + dx, y + dy) for dx in range(side) for dy in range(side)}


def stands_in(relation: str, first: Sprite, second: Sprite) -> bool:
    """Tell whether `first` is left of, right of, above or below `second`: by more than half a side,
    and more in that direction than across it."""
    (x1, y1), (x2, y2) = first.centre, second.centre
    dx, dy = RELATIONS[relation]
    along = (x1 - x2) * dx + (y1 - y2) * dy
    across = abs((x1 - x2) * dy) + abs((y1 - y2) * dx)
    return along > second.side / 2 and along > across


def thirds(sprite: Sprite) -> tuple[int, int]:
    """Return column and row of a sprite's centre in a 3 × 3 division of the image."""
    column, row = (0 if value < 3.4 else 2 if value > 4.6 else 1 for value in sprite.centre)
    return column, row


def stands_at(sprite: Sprite, place: str) -> bool:
    """Tell whether the centre of `sprite` lies in that part of a 3 × 3 division of the image."""
    told = PLACES[place]
    return all(part in (None, here) for part, here in zip(told, thirds(sprite), strict=True))


def size_of(sprite: Sprite) -> str:
    """Return the name of a sprite's size."""
    return next(name for name, sides in SIZES.items() if sprite.side <= sides[-1])


def edit(scene: Scene, rng: random.Random, nouns: Sequence[int] = FIRST) -> Scene:
    """Return a scene that differs from `scene` in one respect: a thing, the order, the style, the
    background, the number or the place; never with anything held out."""
    while True:
        how = rng.choice(("thing", "thing", "style", "order", "background", "number", "place"))
        edited = _edit(scene, how, rng, nouns)
        if edited != scene and _fits(edited.things, edited.style, edited.background, False):
            return edited


def _edit(scene: Scene, how: str, rng: random.Random, nouns: Sequence[int]) -> Scene:
    things = list(scene.things)
    if how == "background":
        return replace(scene, background=rng.choice(tuple(BACKGROUNDS)))
    if how == "style":
        return replace(scene, style=rng.choice(tuple(STYLES)))
    if how == "thing":
        old = rng.choice(things)
        new = rng.choice(SHAPE_NUMBERS if THINGS[old].colour is not None else nouns)
        return _recast(scene, [new if each == old else each for each in things])
    if how == "order" and scene.relation is not None:
        things[0], things[1] = things[1], things[0]
        return _recast(scene, things)
    if len(set(things)) == 1 and how in ("number", "place"):
        number = rng.choice((1, 2, 3, 4, 5)) if how == "number" else len(things)
        return compose(rng, scene.kind, things[:1] * number, scene.style, scene.background)
    return scene


def _recast(scene: Scene, things: Sequence[int]) -> Scene:
    pairs = zip(scene.sprites, things, strict=True)
    return replace(scene, sprites=tuple(replace(sprite, thing=new) for sprite, new in pairs))
