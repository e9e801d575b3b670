"""Whether vectors really come out: a server may be alive and answer every request wrongly."""

from __future__ import annotations

import time
from typing import Literal

Phase = Literal["starting", "serving", "draining"]
FRESH_SECONDS = 1.0
"""Age of the last vector that still shows that the backend works; later it is tried again."""


class Health:
    """Knows how the backend has fared. Threads may share it.

    Args:
        longest_run: seconds after which a run counts as one that hangs.
    """

    def __init__(self, longest_run: float) -> None:
        # plain attributes: each is written whole, and a question may see the value before
        self.phase: Phase = "starting"
        self.is_lost = False
        """Whether the backend failed with an input that it can embed, and not yet succeeded."""
        self._longest_run = longest_run
        self._running_since: float | None = None
        self._last_success = float("-inf")

    def begin(self) -> None:
        """Notes that a run begins."""
        self._running_since = time.monotonic()

    def end(self) -> None:
        """Notes that a run has ended, well or not."""
        self._running_since = None

    def succeeded(self) -> None:
        """Notes that a vector came out."""
        self._last_success = time.monotonic()

    def lost(self) -> None:
        """Notes that the backend fails."""
        self.is_lost = True

    def recovered(self) -> None:
        """Notes that the backend works again."""
        self.is_lost = False

    @property
    def problem(self) -> str | None:
        """Why the server is not ready, in one line; None if it is."""
        # read once, because another thread may set it to None meanwhile
        since = self._running_since
        if self.phase != "serving":
            return f"the server is {self.phase}"
        if self.is_lost:
            return "the backend fails"
        if since is not None and time.monotonic() - since > self._longest_run:
            return "the backend hangs"
        return None

    @property
    def must_probe(self) -> bool:
        """Whether nothing runs, and the last vector is old."""
        # a run that goes on says enough: the probe would wait for it
        is_old = time.monotonic() - self._last_success > FRESH_SECONDS
        return self.problem is None and self._running_since is None and is_old
