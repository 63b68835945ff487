"""What our own OpenAPI schema promises, tried with what schemathesis makes up from it."""

import pytest
from fake_site import FakeSite

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from schemathesis import checks  # noqa: E402

pytestmark = pytest.mark.slow

EXAMPLES = 15  # of each path
PROMISES = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)


def test_any_request_is_answered_as_the_schema_says(quick: FakeSite) -> None:
    schema = schemathesis.openapi.from_url(f"{quick.url}/openapi.json")
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def promise_holds(case) -> None:  # type: ignore[no-untyped-def]
            case.call_and_validate(checks=PROMISES, timeout=120)

        promise_holds()
        tried.add(operation.path)
    assert {"/v1/images/generations", "/v1/rerank", "/sdapi/v1/txt2img", "/metrics"} <= tried
