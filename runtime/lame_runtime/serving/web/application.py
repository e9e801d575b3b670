"""Routes and error handlers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lame_runtime.serving.api.api_errors import ApiError, unavailable
from lame_runtime.serving.requests.cohere_request import read_cohere
from lame_runtime.serving.requests.openai_request import read_openai
from lame_runtime.serving.retrieval.search_request import read_search
from lame_runtime.serving.retrieval.thumbnail_route import thumbnail_route
from lame_runtime.serving.web.embedding_route import embedding_route
from lame_runtime.serving.web.guard import Guard
from lame_runtime.serving.web.page.page_route import page_route
from lame_runtime.serving.web.server_state import ServerState
from lame_runtime.serving.web.status_routes import (
    Endpoint,
    live_route,
    metrics_route,
    models_route,
    openapi_route,
    ready_route,
)

logger = logging.getLogger(__name__)

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def make_application(state: ServerState, lifespan: Lifespan | None = None) -> Starlette:
    """Returns the ASGI application.

    Args:
        state: the server.
        lifespan: what happens before the first request and after the last; by default, the bundle
            is loaded and released.
    """
    openai, cohere = embedding_route(state, read_openai), embedding_route(state, read_cohere)
    ready = ready_route(state)
    posts: dict[str, Endpoint] = {
        "/v1/embeddings": openai,
        "/embeddings": openai,
        "/v2/embed": cohere,
    }
    gets: dict[str, Endpoint] = {
        "/": page_route(is_search=state.index is not None),
        "/health": ready,
        "/v1/health/live": live_route(state),
        "/v1/health/ready": ready,
        "/v1/models": models_route(state),
        "/metrics": metrics_route(state),
        "/openapi.json": openapi_route(state),
    }
    if state.index is not None:
        search = embedding_route(state, read_search(state.index))
        posts["/v1/search"] = search
        gets["/v1/search/thumbnails/{row}"] = thumbnail_route(state, state.index)
    # every route by itself, because Starlette would raise an unknown error once more
    routes = [
        Route(path, _safe(state, endpoint), methods=["POST"]) for path, endpoint in posts.items()
    ]
    routes += [
        Route(path, _safe(state, endpoint), methods=["GET"]) for path, endpoint in gets.items()
    ]
    guard = Middleware(
        Guard,
        keys=state.options.api_keys,
        figures=state.figures,
        routes=frozenset({*posts, *gets}),
    )
    app = Starlette(
        routes=routes,
        middleware=[guard],
        exception_handlers={HTTPException: _framework_error},
        lifespan=lifespan or (lambda _: _loaded(state)),
    )
    # a redirect would lose the body of a POST
    app.router.redirect_slashes = False
    return app


@contextlib.asynccontextmanager
async def _loaded(state: ServerState) -> AsyncIterator[None]:
    await state.start()
    try:
        yield
    finally:
        state.close()


def _safe(state: ServerState, endpoint: Endpoint) -> Endpoint:
    """Returns an endpoint that answers every error in our shape, and logs those nobody expects."""

    async def safe(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ApiError as error:
            problem = error
        except asyncio.CancelledError:
            # uvicorn cancels what is left at its end, and would log a traceback
            if not state.ending.is_set():
                raise
            problem = unavailable("the server has ended", "draining", 5)
        except Exception as error:
            logger.error("a request failed: %s: %s", type(error).__name__, error)
            problem = ApiError(500, "the server failed on this request", "internal_error")
        state.figures.rejections.labels(problem.code).inc()
        return problem.response()

    return safe


async def _framework_error(_: Request, error: Exception) -> Response:
    """Returns Starlette's own errors, such as 404 and 405, in our shape."""
    assert isinstance(error, HTTPException)
    messages = {
        404: "there is no such route: see /openapi.json",
        405: "the route does not take this method: see /openapi.json",
    }
    message = messages.get(error.status_code, "the request cannot be answered")
    code = "method_not_allowed" if error.status_code == 405 else None
    headers = dict(error.headers or {})
    return ApiError(error.status_code, message, code, headers=headers).response()
