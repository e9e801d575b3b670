"""Connections: uvicorn's protocol, with limits on those that send no request or read no reply."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30.0
"""Longest time from the start of a connection to its first request. Idle connections would use up
the descriptors of the process, also those of health."""
UNREAD_SECONDS = 30.0
"""Longest time that a client may leave what it was sent in the buffer. Replies would fill the
memory, and a server that ends would wait for them."""


class HttpProtocol(H11Protocol):
    """One connection."""

    _silence: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Starts the time that the first request may take to come."""
        super().connection_made(transport)
        self._silence = self.loop.call_later(HEADER_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the times."""
        self._end_silence()
        self._end_unread()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Handles what came; the time stops when the header is complete."""
        super().handle_events()
        if self.cycle is not None:
            self._end_silence()

    def pause_writing(self) -> None:
        """Starts the time within which a client has to read, since the buffer is full."""
        super().pause_writing()
        # not close, which would wait until the buffer is empty
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stops the time, since the client has read most of the buffer."""
        super().resume_writing()
        self._end_unread()

    def _end_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def _end_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()

    def _unsupported_upgrade_warning(self) -> None:
        """Logs nothing: any client can ask for an upgrade, and there is no library to install."""
