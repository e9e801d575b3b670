"""The OpenAPI page describes what the server does: requests made from it are never a surprise."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from running_server import RunningServer
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = (
    "POST /v1/embeddings",
    "POST /v2/embed",
    "GET /v1/models",
    "GET /v1/health/ready",
    "GET /openapi.json",
)


@pytest.fixture(scope="module")
def page(server: RunningServer) -> dict[str, Any]:
    """Returns the page."""
    body: dict[str, Any] = server.client.get("/openapi.json").json()
    return body


@pytest.mark.parametrize("name", OPERATIONS)
def test_requests_made_from_the_page_are_answered_as_it_says(
    name: str, page: dict[str, Any], server: RunningServer
) -> None:
    """No request ends in a 5xx, and each answer has a status and a body that the page names."""
    method, route = name.split()
    operation = schemathesis.openapi.from_dict(page)[route][method]

    @given(case=operation.as_strategy())
    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def answered(case: Any) -> None:
        case.call_and_validate(base_url=server.url, checks=CHECKS)

    answered()


def test_the_page_lists_every_route(page: dict[str, Any], server: RunningServer) -> None:
    """With its methods, and every key of a request."""
    routes = {
        route.path: sorted((route.methods or set()) - {"HEAD"})
        for route in server.server.config.app.routes  # type: ignore[union-attr]
    }
    assert {
        path: sorted(map(str.upper, methods)) for path, methods in page["paths"].items()
    } == routes
    request = page["components"]["schemas"]["EmbeddingsRequest"]
    assert request["additionalProperties"] is False
    assert {"input", "messages", "dimensions", "truncate"} <= set(request["properties"])
