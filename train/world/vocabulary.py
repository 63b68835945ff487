"""What the world knows: things and their words, shapes, colours, styles, backgrounds, places.

The one table that scenes, captions, the judge and the tokenizer read. A thing is known by its
number: an index into `THINGS`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from train.world.concepts import CONCEPTS
from train.world.lexicon import THINGS as TABLE
from train.world.lexicon import plural

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Thing:
    """A drawing's subject (`colour` is None), or a plain shape in a colour."""

    key: str  # code point, or colour and shape
    name: str
    plural: str
    category: str
    first: bool  # among those that people ask for most
    early: bool = field(default=False, kw_only=True)  # among those that drawing begins with
    also: tuple[str, ...] = ()  # other words for it
    kinds: tuple[str, ...] = ()  # words for kinds of it
    tags: tuple[str, ...] = ()  # words that make people think of it
    colour: str | None = None
    shape: str | None = None


SHAPES: Mapping[str, tuple[str, ...]] = {
    "circle": ("disc", "dot", "round spot"),
    "square": ("box shape",),
    "triangle": (),
    "diamond": ("rhombus",),
    "star": (),
    "heart shape": (),
    "hexagon": (),
}
COLOURS: Mapping[str, RGB] = {
    "red": (226, 38, 45),
    "orange": (250, 136, 24),
    "yellow": (250, 206, 20),
    "green": (44, 158, 66),
    "blue": (34, 96, 220),
    "purple": (138, 58, 178),
    "pink": (245, 110, 165),
    "brown": (130, 80, 44),
    "black": (26, 26, 30),
    "white": (252, 252, 252),
    "grey": (128, 132, 140),
}
# How people ask for each set of drawings; the set is what is drawn.
STYLES: Mapping[str, str] = {
    "glossy": "noto",
    "flat": "fluent-emoji-flat",
    "3d": "fluent-emoji-3d",
    "plain": "twemoji",
    "blob": "noto-v1",
}
BACKGROUNDS: Mapping[str, RGB] = {
    "white": (255, 255, 255),
    "cream": (255, 244, 214),
    "light blue": (190, 224, 250),
    "light green": (200, 236, 200),
    "pink": (252, 208, 222),
    "lavender": (222, 212, 246),
    "yellow": (252, 236, 150),
    "grey": (200, 204, 210),
    "orange": (250, 200, 140),
    "teal": (130, 205, 200),
    "navy": (36, 48, 92),
    "black": (24, 24, 28),
}
BACKGROUND_WORDS: Mapping[str, tuple[str, ...]] = {
    "white": ("white", "plain white", "pure white"),
    "cream": ("cream", "beige", "ivory", "off-white", "cream-coloured"),
    "light blue": ("light blue", "sky blue", "pale blue", "baby blue", "blue"),
    "light green": ("light green", "mint", "pale green", "green"),
    "pink": ("pink", "light pink", "rosy", "pale pink"),
    "lavender": ("lavender", "lilac", "light purple", "purple", "violet"),
    "yellow": ("yellow", "light yellow", "pale yellow"),
    "grey": ("grey", "gray", "light grey", "light gray"),
    "orange": ("orange", "light orange", "peach", "apricot"),
    "teal": ("teal", "turquoise", "aqua"),
    "navy": ("navy", "dark blue", "navy blue", "midnight blue"),
    "black": ("black", "dark", "pitch black"),
}
SIZES: Mapping[str, tuple[int, ...]] = {"small": (2, 3), "medium": (4, 5), "large": (6, 7)}  # cells
SIZE_WORDS: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium-sized", "mid-sized"),
    "large": ("large", "big", "huge", "giant", "enormous"),
}
NUMBERS = ("zero", "one", "two", "three", "four", "five")
# (dx, dy) points from the second thing to the first; y grows downwards.
RELATIONS: Mapping[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
# Column and row of a 3 × 3 division; None leaves that direction open.
PLACES: Mapping[str, tuple[int | None, int | None]] = {
    "centre": (1, 1),
    "left": (0, None),
    "right": (2, None),
    "top": (None, 0),
    "bottom": (None, 2),
    "top left": (0, 0),
    "top right": (2, 0),
    "bottom left": (0, 2),
    "bottom right": (2, 2),
}
# Words for many things at once: any thing of it will do.
GENERAL: Mapping[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "fox", "lion", "elephant", "cow", "horse", "pig", "rabbit", "tiger"),
    "pet": ("dog", "cat", "rabbit", "hamster", "dog face", "cat face", "parrot"),
    "fruit": ("apple", "banana", "pear", "strawberry", "pineapple", "peach", "tangerine", "lemon"),
    "vegetable": ("carrot", "broccoli", "potato", "cucumber", "eggplant", "onion", "tomato"),
    "vehicle": ("car", "bus", "truck", "motorcycle", "bicycle", "tractor", "taxi", "suv"),
    "flower": ("sunflower", "tulip", "rose", "hibiscus", "yellow flower", "cherry blossom"),
    "ball": ("soccer ball", "basketball", "volleyball", "baseball", "american football"),
    "musical instrument": ("guitar", "violin", "trumpet", "saxophone", "drum", "accordion"),
    "tool": ("hammer", "wrench", "screwdriver", "saw", "axe", "shovel"),
    "building": ("house", "office building", "castle", "church", "school", "hospital", "factory"),
    "dessert": ("cake", "piece of cake", "donut", "cupcake", "pie", "bowl of ice cream", "pudding"),
    "insect": ("bee", "ladybug", "ant", "butterfly", "beetle", "mosquito", "fly"),
}


