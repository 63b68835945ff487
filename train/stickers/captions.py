"""How facts are said: a `Description` in many English phrasings."""

from __future__ import annotations

import random

from train.stickers.facts import Description
from train.stickers.vocabulary import (
    GROUND_BY_NAME,
    NOUN_BY_NAME,
    NUMBERS,
    SHAPE_BY_NAME,
    SIZES,
    Thing,
    article,
)

OPENINGS = (
    "a picture of",
    "a photo of",
    "an image of",
    "a sticker of",
    "a drawing of",
    "an illustration of",
    "a cartoon of",
)
RELATION_PHRASES = {
    "left of": ("to the left of", "left of", "on the left of", "on the left side of"),
    "right of": ("to the right of", "right of", "on the right of", "on the right side of"),
    "above": ("above", "over", "on top of", "higher than"),
    "below": ("below", "under", "beneath", "underneath"),
}
WITH_PHRASES = {  # "B with A …": the first thing is named last
    "left of": ("to its left", "on its left"),
    "right of": ("to its right", "on its right"),
    "above": ("above it", "over it"),
    "below": ("below it", "under it"),
}
PLACE_PHRASES = {
    "centre": ("in the middle", "in the centre", "in the center", "at the centre"),
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "near the top", "in the upper half"),
    "bottom": ("at the bottom", "near the bottom", "in the lower half"),
    "top left": ("in the top left corner", "at the top left", "in the upper left corner"),
    "top right": ("in the top right corner", "at the top right", "in the upper right corner"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left corner"),
    "bottom right": (
        "in the bottom right corner",
        "at the bottom right",
        "in the lower right corner",
    ),
}
GROUND_PHRASES = (
    "on a {} background",
    "on a {} ground",
    "on {}",
    "against a {} background",
    "in front of a {} background",
)


def phrase(description: Description, rng: random.Random) -> str:
    """Say `description` in one of many ways."""
    opened = rng.random() < 0.3
    words = [_subject(description, rng, sentence=not opened)]
    if description.place is not None:
        words.append(rng.choice(PLACE_PHRASES[description.place]))
    text = " ".join(words)
    plural = description.count > 1
    if opened:
        text = f"{rng.choice(OPENINGS)} {text}"
    elif rng.random() < 0.09 and len(description.things) == 1:
        text = f"there {'are' if plural else 'is'} {text}"
    if description.ground is not None:
        text = _with_ground(text, description.ground, rng)
    return text


def _with_ground(text: str, ground: str, rng: random.Random) -> str:
    name = rng.choice((ground, ground, *GROUND_BY_NAME[ground].synonyms))
    if rng.random() < 0.12:
        return f"{text}, {name} background"
    said = rng.choice(GROUND_PHRASES).format(name)
    return f"{text} {said.replace(' a ', f' {article(name)} ', 1)}"


def _subject(description: Description, rng: random.Random, *, sentence: bool) -> str:
    """Return the things and their relation; as a `sentence` it may have a verb."""
    if description.count > 1:
        return _counted(description.things[0], description.count, rng)
    first, *others = (_one(thing, description.size, rng) for thing in description.things)
    if not others:
        return first
    second, *rest = others
    if description.relation is not None:
        text = _related(first, second, description.relation, rng, sentence=sentence)
        return f"{text}{rng.choice((', and', ' and', ', with'))} {rest[0]}" if rest else text
    if rest:
        return f"{first}, {second}{rng.choice((' and', ', and'))} {rest[0]}"
    return f"{first} {rng.choice(('and', 'and', 'and', 'with', 'next to', 'beside'))} {second}"


def _related(first: str, second: str, relation: str, rng: random.Random, *, sentence: bool) -> str:
    if rng.random() < 0.12:
        return f"{second} with {first} {rng.choice(WITH_PHRASES[relation])}"
    verb = "is " if sentence and relation in ("above", "below") and rng.random() < 0.25 else ""
    return f"{first} {verb}{rng.choice(RELATION_PHRASES[relation])} {second}"


def _one(thing: Thing, size: str | None, rng: random.Random) -> str:
    """Name one thing, as in `a small red circle`."""
    words = _names(thing, rng)[0]
    if size is not None:
        words = f"{rng.choice(SIZES[size])} {words}"
    determiner = "one" if rng.random() < 0.04 else article(words)
    return f"{determiner} {words}"


def _counted(thing: Thing, count: int, rng: random.Random) -> str:
    """`three red circles`."""
    number = str(count) if rng.random() < 0.15 else NUMBERS[count]
    plural = _names(thing, rng)[1]
    group = rng.random()
    if group < 0.06:
        return f"a group of {number} {plural}"
    return f"a pair of {plural}" if count == 2 and group < 0.12 else f"{number} {plural}"


def _names(thing: Thing, rng: random.Random) -> tuple[str, str]:
    """Singular and plural, sometimes a synonym."""
    known = NOUN_BY_NAME[thing.name] if thing.colour is None else SHAPE_BY_NAME[thing.name]
    singular, plural = known.name, known.plural
    if known.synonyms and rng.random() < 0.25:
        singular, plural = rng.choice(known.synonyms)
    if thing.colour is None:
        return singular, plural
    return f"{thing.colour} {singular}", f"{thing.colour} {plural}"
