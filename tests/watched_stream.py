"""Inputs, preparers and backends that watch a stream while it runs."""

from __future__ import annotations

import io
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.contract.batch import Batch, Floats
from lame_runtime.contract.preparer import Prepared
from lame_runtime.contract.prompts import Input
from lame_runtime.preparation.thread_pool import THREAD_NAME
from PIL import Image

PATIENCE = 60.0
"""Seconds after which a test that waits for another thread fails instead of waiting on."""


def png(number: int = 0, size: tuple[int, int] = (64, 64)) -> bytes:
    """Returns the file of a picture, one of its own for each number."""
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def every_kind(folder: Path, count: int) -> list[Any]:
    """Returns inputs of all kinds in turn, some of which share an object that is not loaded yet."""
    (folder / "a.png").write_bytes(png(1000, (90, 60)))
    shared = Image.open(folder / "a.png")
    frames = [Image.open(folder / "a.png"), png(1001, (90, 60)), np.zeros((60, 90, 3), np.uint8)]
    kinds: list[Callable[[int], Any]] = [
        lambda number: "word " * (number % 13 + 1) + str(number),
        lambda number: png(number, (56 + number % 40, 60)),
        lambda number: {"image": shared, "text": str(number)},
        lambda number: {"video": frames, "fps": 2, "text": str(number)},
        lambda number: folder / "a.png",
        lambda number: {"content": [png(number), "and", png(number + 1)]},
    ]
    return [kinds[number % len(kinds)](number) for number in range(count)]


class WatchedPreparer(Preparer):
    """Calls a function before each input, and counts the bytes of prepared inputs that are held.

    Args:
        inner: the preparer that does the work.
        before: called with each input, by the thread that prepares it.
    """

    def __init__(self, inner: Preparer, before: Callable[[Input], object] = lambda _: None) -> None:
        super().__init__(inner.contract, inner.tokenizer)
        self.before = before
        self.held = self.most_held = 0
        self._lock = threading.RLock()

    def __call__(self, item: Input, *arguments: Any, **keywords: Any) -> Prepared:
        """Prepares one input."""
        self.before(item)
        prepared = super().__call__(item, *arguments, **keywords)
        self._change(prepared.nbytes)
        weakref.finalize(prepared, self._change, -prepared.nbytes)
        return prepared

    def _change(self, size: int) -> None:
        with self._lock:
            self.held += size
            self.most_held = max(self.most_held, self.held)


class WatchedBackend(FakeBackend):
    """Keeps the arrays of all batches, and calls a function before each."""

    def __init__(self, before: Callable[[int], object] = lambda _: None) -> None:
        super().__init__()
        self.before = before
        self.batches: list[tuple[bytes, ...]] = []

    def run(self, batch: Batch) -> Floats:
        """Returns the vectors of a batch."""
        self.before(len(self.batches))
        pictures = [group.frames for group in batch.groups]
        arrays = [batch.input_ids, batch.position_ids, batch.feature_index, *pictures]
        self.batches.append(tuple(array.tobytes() for array in arrays))
        return super().run(batch)


def preparing_threads() -> list[str]:
    """Returns the names of the threads that prepare inputs."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(THREAD_NAME)]
