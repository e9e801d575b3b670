"""Health, models, figures and the OpenAPI page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lame_runtime.serving.api.openapi_page import openapi_page
from lame_runtime.serving.web.server_state import ServerState

Endpoint = Callable[[Request], Awaitable[Response]]


def live_route(_: ServerState) -> Endpoint:
    """Returns the endpoint that answers as long as the process does."""

    async def live(_: Request) -> Response:
        return _json({"object": "health.response", "message": "live", "live": True})

    return live


def ready_route(state: ServerState) -> Endpoint:
    """Returns the endpoint that answers 200 if vectors come out, else 503."""

    async def ready(_: Request) -> Response:
        problem = await state.problem()
        message = problem or "ready"
        body = {"object": "health.response", "message": message, "ready": problem is None}
        if problem is None:
            return _json(body)
        return _json(body, 503, {"retry-after": "1"})

    return ready


def models_route(state: ServerState) -> Endpoint:
    """Returns the endpoint that describes the model."""

    async def models(_: Request) -> Response:
        service = state.service
        # an empty list while the bundle is loaded, as there is no model yet
        data = [] if service is None else [service.facts()]
        if data and state.index is not None:
            data[0]["index"] = {"rows": len(state.index), "columns": state.index.columns}
        return _json({"object": "list", "data": data})

    return models


def metrics_route(state: ServerState) -> Endpoint:
    """Returns the endpoint with the figures for Prometheus."""

    async def metrics(_: Request) -> Response:
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        return Response(state.figures.page(), media_type=media_type)

    return metrics


def openapi_route(state: ServerState) -> Endpoint:
    """Returns the endpoint with the description of all routes."""
    # made once: it does not depend on the bundle
    page = msgspec.json.encode(openapi_page(has_search=state.index is not None))

    async def openapi(_: Request) -> Response:
        return Response(page, media_type="application/json")

    return openapi


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
