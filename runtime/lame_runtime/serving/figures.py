"""Figures for Prometheus: requests, items, tokens, patches, the queue, batches and seconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lame_runtime.batching import patch_count
from lame_runtime.contract.preparer import Prepared

if TYPE_CHECKING:
    from lame_runtime.serving.scheduling.fair_queue import FairQueue

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (64, 256, 1024, 2048, 4096, 8192, 16_384, 32_768)


class Figures:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        # not the registry of the process, to which a program may add its own
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lame_requests", "Requests by route and status.", ["route", "code"], registry=registry
        )
        self.request_seconds = Histogram(
            "lame_request_seconds", "Time of a request.", ["route"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.rejections = Counter(
            "lame_rejections", "Requests that were refused, by reason.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.items = Counter("lame_items", "Items that were embedded.", registry=registry)
        self.dropped = Counter(
            "lame_dropped_items", "Items that were not embedded, as their request had ended.",
            registry=registry,
        )  # fmt: skip
        self.tokens = Counter("lame_tokens", "Tokens that ran, without padding.", registry=registry)
        self.patches = Counter("lame_patches", "Patches that ran.", registry=registry)
        self.batch_items = self._histogram("batch_items", "Items of a batch.", _ITEMS)
        self.batch_tokens = self._histogram(
            "batch_tokens", "Tokens of a batch, padding included.", _TOKENS
        )
        self.prepare_seconds = self._histogram("prepare_seconds", "Preparing an item.", _SECONDS)
        self.queue_seconds = self._histogram(
            "queue_seconds", "Waiting of a prepared item for its batch.", _SECONDS
        )
        self.run_seconds = self._histogram("run_seconds", "Running a batch.", _SECONDS)
        self.queue_items = Gauge(
            "lame_queue_items", "Items that were accepted and are not answered.", registry=registry
        )
        self.ready = Gauge("lame_ready", "Whether the server is ready.", registry=registry)

    def page(self) -> bytes:
        """Returns the figures as Prometheus reads them."""
        return generate_latest(self._registry)

    @contextlib.contextmanager
    def measured_run(self, items: Sequence[Prepared]) -> Iterator[None]:
        """Measures the run of a batch, and counts what it held if it succeeds."""
        # a batch that fails is not counted: its items run again
        start = time.perf_counter()
        yield
        self.run_seconds.observe(time.perf_counter() - start)
        lengths = [len(item.ids) for item in items]
        self.batch_items.observe(len(items))
        self.batch_tokens.observe(len(items) * max(lengths))
        self.items.inc(len(items))
        self.tokens.inc(sum(lengths))
        self.patches.inc(sum(map(patch_count, items)))

    def count_dropped(self, queue: FairQueue) -> None:
        """Counts the items that a queue has dropped since the last call."""
        self.dropped.inc(queue.dropped)
        # the queue counts without a lock of Prometheus'; here its count moves on
        queue.dropped = 0

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"lame_{name}", text, buckets=buckets, registry=self._registry)
