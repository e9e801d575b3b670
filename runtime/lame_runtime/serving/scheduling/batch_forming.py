"""Which of the items that are ready run together, by the planner that `Encoder.encode` uses."""

from __future__ import annotations

from collections.abc import Iterable

from lame_runtime.batching import PATCHES_PER_TOKEN, plan_batches
from lame_runtime.serving.scheduling.jobs import Task

MAX_ITEMS = 256
"""Most items of a batch: beyond that, a run only takes longer."""
WINDOW_BATCHES = 4
"""Batches that the items are sorted for: the more, the less padding, and the more time it takes."""


def form_batch(candidates: Iterable[Task], batch_tokens: int) -> list[Task]:
    """Returns the items that run next: the first candidate, and others that go well with it.

    Args:
        candidates: items that are ready, in the order of their turns.
        batch_tokens: tokens of a batch, padding included, and two patches for each; a larger item
            runs alone.
    """
    window: list[Task] = []
    prepared = []
    tokens = 0
    for task in candidates:
        assert task.prepared is not None
        window.append(task)
        prepared.append(task.prepared)
        # without padding, which is known only when the batches are
        tokens += len(task.prepared.ids)
        if tokens >= WINDOW_BATCHES * batch_tokens or len(window) >= WINDOW_BATCHES * MAX_ITEMS:
            break
    # longest first; a candidate that fits badly has a small batch of its own
    plan = plan_batches(
        prepared,
        MAX_ITEMS,
        max_tokens=batch_tokens,
        max_patches=PATCHES_PER_TOKEN * batch_tokens,
    )
    # whoever has waited longest runs in any case; the rest is planned again with what comes
    return next(([window[row] for row in rows] for rows in plan if 0 in rows), [])
