"""The facts of stickers in any English wording: their own grammar, or the speaker of the world of a
thousand things (`train.world.captions`), who knows requests, fragments, fillers and words that mean
nothing."""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cache

from train.stickers.captions import phrase
from train.stickers.facts import Description
from train.stickers.vocabulary import NOUN_BY_NAME, SHAPE_BY_NAME, THINGS, Noun, Shape, Thing
from train.world import words
from train.world.captions import Speaker
from train.world.facts import Told
from train.world.held_out import chosen
from train.world.lexicon import plural
from train.world.vocabulary import NUMBER
from train.world.vocabulary import THINGS as WORLD

OTHER_WORD = 0.35  # of the things are called by another word for them
COLOURED = (
    *("{c} {s}",) * 6,
    "bright {c} {s}",
    "{s} in {c}",
    "{s} of a {c} colour",
    "{s} with a {c} fill",
)
BACKGROUND = {"beige": "cream"}  # what the world calls a background of ours, where it differs
INVENTED = 4_000  # words that are in no dictionary
_STARTS = (
    "b", "bl", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kr", "l", "m", "n", "p", "pl",
    "qu", "r", "s", "sk", "st", "t", "tr", "v", "w", "x", "y", "z", "zh",
)  # fmt: skip
_MIDDLES = ("a", "e", "i", "o", "u", "ai", "ea", "oo", "ou", "ie")
_ENDS = ("", "", "", "n", "r", "l", "s", "x", "m", "ck", "nd", "rt", "th", "sh", "ng")


class Wording:
    """Says descriptions, a share of them (`free`) in free wordings, the others by `phrase`."""

    def __init__(self, free: float) -> None:
        table, rng = words.load(), random.Random("invented words")
        made = (invented(rng) for _ in range(INVENTED))  # now and then a fox
        unknown = sorted({*table.unknown, *made} - naming_words())
        self.speaker = Speaker(unknown, table.adjectives, table.verbs)
        self.free = free

    def say(self, description: Description, rng: random.Random) -> str:
        """Return one of very many wordings."""
        if rng.random() >= self.free:
            return phrase(description, rng)
        return self.speaker.phrase(told(description, rng), rng)


def invented(rng: random.Random) -> str:
    """Return a word of one to four syllables that hardly means anything."""
    syllables = rng.choice((1, 2, 2, 3, 3, 4))
    return "".join(
        rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_ENDS) for _ in range(syllables)
    )


def told(description: Description, rng: random.Random) -> Told:
    """Return the same facts for the world's speaker and readers."""
    ground = description.ground
    return Told(
        words=tuple(_word(thing, rng) for thing in description.things),
        things=tuple(map(number, description.things)),
        count=description.count,
        relation=description.relation,
        size=description.size,
        place=description.place,
        background=None if ground is None else BACKGROUND.get(ground, ground),
    )


def number(thing: Thing) -> int:
    """Return the number that the world has for a thing of ours."""
    if thing.colour is not None:
        return NUMBER[thing.key]
    return NUMBER[f"U+{NOUN_BY_NAME[thing.name].codepoint:04X}"]


def _word(thing: Thing, rng: random.Random) -> str:
    others = other_words()[thing.name]
    name = rng.choice(others) if others and rng.random() < OTHER_WORD else thing.name
    if thing.colour is None:
        return name
    return rng.choice(COLOURED).format(s=name, c=thing.colour)


@cache
def other_words() -> dict[str, tuple[str, ...]]:
    """Return what else nouns and shapes are called in training: our synonyms, and the world's where
    they mean one thing of ours only and are not held out (one in eight)."""
    every = {
        name: (thing, [*_synonyms(thing), *(_also(thing) if thing.colour is None else ())])
        for name, thing in {thing.name: thing for thing in THINGS}.items()
    }
    common = Counter(word for _, found in every.values() for word in {*found})
    return {
        name: tuple(
            word
            for word in dict.fromkeys(found)
            if common[word] == 1
            and word not in every
            and (word in _synonyms(thing) or not (chosen(f"word:{word}") or word.endswith("s")))
        )
        for name, (thing, found) in every.items()
    }


@cache
def naming_words() -> frozenset[str]:
    """Return every word that is part of what a thing is called, one and many."""
    others = {word for found in other_words().values() for word in found}
    names = others | {plural(word) for word in others}
    every: tuple[Noun | Shape, ...] = (*NOUN_BY_NAME.values(), *SHAPE_BY_NAME.values())
    for known in every:
        names |= {known.name, known.plural, *(many for _, many in known.synonyms)}
    return frozenset(word for name in names for word in re.findall("[a-z]+", name))


def _synonyms(thing: Thing) -> list[str]:
    known = SHAPE_BY_NAME[thing.name] if thing.colour is not None else NOUN_BY_NAME[thing.name]
    return [singular for singular, _ in known.synonyms]


def _also(thing: Thing) -> tuple[str, ...]:
    return WORLD[number(thing)].also
