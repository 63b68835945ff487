"""What the sticker world knows: the one typed table of things, shapes, colours, grounds and words.

Renderer, captions, judge and the shipped `vocabulary.json` all read it from here. The things were
chosen by eye at 24 px: bold outlines, unlike each other, visible on every ground.
"""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Noun:
    """A thing that is drawn from the atlas: one glyph of Noto Color Emoji."""

    name: str
    plural: str
    category: str
    codepoint: int
    synonyms: tuple[tuple[str, str], ...] = ()  # (singular, plural)


@dataclass(frozen=True)
class Shape:
    """A plain geometric figure that is drawn in any of the `COLOURS`."""

    name: str
    plural: str
    synonyms: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Colour:
    """A colour that a shape can have."""

    name: str
    rgb: RGB


@dataclass(frozen=True)
class Ground:
    """The one flat colour behind everything; light, so that every thing stands out on it."""

    name: str
    rgb: RGB
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True, order=True)
class Thing:
    """What one sprite shows: a noun (`colour` is None) or a shape in a colour."""

    name: str
    colour: str | None = None

    @property
    def key(self) -> str:
        return self.name if self.colour is None else f"{self.colour} {self.name}"


NOUNS: tuple[Noun, ...] = (
    Noun("panda", "pandas", "animal", 0x1F43C, (("panda bear", "panda bears"),)),
    Noun("cat", "cats", "animal", 0x1F431, (("kitten", "kittens"),)),
    Noun("fox", "foxes", "animal", 0x1F98A),
    Noun("lion", "lions", "animal", 0x1F981),
    Noun("frog", "frogs", "animal", 0x1F438),
    Noun("pig", "pigs", "animal", 0x1F437, (("piglet", "piglets"),)),
    Noun("chick", "chicks", "animal", 0x1F424, (("baby chicken", "baby chickens"),)),
    Noun("penguin", "penguins", "animal", 0x1F427),
    Noun("octopus", "octopuses", "animal", 0x1F419),
    Noun("fish", "fish", "animal", 0x1F420, (("tropical fish", "tropical fish"),)),
    Noun("turtle", "turtles", "animal", 0x1F422, (("tortoise", "tortoises"),)),
    Noun("ladybug", "ladybugs", "animal", 0x1F41E, (("ladybird", "ladybirds"),)),
    Noun("dolphin", "dolphins", "animal", 0x1F42C),
    Noun("butterfly", "butterflies", "animal", 0x1F98B),
    Noun("apple", "apples", "food", 0x1F34E, (("red apple", "red apples"),)),
    Noun("banana", "bananas", "food", 0x1F34C),
    Noun("strawberry", "strawberries", "food", 0x1F353),
    Noun(
        "watermelon",
        "watermelons",
        "food",
        0x1F349,
        (("slice of watermelon", "slices of watermelon"),),
    ),
    Noun("carrot", "carrots", "food", 0x1F955),
    Noun("avocado", "avocados", "food", 0x1F951),
    Noun("donut", "donuts", "food", 0x1F369, (("doughnut", "doughnuts"),)),
    Noun("burger", "burgers", "food", 0x1F354, (("hamburger", "hamburgers"),)),
    Noun("bunch of grapes", "bunches of grapes", "food", 0x1F347),
    Noun("pizza", "pizzas", "food", 0x1F355, (("slice of pizza", "slices of pizza"),)),
    Noun(
        "car", "cars", "vehicle", 0x1F697, (("red car", "red cars"), ("automobile", "automobiles"))
    ),
    Noun("bus", "buses", "vehicle", 0x1F68C),
    Noun("rocket", "rockets", "vehicle", 0x1F680, (("spaceship", "spaceships"),)),
    Noun(
        "airplane",
        "airplanes",
        "vehicle",
        0x2708,
        (("plane", "planes"), ("aeroplane", "aeroplanes")),
    ),
    Noun("sailboat", "sailboats", "vehicle", 0x26F5, (("sailing boat", "sailing boats"),)),
    Noun("tractor", "tractors", "vehicle", 0x1F69C),
    Noun("tree", "trees", "plant", 0x1F333),
    Noun("cactus", "cacti", "plant", 0x1F335, (("cactus plant", "cactus plants"),)),
    Noun("sunflower", "sunflowers", "plant", 0x1F33B),
    Noun("tulip", "tulips", "plant", 0x1F337, (("pink tulip", "pink tulips"),)),
    Noun("mushroom", "mushrooms", "plant", 0x1F344, (("toadstool", "toadstools"),)),
    Noun("clover", "clovers", "plant", 0x1F340, (("four-leaf clover", "four-leaf clovers"),)),
    Noun("sun", "suns", "sky", 0x1F31E),
    Noun("moon", "moons", "sky", 0x1F319, (("crescent moon", "crescent moons"),)),
    Noun("rainbow", "rainbows", "sky", 0x1F308),
    Noun(
        "lightning bolt",
        "lightning bolts",
        "sky",
        0x26A1,
        (("flash of lightning", "flashes of lightning"),),
    ),
    Noun("balloon", "balloons", "thing", 0x1F388, (("red balloon", "red balloons"),)),
    Noun("gift", "gifts", "thing", 0x1F381, (("present", "presents"), ("gift box", "gift boxes"))),
    Noun("book", "books", "thing", 0x1F4D5, (("red book", "red books"),)),
    Noun("clock", "clocks", "thing", 0x23F0, (("alarm clock", "alarm clocks"),)),
    Noun("house", "houses", "thing", 0x1F3E0, (("home", "homes"),)),
    Noun("umbrella", "umbrellas", "thing", 0x2602),
    Noun("crown", "crowns", "thing", 0x1F451, (("golden crown", "golden crowns"),)),
    Noun("robot", "robots", "thing", 0x1F916),
)

