"""Connections: uvicorn's protocol, with a limit on those that send no request."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30.0
"""Longest time from the start of a connection to its first request. Idle connections would use up
the descriptors of the process, also those of health."""


class HttpProtocol(H11Protocol):
    """One connection."""

    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Starts the time that the first request may take to come."""
        super().connection_made(transport)
        self._silence = self.loop.call_later(HEADER_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the time."""
        self._end_silence()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Handles what came; the time stops when the header is complete."""
        super().handle_events()
        if self.cycle is not None:
            self._end_silence()

    def _end_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()

    def _unsupported_upgrade_warning(self) -> None:
        """Logs nothing: any client can ask for an upgrade, and there is no library to install."""
