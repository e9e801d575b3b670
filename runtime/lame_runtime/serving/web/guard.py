"""The key, and what is counted of every request."""

from __future__ import annotations

import hmac
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lame_runtime.serving.api.api_errors import ApiError
from lame_runtime.serving.figures import Figures

OPEN_ROUTES = ("/", "/v1/health/live", "/v1/health/ready")
"""Routes without a key: the page, which asks for it, and those for orchestrators.

All others need one, also those that do not exist.
"""


class Guard:
    """Checks the key and counts requests, around the whole application.

    Args:
        app: the application.
        keys: keys that are accepted; none accepts every request.
        figures: figures.
        routes: paths that are counted by name.
    """

    def __init__(
        self, app: ASGIApp, keys: tuple[str, ...], figures: Figures, routes: frozenset[str]
    ) -> None:
        self._app = app
        self._keys = [key.encode("ascii") for key in keys]
        self._figures = figures
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, code = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            # the whole path: a prefix would open routes that begin like one
            if scope["path"] in OPEN_ROUTES or self._accepts(scope):
                await self._app(scope, receive, counted)
            else:
                self._figures.rejections.labels("invalid_api_key").inc()
                await _refusal().response()(scope, receive, counted)
        finally:
            # a path of the client's own would make a row of its own
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._figures.requests.labels(route, str(code)).inc()
            self._figures.request_seconds.labels(route).observe(time.perf_counter() - start)

    def _accepts(self, scope: Scope) -> bool:
        if not self._keys:
            return True
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = key.strip().encode("utf-8", "replace")
        # each is compared, so that the time says nothing about any of them
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        return scheme.lower() == "bearer" and any(matches)


def _refusal() -> ApiError:
    return ApiError(
        401,
        "the key is missing or wrong: send the header `Authorization: Bearer KEY`",
        headers={"www-authenticate": "Bearer"},
    )
