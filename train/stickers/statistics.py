"""How often each kind of scene, size, place and phrasing occurs, so that none is rare."""

from __future__ import annotations

import functools
import random
import re
from collections import Counter

from train.stickers import captions
from train.stickers.facts import describe
from train.stickers.held_out import is_held_out
from train.stickers.scene import KINDS, SIZE_CELLS, draw_scene
from train.stickers.vocabulary import (
    GROUND_BY_NAME,
    GROUNDS,
    NUMBERS,
    PLACES,
    RELATIONS,
    SIZES,
    THINGS,
)

_GROUND_NAMES = "|".join(
    re.escape(name) for ground in GROUNDS for name in (*ground.synonyms, ground.name)
)
# A phrase that is found is taken out of the caption: "on the left of" is a relation, not a place.
PHRASES: dict[str, tuple[str, ...]] = {
    "opening": captions.OPENINGS,
    "relation": tuple(
        phrase
        for phrases in (*captions.RELATION_PHRASES.values(), *captions.WITH_PHRASES.values())
        for phrase in phrases
    ),
    "place": tuple(phrase for phrases in captions.PLACE_PHRASES.values() for phrase in phrases),
    "ground": (*captions.GROUND_PHRASES, ", {} background"),
    "size": tuple(word for words in SIZES.values() for word in words),
}


def phrasings(caption: str) -> dict[str, list[str]]:
    """Return the phrases of each sort that occur in `caption`; `{}` stands for a background."""
    found: dict[str, list[str]] = {}
    for sort, (pattern, phrases) in _patterns().items():
        indices = [match.lastindex for match in pattern.finditer(caption)]
        found[sort] = [phrases[index - 1] for index in indices if index is not None]
        caption = pattern.sub("", caption)
    return found


@functools.cache
def _patterns() -> dict[str, tuple[re.Pattern[str], list[str]]]:
    """For each sort the phrases, the longest first, and a pattern with one group for each."""
    ordered = {sort: sorted(phrases, key=len, reverse=True) for sort, phrases in PHRASES.items()}
    return {
        sort: (re.compile("|".join(f"({_pattern(phrase)})" for phrase in phrases)), phrases)
        for sort, phrases in ordered.items()
    }


def _pattern(phrase: str) -> str:
    pattern = re.escape(phrase).replace(re.escape("{}"), f"(?:{_GROUND_NAMES})")
    return ("" if phrase.startswith(",") else r"\b") + pattern + r"\b"


def tally(number: int, seed: int = 0, *, snap: bool = True) -> dict[str, Counter[str]]:
    """Count what occurs in `number` training scenes and captions, under the names of sections.

    Sizes and places that are drawn are those of single things; all that can occur is counted from
    zero.
    """
    rng = random.Random(seed)
    counts = {name: Counter(dict.fromkeys(values, 0)) for name, values in _possible().items()}
    for _ in range(number):
        scene = draw_scene(rng, snap=snap)
        told = describe(scene, rng)
        seen: dict[str, list[str | None]] = {
            "kind of scene": [scene.kind],
            "size of a single thing": [scene.size],
            "place of a single thing": [scene.place],
            "ground": [scene.ground],
            "number of things": [NUMBERS[len(scene.sprites)]],
            "thing": [thing.key for thing in scene.things],
            "size told": [told.size],
            "place told": [told.place],
            "relation told": [told.relation],
            "ground told": [told.ground],
        }
        for sort, phrases in phrasings(captions.phrase(told, rng)).items():
            seen[f"phrase of {sort}"] = list(phrases)
        for name, values in seen.items():
            counts[name].update(value for value in values if value is not None)
    return counts


def _possible() -> dict[str, tuple[str, ...]]:
    return {
        "kind of scene": tuple(KINDS),
        "size of a single thing": tuple(SIZE_CELLS),
        "place of a single thing": tuple(PLACES),
        "ground": tuple(GROUND_BY_NAME),
        "number of things": NUMBERS[1:],
        "thing": tuple(thing.key for thing in THINGS if not is_held_out([thing])),
        "size told": tuple(SIZES),
        "place told": tuple(PLACES),
        "relation told": tuple(RELATIONS),
        "ground told": tuple(GROUND_BY_NAME),
        **{f"phrase of {sort}": phrases for sort, phrases in PHRASES.items()},
    }


def main_figures(number: int = 10_000) -> str:
    """Return the tally as lines for people: share of all scenes, most frequent first."""
    lines = [f"of {number} scenes with a caption each"]
    for name, counts in tally(number).items():
        lines.append(f"{name}")
        lines += [f"  {count / number:7.2%}  {value}" for value, count in counts.most_common()]
    return "\n".join(lines)
