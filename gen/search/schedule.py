"""How a search spends its budget: how many begin, and who goes on at which step. Loads no torch."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.courses import Course
from pipelines.settings import InputError

PRUNE, BEAM = "prune", "beam"
NAMES = ("none", PRUNE, BEAM)
# So many are finished at least: the last choice is better made among whole images.
FINISHED = 2
COPIES = 4  # of each beam


@dataclass(frozen=True)
class Rung:
    """What happens after `step` steps: the best `keep` go on, each as `copies` candidates."""

    step: int
    keep: int
    copies: int = 1


@dataclass(frozen=True)
class Schedule:
    """A search: `begin` candidates at `start`, and what becomes of them on the way to `total`."""

    begin: int
    rungs: tuple[Rung, ...]
    start: int
    total: int

    @property
    def widths(self) -> tuple[int, ...]:
        """How many candidates there are at first, and behind each rung."""
        return (self.begin, *(rung.keep * rung.copies for rung in self.rungs))

    @property
    def finished(self) -> int:
        """How many images come of it."""
        return self.widths[-1]

    def taken(self, step: int) -> int:
        """Return how many seeds are taken, or set aside, before the look at `step`."""
        return self.begin + sum(r.keep * r.copies for r in self.rungs if r.step < step)

    @property
    def evaluations(self) -> int:
        """What it costs: steps, or tokens, of all candidates together."""
        steps = [self.start, *(rung.step for rung in self.rungs), self.total]
        lengths = [b - a for a, b in itertools.pairwise(steps)]
        return sum(n * length for n, length in zip(self.widths, lengths, strict=True))


def count_finished(candidates: int, top_k: int) -> int:
    """Return how many images a search finishes: at least those that are returned."""
    return min(candidates, max(top_k, FINISHED))


def make_schedule(search: str, course: Course, budget: int, finished: int) -> Schedule:
    """Return the search that begins as many candidates as the budget allows.

    Raises InputError for a budget that is not enough for `finished` images.
    """
    if finished == 0:  # more models than images
        return Schedule(0, (), course.start, course.total)
    least = finished * (course.total - course.start)
    if budget < least:
        raise InputError(
            f"budget {budget}: {finished} images alone take {least} steps or tokens: allow more, "
            "or ask for a smaller top_k"
        )
    build = _prune if search == PRUNE else _beam
    # The cost rises with how many begin, so the largest number is found by bisection.
    low, high = finished, max(finished, budget)
    while low < high:
        middle = (low + high + 1) // 2
        if build(course, middle, finished).evaluations <= budget:
            low = middle
        else:
            high = middle - 1
    return build(course, low, finished)


def refining(course: Course, begin: int, finished: int) -> Schedule:
    """Return the search whose one look is between two passes."""
    assert course.second is not None
    rungs = (Rung(course.second, finished),) if begin > finished else ()
    return Schedule(begin, rungs, course.start, course.total)


def _prune(course: Course, begin: int, finished: int) -> Schedule:
    """Successive halving (Jamieson and Talwalkar, arXiv 1502.07943): the same share goes at each
    look."""
    looks = _steps(course, course.looks)
    shares = [(finished / begin) ** ((i + 1) / len(looks)) for i in range(len(looks))]
    keeps = [max(finished, math.ceil(begin * share - 1e-9)) for share in shares]
    rungs = [Rung(step, keep) for step, keep in zip(looks, keeps, strict=True)]
    return Schedule(begin, tuple(rungs) if begin > finished else (), course.start, course.total)


def _beam(course: Course, begin: int, finished: int) -> Schedule:
    """Keep beams, each with some copies between looks; at the last look only the best go on."""
    looks = _steps(course, course.forks)
    if begin <= finished:
        return Schedule(begin, (), course.start, course.total)
    copies = min(COPIES, begin)
    rungs = [Rung(step, begin // copies, copies) for step in looks[:-1]]
    last = [Rung(step, finished) for step in looks[-1:]]
    return Schedule(begin, (*rungs, *last), course.start, course.total)


def _steps(course: Course, shares: Sequence[float]) -> list[int]:
    """Return the steps of the looks: whole strides behind the start and before the end."""
    length, stride = course.total - course.start, course.stride
    steps = {course.start + stride * max(1, round(share * length / stride)) for share in shares}
    return sorted(step for step in steps if step < course.total)
