"""What our own OpenAPI schema promises, tried with what schemathesis makes up from it."""

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import SECONDS

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from schemathesis import checks  # noqa: E402

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "gen"), str(TESTS / "ui")]
from fake_site import FakeSite, serve_fakes  # noqa: E402

pytestmark = pytest.mark.slow

IN_SUITE = SECONDS < 120
EXAMPLES = 8  # of each path, between looks at the clock
PROMISES = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FakeSite]:
    with serve_fakes(tmp_path) as site:
        yield site


def test_any_request_is_answered_as_the_schema_says(site: FakeSite) -> None:
    schema = schemathesis.openapi.from_url(f"{site.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    paths = {operation.path for operation in operations}
    assert {"/v1/images/generations", "/v1/rerank", "/sdapi/v1/txt2img", "/metrics"} <= paths
    ends = time.monotonic() + (0 if IN_SUITE else SECONDS / 4)
    number = 0 if IN_SUITE else random.randrange(2**32)
    is_first = True
    while is_first or time.monotonic() < ends:
        is_first, number = False, number + 1
        for operation in operations:
            _try(operation, number)


def _try(operation: Any, number: int) -> None:
    @hypothesis.seed(number)
    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def promise_holds(case: Any) -> None:
        case.call_and_validate(checks=PROMISES, timeout=120)

    promise_holds()
