"""No text and no file from outside ends a parser, or keeps it busy."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
from fuzzing import LIMIT, SECONDS, Parser, all_parsers, find_cases, inputs, long_inputs
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
    for example in parser.examples:
        parser.trial(example, tmp_path)  # what is imported when first needed is not counted
    slow = []
    for long in [*find_cases(parser), *long_inputs(parser, PAIRS)]:
        if parser.trial(long, tmp_path) > ALLOWED:  # perhaps the machine was; more tries show it
            took = min(parser.trial(long, tmp_path) for _ in range(5))
            slow += [(took, long[:40])] if took > ALLOWED else []
    assert not slow


@each
def test_every_input_is_read_or_refused(parser: Parser, tmp_path: Path) -> None:
    ends = time.monotonic() + SECONDS / len(PARSERS)
    number = 0 if IN_SUITE else random.randrange(2**32)
    tried = 0
    while tried == 0 or time.monotonic() < ends:

        @seed(number + tried)
        @settings(
            max_examples=BLOCK, deadline=None, database=None, suppress_health_check=[*HealthCheck]
        )
        @given(inputs(parser))
        def trial(given: Any) -> None:
            assert parser.trial(given, tmp_path) < 10 * LIMIT

        trial()
        tried += BLOCK
    print(f"{parser.name}: {tried} inputs from seed {number}")