def _read() -> tuple[Thing, ...]:
    things = []
    for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]:
        key, name, many, category, first, *words = line.split("\t")
        also, kinds, tags = (tuple(word for word in each.split("|") if word) for each in words)
        thing = Thing(key, name, many, category, first != "0", also, kinds, tags)
        things.append(replace(thing, early=first == "2"))
    return tuple(things)


def _shape(colour: str, shape: str) -> Thing:
    also = tuple(f"{colour} {word}" for word in SHAPES[shape])
    name = f"{colour} {shape}"
    return Thing(name, name, plural(name), "shape", True, also, colour=colour, shape=shape)


NOUNS = _read()
THINGS = NOUNS + tuple(_shape(colour, shape) for shape in SHAPES for colour in COLOURS)
NUMBER = {thing.key: number for number, thing in enumerate(THINGS)}
NOUN_NUMBERS = range(len(NOUNS))
SHAPE_NUMBERS = range(len(NOUNS), len(THINGS))
FIRST = tuple(number for number in NOUN_NUMBERS if NOUNS[number].first)
EARLY = tuple(number for number in NOUN_NUMBERS if NOUNS[number].early)
_DRAWINGS = {concept.codepoint: concept.drawings for concept in CONCEPTS}


def has_style(thing: int, style: str) -> bool:
    """Tell whether a thing is drawn in a style; shapes are in every one."""
    return thing >= len(NOUNS) or STYLES[style] in _DRAWINGS[NOUNS[thing].key]


def _accepted() -> dict[str, frozenset[int]]:
    """Return for each word which things it may mean: by the strictest list that has the word."""
    found: dict[str, set[int]] = defaultdict(set)
    by_name = {thing.name: number for number, thing in enumerate(THINGS)}
    for word, names in GENERAL.items():
        found[word] = {by_name[name] for name in names}
    for number, thing in enumerate(THINGS):
        for word in (thing.name, *thing.also):
            found[word].add(number)
    for loose in (lambda thing: thing.kinds, lambda thing: thing.tags):
        new: dict[str, set[int]] = defaultdict(set)
        for number, thing in enumerate(THINGS):
            for word in loose(thing):
                if word not in found:
                    new[word].add(number)
        found.update(new)
    return {word: frozenset(numbers) for word, numbers in found.items()}


ACCEPTED = _accepted()  # word (singular) → numbers of the things that it may mean


def article(words: str) -> str:
    """Return `a` or `an` for the first of `words`, by its sound."""
    vowel = words[0] in "aeio" or words.startswith(("um", "ug", "un-", "x-ray", "hour"))
    return "an" if vowel and not words.startswith(("one", "eu", "ufo")) else "a"
