"""A thousand requests that share batches, a tenth of them broken in twelve ways."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from lame_runtime import Encoder
from running_server import RunningServer, load_tiny, running
from soak.mixed_requests import MixedRequest, mixed_requests
from soak.soak_clients import Seen, run_clients

CLIENTS = 32


def send_all(server: RunningServer, requests: list[MixedRequest]) -> tuple[Seen, set[int]]:
    """Sends all requests; returns what was seen, and the states of readiness meanwhile."""
    seen, ready, is_over = Seen(), set[int](), threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            ready.add(server.client.get("/v1/health/ready").status_code)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        asyncio.run(run_clients(server.url, iter(requests), CLIENTS, seen))
    finally:
        is_over.set()
        watcher.join()
    return seen, ready


@pytest.fixture(params=["fp32", "int8-cpu"])
def load(request: pytest.FixtureRequest, exported: Path) -> Callable[[], Encoder]:
    """Returns a function that loads a bundle on the graph."""
    if request.param == "fp32":
        return load_tiny
    return lambda: Encoder.load(exported, graph="int8-cpu", threads=1)


def test_bad_items_fail_alone(load: Callable[[], Encoder]) -> None:
    """Each bad one is a 400 that names its item; each good one has the bytes of its items alone."""
    with load() as encoder:
        requests = mixed_requests(encoder, 1000, seed=1)
    with running(load=load) as server:
        seen, ready = send_all(server, requests)
        # they did share batches, else this would show nothing
        batches = server.figure("lame_batch_items_count")
        assert server.figure("lame_batch_items_sum") > 2 * batches
    assert seen.faults == []
    assert ready == {200}
    # a twentieth hangs up
    broken = sum(bool(request.place) for request in requests)
    assert broken == 100
    assert seen.outcomes == {
        "refused, as it must be": broken,
        "hung up": 50,
        "right, to the bit": 850,
    }


def test_another_vector_is_seen() -> None:
    """The control: answers with the vectors of other items are faults."""
    with load_tiny() as encoder:
        requests = mixed_requests(encoder, 20, seed=1)
    with running() as server:
        backend = server.service.encoder.backend
        run = backend.run
        backend.run = lambda batch: run(batch)[:, ::-1]  # type: ignore[method-assign]
        seen, _ = send_all(server, requests)
    assert "another vector than that of the item alone" in seen.faults