SHAPES: tuple[Shape, ...] = (
    Shape("circle", "circles", (("disc", "discs"), ("dot", "dots"))),
    Shape("square", "squares"),
    Shape("triangle", "triangles"),
    Shape("diamond", "diamonds", (("rhombus", "rhombuses"),)),
    Shape("star", "stars"),
)

COLOURS: tuple[Colour, ...] = (
    Colour("red", (226, 38, 45)),
    Colour("orange", (250, 136, 24)),
    Colour("yellow", (252, 212, 26)),
    Colour("green", (44, 158, 66)),
    Colour("blue", (34, 96, 220)),
    Colour("purple", (138, 58, 178)),
    Colour("brown", (130, 80, 44)),
    Colour("black", (28, 28, 34)),
)

GROUNDS: tuple[Ground, ...] = (
    Ground("white", (255, 255, 255), ("plain white",)),
    Ground("grey", (178, 182, 190), ("gray",)),
    Ground("light blue", (162, 214, 250), ("sky blue", "pale blue")),
    Ground("light green", (186, 236, 178), ("mint", "pale green")),
    Ground("pink", (250, 164, 196), ("rosy",)),
    Ground("beige", (244, 226, 188), ("cream", "sand-coloured")),
)

SIZES: dict[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium-sized",),
    "large": ("large", "big", "huge"),
}

NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five")

# A relation holds between a first thing and a second: (dx, dy) points from the second to the
# first, in image coordinates (y grows downwards).
RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}

# Where a single thing can be: column and row of a 3 × 3 grid (0 left or top, 1 middle, 2 right or
# bottom); None leaves that direction open.
PLACES: dict[str, tuple[int | None, int | None]] = {
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

NOUN_BY_NAME = {noun.name: noun for noun in NOUNS}
SHAPE_BY_NAME = {shape.name: shape for shape in SHAPES}
COLOUR_BY_NAME = {colour.name: colour for colour in COLOURS}
GROUND_BY_NAME = {ground.name: ground for ground in GROUNDS}

NOUN_THINGS = tuple(Thing(noun.name) for noun in NOUNS)
SHAPE_THINGS = tuple(Thing(shape.name, colour.name) for shape in SHAPES for colour in COLOURS)
THINGS = NOUN_THINGS + SHAPE_THINGS  # a sprite's number is its index here
THING_INDEX = {thing: index for index, thing in enumerate(THINGS)}


def category(thing: Thing) -> str:
    """`animal`, `food`, … for a noun; `shape` for a shape."""
    return "shape" if thing.colour is not None else NOUN_BY_NAME[thing.name].category


def article(words: str) -> str:
    """Return `a` or `an` for the first of `words`, by its sound."""
    return "an" if words[0] in "aeio" or words.startswith("um") else "a"
