"""A search while it runs: candidates of one model step, are looked at, and thinned out together.

All candidates of a prompt are compared at each look, in however many micro-batches they are, so
that the result does not depend on memory. What a look has decided is noted before anything else
happens: a run that was killed begins again with those that were kept, replays their noise, and goes
on from there.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gen.search.paths import NoisePath
from gen.search.schedule import Rung

if TYPE_CHECKING:
    from pipelines.drafts import Draft


@dataclass(frozen=True)
class Runner:
    """A candidate of a search, and the score of its last look; None before the first."""

    path: NoisePath
    score: float | None = None


@dataclass(frozen=True)
class Field:
    """The candidates of one model that are in, after `step` steps."""

    step: int
    runners: tuple[Runner, ...]

    @property
    def paths(self) -> list[NoisePath]:
        """Their paths, in the order of all lists."""
        return [runner.path for runner in self.runners]


@dataclass(frozen=True)
class Look:
    """What a look decided: who goes on, copies included, and who was dropped."""

    field: Field
    dropped: tuple[Runner, ...]


@dataclass(frozen=True)
class Rating:
    """How good each candidate is likely to become, by seed; nan where there is no telling.

    `looks` are the same for candidates that look the same by now, as far as they can be shown.
    """

    scores: Mapping[int, float]
    looks: Mapping[int, bytes] = field(default_factory=dict)


def thin_out(field: Field, rating: Rating, rung: Rung, seeds: Iterable[int]) -> Look:
    """Decide who goes on behind a rung.

    The best come first, of equals the earlier one; then those that look the same as an earlier one,
    then those without a score. Beams are all different: where there are fewer, each has more
    copies. Copies take fresh `seeds`.
    """
    runners, repeated, seen = list[Runner](), set[NoisePath](), set[bytes]()
    for path in field.paths:
        score, look = rating.scores[path.seed], rating.looks.get(path.seed)
        runners.append(Runner(path, score if math.isfinite(score) else None))
        if look is not None and look in seen:
            repeated.add(path)
        elif look is not None:
            seen.add(look)

    def worth(runner: Runner) -> tuple[bool, bool, float]:
        if runner.score is None:
            return True, False, 0.0
        return False, runner.path in repeated, -runner.score

    order = sorted(runners, key=worth)
    different = [runner for runner in order if runner.path not in repeated]
    kept = (different if rung.copies > 1 else order)[: rung.keep]
    fresh, goes_on = iter(seeds), list[Runner]()
    for place, runner in enumerate(kept):
        width = 1 if rung.copies == 1 else len(range(place, rung.keep * rung.copies, len(kept)))
        copies = [runner.path.branched(next(fresh), rung.step) for _ in range(width - 1)]
        goes_on += [runner, *(Runner(path, runner.score) for path in copies)]
    dropped = [runner for runner in order if runner not in kept]
    return Look(Field(rung.step, tuple(goes_on)), tuple(dropped))


def carry_out(drafts: "Sequence[Draft]", field: Field) -> "list[Draft]":
    """Make drafts hold exactly a field's candidates, copies included; those left empty close.

    A copy stays in the draft of the candidate that it is a copy of.
    """
    paths = {path.seed: path for path in field.paths}
    left = []
    for draft in drafts:
        place = {seed: index for index, seed in enumerate(draft.seeds)}
        rows = [
            (place[origin], seed)
            for seed, path in paths.items()
            if (origin := path.until(field.step).seed) in place
        ]
        if not rows:
            draft.close()
            continue
        if all(draft.seeds[index] == seed for index, seed in rows):
            draft.keep(sorted(index for index, _ in rows))
        else:
            draft.branch([index for index, _ in rows], [seed for _, seed in rows])
        left.append(draft)
    return left


def joined(drafts: "Sequence[Draft]", size: int) -> "list[Draft]":
    """Join neighbours into drafts of at most `size` candidates: what was dropped made room."""
    together: list[Draft] = []
    for draft in drafts:
        if together and len(together[-1].seeds) + len(draft.seeds) <= size:
            together[-1].join(draft)
        else:
            together.append(draft)
    return together


def replay(
    paths: Sequence[NoisePath], step: int, advance: "Callable[[Draft, int], bool]", draft: "Draft"
) -> bool:
    """Take a draft, begun with the first seeds of `paths`, to `step`, branching on the way.

    Returns False, with the draft somewhere between, if `advance` does.
    """
    for end in sorted({branch.end for path in paths for branch in path.past}):
        if not advance(draft, end):
            return False
        before = {path.seed: i for i, path in enumerate(parts(paths, end))}
        after = parts(paths, end + 1)
        draft.branch([before[path.until(end).seed] for path in after], [p.seed for p in after])
    return advance(draft, step)


def parts(paths: Sequence[NoisePath], step: int) -> list[NoisePath]:
    """Return what the paths are before a branch at `step`, each once."""
    return list(dict.fromkeys(path.until(step) for path in paths))
