"""The OpenAPI page describes what the server does: requests made from it are never a surprise."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from running_server import RunningServer
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
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


def hold(page: dict[str, Any], name: str, server: RunningServer) -> None:
    """Sends requests made from a page, and compares the answers with it."""
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


@pytest.mark.parametrize("name", OPERATIONS)
def test_requests_made_from_the_page_are_answered_as_it_says(
    name: str, page: dict[str, Any], server: RunningServer
) -> None:
    """No request ends in a 5xx, and each answer has a status and a body that the page names."""
    hold(page, name, server)


def test_a_page_that_says_something_else_is_seen(
    page: dict[str, Any], server: RunningServer
) -> None:
    """The control: without the status of mistakes, and with another reply."""
    for change in ("status", "reply"):
        other = copy.deepcopy(page)
        if change == "status":
            del other["paths"]["/v1/embeddings"]["post"]["responses"]["400"]
        else:
            other["components"]["schemas"]["ErrorReply"]["required"] = ["detail"]
        with pytest.raises(FailureGroup):
            hold(other, "POST /v1/embeddings", server)


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
