"""Whose noise an image is made of: one seed, or one after the other where a search branched.

In text, `7:16 40:32` beside the seed 52 means the noise of seed 7 until step (or token) 16, that of
40 until 32, and from there on that of 52. Loads no torch.
"""

import itertools
import re
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.settings import InputError

MAX_BRANCHES = 4096  # of one image; a text setting holds no more


class Branch(NamedTuple):
    """Where a seed's noise ended, counted in steps or tokens as drafts count them."""

    seed: int
    end: int


@dataclass(frozen=True)
class NoisePath:
    """One candidate of a search: the seed whose noise it goes on with, and those before it."""

    seed: int
    past: tuple[Branch, ...] = ()

    @property
    def first(self) -> int:
        """The seed that it begins with."""
        return self.past[0].seed if self.past else self.seed

    @property
    def text(self) -> str | None:
        """Its past as text, None where there is none."""
        return " ".join(f"{seed}:{end}" for seed, end in self.past) or None

    def until(self, step: int) -> "NoisePath":
        """Return the path of which this one was a copy when `step` steps were done."""
        past = tuple(branch for branch in self.past if branch.end < step)
        later = self.past[len(past) :]
        return NoisePath(later[0].seed, past) if later else self

    def branched(self, seed: int, step: int) -> "NoisePath":
        """Return the path that goes on with another seed's noise from `step` on."""
        return NoisePath(seed, (*self.past, Branch(self.seed, step)))


def read_path(seed: int, text: str | None) -> NoisePath:
    """Return the path of an image. Raises InputError for a text that is none."""
    if text is None:
        return NoisePath(seed)
    parts = text.split(" ", MAX_BRANCHES)
    if len(parts) > MAX_BRANCHES or not all(re.fullmatch(r"\d{1,19}:\d{1,7}", p) for p in parts):
        raise InputError("branches: seeds with the step where each ends, as in 7:16 40:32")
    past = tuple(Branch(*map(int, part.split(":"))) for part in parts)
    seeds = [branch.seed for branch in past]
    ends = [0, *(branch.end for branch in past)]
    is_rising = all(a < b for a, b in itertools.pairwise(ends))
    if len({*seeds, seed}) <= len(seeds) or not is_rising:
        raise InputError("branches: seeds are different, and each ends later than the one before")
    return NoisePath(seed, past)
