"""No text and no file from outside ends a parser, or keeps it busy."""

import itertools
import random
import time
from pathlib import Path
from typing import Any

import pytest
from fuzzing import (
    LIMIT,
    SECONDS,
    Parser,
    all_parsers,
    find_cases,
    inputs,
    long_inputs,
    mutations,
    odd_inputs,
)
from hypothesis import HealthCheck, given, seed, settings

PARSERS = all_parsers()
IN_SUITE = SECONDS < 120
# Within the suite, on any machine and under coverage, this only finds what grows faster than its
# input; `make fuzz` holds the limit itself.
ALLOWED = 10 * LIMIT if IN_SUITE else LIMIT
PAIRS = 60 if IN_SUITE else None
BLOCK = 200  # inputs between looks at the clock
each = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)


@each
def test_every_input_is_read_in_time(parser: Parser, tmp_path: Path) -> None:
    _import_what_it_needs(parser, tmp_path)
    slow = []
    for long in [*find_cases(parser), *long_inputs(parser, PAIRS)]:
        took = _seconds(parser, long, tmp_path, ALLOWED)
        slow += [(took, long[:40])] if took > ALLOWED else []
    assert not slow


@each
def test_every_input_is_read_or_refused(parser: Parser, tmp_path: Path) -> None:
    number = 0 if IN_SUITE else random.randrange(2**32)
    _import_what_it_needs(parser, tmp_path)

    @seed(number)
    @settings(
        max_examples=BLOCK, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(inputs(parser))
    def trial(given: Any) -> None:
        assert _seconds(parser, given, tmp_path, 10 * LIMIT) < 10 * LIMIT

    trial()
    tried, ends = BLOCK, time.monotonic() + SECONDS / len(PARSERS)
    for given_one in [*find_cases(parser), *odd_inputs(parser)]:
        _check(parser, given_one, tmp_path)
        tried += 1
    changing = mutations(parser, number)
    while tried < 2 * BLOCK or time.monotonic() < ends:
        for given_one in itertools.islice(changing, BLOCK):
            _check(parser, given_one, tmp_path)
        tried += BLOCK
    print(f"{parser.name}: {tried} inputs from seed {number}")


def _seconds(parser: Parser, given_one: Any, folder: Path, allowed: float) -> float:
    """The seconds that an input takes: of some tries, since one may be slow by the machine."""
    took = parser.trial(given_one, folder)
    return took if took <= allowed else min(parser.trial(given_one, folder) for _ in range(5))


def _import_what_it_needs(parser: Parser, folder: Path) -> None:
    for example in parser.examples:
        parser.trial(example, folder)


def _check(parser: Parser, given_one: Any, folder: Path) -> None:
    """Try an input; the error says what it was."""
    try:
        took = _seconds(parser, given_one, folder, 10 * LIMIT)
    except Exception as error:
        raise AssertionError(f"{parser.name} raises {error!r} for {given_one!r}") from error
    assert took < 10 * LIMIT, given_one
