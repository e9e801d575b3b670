"""A reply that counts as long as it is in the server, in pieces that wait for the client."""

from __future__ import annotations

from contextlib import ExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PIECE_BYTES = 1 << 18
"""Bytes that are handed over at one time; the next piece waits until the client has read."""


class HeldReply(Response):
    """A JSON reply that releases what it holds once the client has it, or has gone.

    Args:
        content: the body.
        headers: more headers.
        held: closed at the end.
    """

    media_type = "application/json"

    def __init__(self, content: bytes, headers: dict[str, str], held: ExitStack) -> None:
        super().__init__(content, headers=headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Sends the reply."""
        body = memoryview(self.body)
        with self._held:
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            for begin in range(0, max(1, len(body)), PIECE_BYTES):
                end = begin + PIECE_BYTES
                piece = {"body": bytes(body[begin:end]), "more_body": end < len(body)}
                await send({"type": "http.response.body", **piece})
