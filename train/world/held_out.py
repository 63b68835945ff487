"""What training never sees, chosen by hashes of names, so that every process agrees.

One in eight of: pairs of things in one scene, things in a style, colours of shapes, and of the
words for things (never the plain name).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import combinations

from train.world.vocabulary import THINGS, has_style

ONE_IN = 8


@cache
def chosen(text: str) -> bool:
    """Tell whether the hash of `text` is among one in eight."""
    return hashlib.sha256(text.encode()).digest()[0] % ONE_IN == 0


def is_held_out_pair(first: int, second: int) -> bool:
    """Tell whether two different things never stand together in a scene of training."""
    names = sorted((THINGS[first].name, THINGS[second].name))
    return names[0] != names[1] and chosen("pair:" + "+".join(names))


def is_held_out_style(thing: int, style: str) -> bool:
    """Tell whether a thing that has this style is never trained in it."""
    held = has_style(thing, style) and chosen(f"style:{THINGS[thing].name}+{style}")
    return held and THINGS[thing].colour is None


def is_held_out_colour(thing: int) -> bool:
    """Tell whether this coloured shape is never trained."""
    return THINGS[thing].colour is not None and chosen(f"colour:{THINGS[thing].name}")


def is_held_out_word(thing: int, word: str) -> bool:
    """Tell whether training never calls the thing by this word."""
    return word != THINGS[thing].name and chosen(f"word:{word}")


def is_held_out(things: Sequence[int], style: str) -> bool:
    """Tell whether a scene has anything that is held out."""
    distinct = sorted(set(things))
    return (
        any(is_held_out_style(thing, style) or is_held_out_colour(thing) for thing in distinct)
        or any(is_held_out_pair(*pair) for pair in combinations(distinct, 2))
    )  # fmt: skip
