"""Attributes of OpenTelemetry's current span, if OpenTelemetry is installed and has made one.

`opentelemetry-instrument` starts a span for each request of Starlette; these are its details.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from opentelemetry import trace
except ImportError:
    trace = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from lame_runtime.serving.scheduling.jobs import Job


def describe_request(job: Job, items: int) -> None:
    """Adds what a request took to the current span: items, tokens, and the slowest item's steps."""
    if trace is None:
        return
    # a span that records nothing takes them as well
    trace.get_current_span().set_attributes(
        {
            "lame.items": items,
            "lame.tokens": job.tokens,
            "lame.vision_tokens": job.vision_tokens,
            "lame.prepare_seconds": job.times.prepare,
            "lame.queue_seconds": job.times.queue,
            "lame.inference_seconds": job.times.run,
        }
    )
