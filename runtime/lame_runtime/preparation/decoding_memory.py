"""Shares what one picture's decoder may take among all pictures that are decoded at one time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lame_runtime.contract.media.decoding_limits import MAX_DECODING_BYTES, Reserve
from lame_runtime.machine.memory import return_freed_memory

TRIMMED_BYTES = 32_000_000
"""Freed memory that is returned to the system at the end of a stream; less is not worth it."""


class DecodingMemory:
    """Lets threads decode while what their decoders need fits together; the others wait.

    Args:
        size: bytes that all of them may take.
    """

    def __init__(self, size: int = MAX_DECODING_BYTES) -> None:
        self._size = size
        self._left = size
        self._kept = 0
        """Bytes given back since freed memory was last returned to the system: the C library keeps
        what a thread freed for that thread alone. Eight threads kept 1,700 MB of pictures of
        60 megapixels that they had decoded one after the other."""
        self._freed = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def lease(self) -> Iterator[Reserve]:
        """Yields a function that changes what the calling thread holds, and takes it back at the
        end.

        The function waits until so many bytes are free. A thread that waits holds none, so threads
        never wait for each other in a circle. It must not be called under a lock that is also taken
        while memory is held.
        """
        held = 0

        def reserve(needed: int) -> None:
            nonlocal held
            # a decoder whose figure is too high for all has been refused by it
            needed = min(needed, self._size)
            if needed != held:
                self._give_back(held)
                held = 0
                self._take(needed)
                held = needed

        try:
            yield reserve
        finally:
            self._give_back(held)

    def _take(self, needed: int) -> None:
        # first come, first served: small pictures would otherwise overtake a large one forever
        with self._turn, self._freed:
            while self._left < needed:
                self._freed.wait()
            self._left -= needed
            # together with what is kept, there would be more than the size
            must_trim = self._kept > self._left
            if must_trim:
                self._kept = 0
        if must_trim:
            return_freed_memory()

    def close(self) -> None:
        """Returns freed memory to the system, once no thread decodes any more."""
        if self._kept >= TRIMMED_BYTES:
            self._kept = 0
            return_freed_memory()

    def _give_back(self, held: int) -> None:
        if held:
            with self._freed:
                self._left += held
                self._kept += held
                self._freed.notify_all()
