"""No text and no file from outside ends a parser, or keeps it busy."""

import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import (
    LIMIT,
    SECONDS,
    Parser,
    all_parsers,
    as_bytes,
    find_cases,
    inputs,
    long_inputs,
    odd_inputs,
    place_of,
)
from hypothesis import HealthCheck, given, seed, settings
from mutating import Mutator

PARSERS = all_parsers()
IN_SUITE = SECONDS < 120
# Within the suite, on any machine and under coverage, this only finds what grows faster than its
# input; `make fuzz` holds the limit itself.
ALLOWED = 10 * LIMIT if IN_SUITE else LIMIT
PAIRS = 60 if IN_SUITE else None
BLOCK = 200  # inputs between looks at the clock
SHOWN = 2000  # characters of an input
each = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)


class Tally:
    """What came of the inputs of a parser: how many, the kinds of failures, the slowest."""

    def __init__(self, parser: Parser, folder: Path) -> None:
        self.parser, self.folder = parser, folder
        self.tried = 0
        self.slowest: tuple[float, Any] = 0.0, parser.signs[0][:0]
        self.failures: dict[str, Any] = {}  # by kind, the first input
        for example in parser.examples:
            parser.trial(example, folder)  # which imports what it needs

    def add(self, given_one: Any) -> str:
        """Try an input; the way in which it was answered."""
        self.tried += 1
        try:
            took, way = self.parser.trial(given_one, self.folder)
            if took > ALLOWED:  # of some tries, since one may be slow by the machine
                took = min(self.parser.trial(given_one, self.folder).seconds for _ in range(5))
        except Exception as error:  # each kind is wanted, not the first alone
            way = place_of(error)
            self.failures.setdefault(f"{way}: {error!r:.200}", given_one)
            return way
        if took > ALLOWED:
            self.failures.setdefault(f"{took:.2f} s", given_one)
        if took > self.slowest[0]:
            self.slowest = took, given_one
        return way

    def __str__(self) -> str:
        seconds, slowest = self.slowest
        size = len(as_bytes(slowest))
        return (
            f"{self.parser.name:36} {self.tried:9,} inputs, {len(self.failures)} failures, "
            f"slowest {1000 * seconds:5.1f} ms ({size} bytes, {slowest[:30]!r})"
        )

    def check(self) -> None:
        """Print the figures, and fail with an input of each kind of failure."""
        print(self)
        shown = [f"{kind} for {given_one!r:.{SHOWN}}" for kind, given_one in self.failures.items()]
        assert not shown, "\n".join([self.parser.name, *shown])


@pytest.fixture(scope="module")
def tallies() -> Iterator[list[Tally]]:
    found: list[Tally] = []
    yield found
    slowest = max(found, key=lambda each: each.slowest[0], default=None)
    print(
        f"all: {sum(each.tried for each in found):,} inputs, "
        f"{sum(len(each.failures) for each in found)} failures, slowest: {slowest}"
    )


@pytest.fixture
def tally(parser: Parser, tmp_path: Path, tallies: list[Tally]) -> Tally:
    tallies.append(Tally(parser, tmp_path))
    return tallies[-1]


@each
def test_every_input_is_read_in_time(tally: Tally) -> None:
    for long in [*find_cases(tally.parser), *long_inputs(tally.parser, PAIRS)]:
        tally.add(long)
    tally.check()


@each
def test_every_input_is_read_or_refused(tally: Tally) -> None:
    number = 0 if IN_SUITE else random.randrange(2**32)

    @seed(number)
    @settings(
        max_examples=BLOCK, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(inputs(tally.parser))
    def trial(given_one: Any) -> None:
        tally.add(given_one)

    trial()
    for given_one in [*find_cases(tally.parser), *odd_inputs(tally.parser)]:
        tally.add(given_one)
    changing, ends = Mutator(tally.parser, number), time.monotonic() + SECONDS / len(PARSERS)
    while tally.tried < 2 * BLOCK or time.monotonic() < ends:
        for given_one in itertools.islice(changing, BLOCK):
            changing.learn(given_one, tally.add(given_one))
    tally.check()
