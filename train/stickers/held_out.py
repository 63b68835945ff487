"""The combinations that training never sees, neither as images nor as words.

A pair of nouns is held out with probability 1/8, a colour with a shape with probability 1/8, by a
hash of their names, so that the split is the same in every process and for every vocabulary that
contains them. Evaluation draws on these, and so measures composition instead of memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import combinations

from train.stickers.vocabulary import Thing

ONE_IN = 8


def _chosen(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % ONE_IN == 0


def is_held_out_pair(first: Thing, second: Thing) -> bool:
    """Return whether two nouns never stand together in a training image or caption."""
    if first.colour is not None or second.colour is not None or first.name == second.name:
        return False
    return _chosen("pair:" + "+".join(sorted((first.name, second.name))))


def is_held_out_colour(thing: Thing) -> bool:
    """Return whether a shape never has this colour in training."""
    return thing.colour is not None and _chosen(f"colour:{thing.colour}+{thing.name}")


def is_held_out(things: Iterable[Thing]) -> bool:
    """Return whether a scene of `things` contains any held-out combination."""
    distinct = sorted(set(things), key=lambda thing: thing.key)
    return any(map(is_held_out_colour, distinct)) or any(
        is_held_out_pair(first, second) for first, second in combinations(distinct, 2)
    )
