"""How much work is accepted at one time: all of a request or nothing, before it is decoded."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from lame_runtime.serving.api.api_errors import ApiError

if TYPE_CHECKING:
    from typing_extensions import Self


class Admission:
    """Counts the items and bytes of all requests in the server.

    Args:
        items: most items at one time.
        size: most bytes of bodies at one time.
    """

    def __init__(self, items: int, size: int) -> None:
        self._most_items = items
        self._most_bytes = size
        self._lock = threading.Lock()
        self.items = 0
        """Items of requests that were accepted and are not answered."""
        self.bytes = 0
        self.requests = 0
        """Requests that are being read or answered."""

    def ticket(self) -> Ticket:
        """Returns the share of one request; use it as a context manager."""
        return Ticket(self)

    def take(self, items: int, size: int) -> None:
        """Takes items and bytes, or nothing.

        Raises:
            ApiError: 429, the server is full.
        """
        # both under one lock: two requests must not share the last free place
        with self._lock:
            if self.items + items > self._most_items:
                what = f"{self.items:,} of {self._most_items:,} items are being embedded"
            elif self.bytes + size > self._most_bytes:
                what = f"{self.bytes / 1e6:.0f} MB of requests are being read"
            else:
                self.items += items
                self.bytes += size
                return
        raise ApiError(
            429, f"the server is full: {what}; try again later", "queue_full", retry_after=1
        )

    def change_requests(self, change: int) -> None:
        """Counts a request that begins (1) or ends (-1)."""
        with self._lock:
            self.requests += change

    def give_back(self, items: int, size: int) -> None:
        """Gives items and bytes back."""
        with self._lock:
            self.items -= items
            self.bytes -= size


class Ticket:
    """The items and bytes that one request holds, given back at its end."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._items = self._bytes = 0

    def take(self, *, items: int = 0, size: int = 0) -> None:
        """Takes more; raises the `ApiError` 429 if there is not enough."""
        # the server first: what was refused must not be given back
        self._admission.take(items, size)
        self._items += items
        self._bytes += size

    def exchange(self, size: int) -> None:
        """Gives back what the request took, and counts a reply of `size` bytes, even without room.

        The work is done and the reply is in memory; the next requests find less room.
        """
        self._admission.give_back(self._items, self._bytes - size)
        self._items, self._bytes = 0, size

    def __enter__(self) -> Self:
        self._admission.change_requests(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.give_back(self._items, self._bytes)
        self._admission.change_requests(-1)
