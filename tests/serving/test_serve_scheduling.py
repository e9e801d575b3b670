"""Turns, batches, overload, clients that hang up, and backends that fail."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from lame_runtime import BackendError, DeviceError, Encoder, ProofError
from lame_runtime.batching import patch_count
from lame_runtime.contract.batch import assemble
from lame_runtime.contract.prompts import Input
from lame_runtime.isolation import probes
from lame_runtime.options import EncodeOptions
from lame_runtime.serving.requests import media_sources
from lame_runtime.serving.scheduling import scheduler as scheduler_module
from lame_runtime.serving.scheduling.batch_forming import form_batch
from lame_runtime.serving.scheduling.fair_queue import FairQueue
from lame_runtime.serving.scheduling.jobs import Job
from lame_runtime.serving.settings import ServeOptions
from running_server import (
    Gate,
    RunningServer,
    as_bytes,
    data_url,
    error_of,
    load_tiny,
    picture,
    running,
    vectors_of,
    wait_for,
)

TEXT = "seven"


def job_of(encoder: Encoder, items: list[Input]) -> Job:
    """Returns a job whose items are in the order of their places."""
    places = [f"input[{index}]" for index in range(len(items))]
    return Job(items, places, EncodeOptions(), encoder.preparer, encoder.dim)


def all_ready(queue: FairQueue, encoder: Encoder, jobs: list[Job]) -> None:
    """Adds jobs and prepares all that the queue gives out."""
    for job in jobs:
        queue.add(job)
    while task := queue.next_unprepared():
        queue.add_ready(task, encoder.preparer(task.item))


def test_requests_are_prepared_in_turn(encoder: Encoder) -> None:
    """One item of each, however many another has."""
    queue = FairQueue()
    long, short = job_of(encoder, [Input(TEXT)] * 5), job_of(encoder, [Input(TEXT)] * 2)
    queue.add(long)
    queue.add(short)
    order = [(task.job, task.index) for task in iter(queue.next_unprepared, None)]
    turns = [(long, 0), (short, 0), (long, 1), (short, 1), (long, 2), (long, 3), (long, 4)]
    assert order == turns


def test_prepared_pictures_are_bounded_and_keep_nobody_out(encoder: Encoder) -> None:
    """A list of pictures stops at the limit; a text and another request's picture go on."""
    image = Input(image=picture())
    size = job_of(encoder, [image]).waiting[0].size
    queue = FairQueue(3 * size)
    pictures, other = job_of(encoder, [image] * 50), job_of(encoder, [image] * 50)
    queue.add(pictures)
    for _ in range(3):
        task = queue.next_unprepared()
        assert task is not None
        # of the largest size that it can have
        task.size = 0
        task.prepared = encoder.preparer(image)
        pictures.ready[task.index] = task
    assert queue.held == 3 * size
    assert queue.next_unprepared() is None
    queue.add(other)
    queue.add(job_of(encoder, [Input(TEXT)]))
    jobs = [task.job for task in iter(queue.next_unprepared, None)]
    # `other` has none ready, so it may take as much again
    assert pictures not in jobs
    assert jobs.count(other) == 3
    assert len(jobs) == 4


def test_a_batch_keeps_to_its_budget_and_takes_the_first(encoder: Encoder) -> None:
    """Padding counts, and patches do; whoever is first runs, also if it fits badly."""
    queue = FairQueue()
    lengths = (3, 90, 4, 60, 5, 80, 2, 1)
    items = [Input("word " * length) for length in lengths]
    items += [Input(image=picture(1, 100, 80)) for _ in range(6)]
    jobs = [job_of(encoder, [item]) for item in items]
    all_ready(queue, encoder, jobs)
    budget, batches = 200, []
    while batch := form_batch(queue.candidates(), budget):
        assert batch[0].job in jobs
        assert next(iter(queue.candidates())) in batch
        prepared = [task.prepared for task in batch if task.prepared]
        longest = max(len(item.ids) for item in prepared)
        patches = sum(map(patch_count, prepared))
        assert len(batch) == 1 or (len(batch) * longest <= budget and patches <= 2 * budget)
        queue.take(batch)
        batches.append(batch)
    assert sum(map(len, batches)) == len(items)
    assert len(batches) > 4
    assert max(map(len, batches)) > 2
    assert queue.held == 0


def test_a_job_that_is_over_leaves_nothing(encoder: Encoder) -> None:
    """Neither in turns nor in memory."""
    queue = FairQueue()
    items = [Input(image=picture()), Input(TEXT), Input(image=picture())]
    gone, left = job_of(encoder, items), job_of(encoder, items)
    all_ready(queue, encoder, [gone, left])
    held = queue.held
    gone.outcome.cancel()
    assert {task.job for task in queue.candidates()} == {left}
    assert queue.held == held // 2
    assert queue.dropped == 3
    queue.discard(left)
    assert (queue.held, queue.dropped) == (0, 6)


@contextmanager
def gated(options: ServeOptions | None = None) -> Iterator[tuple[RunningServer, Gate]]:
    """Runs a server whose backend waits for a gate, and opens it at the end."""
    with running(options) as server:
        gate = Gate(server.service)
        try:
            yield server, gate
        finally:
            gate.open()


def test_a_query_beside_a_long_list_waits_for_two_batches_at_most(encoder: Encoder) -> None:
    """The one that runs, and that of another request whose turn it is."""
    url = data_url(picture())
    with gated(ServeOptions(port=0, batch_tokens=256)) as (server, gate):
        with ThreadPoolExecutor(2) as threads:
            many = threads.submit(server.post, input=[url] * 2048)
            wait_for(gate.arrived.is_set)
            query = threads.submit(server.post, input=TEXT)
            wait_for(lambda: server.server.state.admission.items == 2049)
            # prepared, and not only accepted
            wait_for(lambda: server.figure("lame_prepare_seconds_count") > 20)
            begun = len(gate.batches)
            gate.open()
            assert vectors_of(query.result()) == as_bytes(encoder.encode(TEXT))
            assert len(set(vectors_of(many.result()))) == 1
        ids = encoder.preparer(Input(TEXT)).ids
        places = [
            number
            for number, batch in enumerate(gate.batches)
            if any(np.array_equal(row[: len(ids)], ids) for row in batch.input_ids)
        ]
        assert places[0] <= begun + 1
        # or the list would not have been long
        assert len(gate.batches) > begun + 10


def test_overload_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with Retry-After, for a single item and a list alike; what was accepted is answered."""
    opened: list[Any] = []
    real = media_sources.open_header
    monkeypatch.setattr(
        media_sources, "open_header", lambda *given: (opened.append(1), real(*given))[1]
    )
    url = data_url(picture())
    options = ServeOptions(port=0, max_items=8, queue_items=10)
    with gated(options) as (server, gate), ThreadPoolExecutor(2) as threads:
        accepted = threads.submit(server.post, input=[url] * 8)
        wait_for(lambda: len(opened) == 8)
        wait_for(gate.arrived.is_set)
        # the last of the eight is opened before it is counted
        wait_for(lambda: server.figure("lame_prepare_seconds_count") == 8)
        for _ in range(40):
            # all of a list or nothing, although two places are free
            response = server.post(input=[url] * 3)
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            assert error_of(response)["code"] == "queue_full"
        assert len(opened) == 8
        assert server.figure("lame_prepare_seconds_count") == 8
        small = threads.submit(server.post, input=["a", "b"])
        wait_for(lambda: server.server.state.admission.items == 10)
        assert server.post(input="c").status_code == 429
        gate.open()
        assert accepted.result().status_code == small.result().status_code == 200
        assert server.figure("lame_rejections_total") == 41
        assert server.post(input="c").status_code == 200


def test_a_client_that_hangs_up_leaves_no_work() -> None:
    """Its items are dropped, and those of others run."""
    with gated(ServeOptions(port=0, batch_tokens=64)) as (server, gate):
        address = httpx.URL(server.url)
        body = json.dumps({"input": [TEXT] * 100}).encode()
        head = f"POST /embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection((address.host, address.port)) as connection:
            connection.sendall(head.encode() + body)
            wait_for(gate.arrived.is_set)
            assert server.server.state.admission.items == 100
        wait_for(lambda: server.server.state.admission.items == 0)
        gate.open()
        assert server.post(input=["one more"]).status_code == 200
        ran = sum(len(batch.embed_index) for batch in gate.batches)
        # the batch that had begun, and the one after
        assert ran < 20
        wait_for(lambda: server.figure("lame_dropped_items_total") >= 100 - ran)
        assert server.service.admission.bytes == 0
        with_code = server.client.get("/metrics").text
        assert 'lame_requests_total{code="499",route="/embeddings"} 1.0' in with_code


def test_the_deadline_is_a_504_and_a_backend_that_hangs_is_not_ready() -> None:
    """The request leaves no work; the server is ready again when the backend goes on."""
    with gated(ServeOptions(port=0, deadline=0.2)) as (server, gate):
        response = server.post(input=[TEXT] * 3)
        assert response.status_code == 504
        assert error_of(response)["code"] == "deadline"
        wait_for(lambda: server.client.get("/v1/health/ready").status_code == 503)
        assert server.client.get("/v1/health/live").status_code == 200
        assert server.service.admission.items == 0
        gate.open()
        wait_for(lambda: server.client.get("/v1/health/ready").status_code == 200)


class Failing:
    """A backend that fails while it is told to."""

    def __init__(self, server: RunningServer, error: Exception) -> None:
        self._run = server.service.encoder.backend.run
        self.error: Exception | None = error
        self.calls = 0
        server.service.encoder.backend.run = self.run  # type: ignore[method-assign]

    def run(self, batch: Any) -> Any:
        """Fails, or runs the batch."""
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self._run(batch)


@pytest.mark.parametrize(
    "error", [DeviceError("the GPU at 0x7f0011223344 is lost"), MemoryError(), ValueError("/a/b")]
)
def test_a_backend_that_fails_is_not_ready(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are 503 at once and say nothing of the reason; it recovers by itself."""
    monkeypatch.setattr(scheduler_module, "RETRY_SECONDS", 0.05)
    with running() as server:
        assert server.client.get("/v1/health/ready").status_code == 200
        failing = Failing(server, error)
        for _ in range(2):
            response = server.post(input=[TEXT, "eight"])
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert error_of(response)["code"] == "backend_failing"
            assert "0x" not in response.text
            assert "/a/b" not in response.text
            assert server.client.get("/v1/health/ready").status_code == 503
        assert server.client.get("/v1/health/live").status_code == 200
        failing.error = None
        wait_for(lambda: server.client.get("/v1/health/ready").status_code == 200)
        assert server.post(input=TEXT).status_code == 200


def test_a_backend_that_fails_without_traffic_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Readiness runs a golden input if no vector came out lately."""
    monkeypatch.setattr("lame_runtime.serving.health.FRESH_SECONDS", 0.0)
    with running() as server:
        assert server.client.get("/v1/health/ready").status_code == 200
        failing = Failing(server, BackendError("no"))
        assert server.client.get("/v1/health/ready").status_code == 503
        assert failing.calls


def test_wrong_vectors_are_not_ready() -> None:
    """The probe compares with the bundle's vector, so that nonsense is no success."""
    with running() as server:
        backend = server.service.encoder.backend
        run = backend.run
        backend.run = lambda batch: run(batch)[:, ::-1]  # type: ignore[method-assign]
        assert server.service.scheduler.probe().result(10) is False
        assert server.client.get("/v1/health/ready").status_code == 503


def test_an_input_that_the_graph_fails_on_fails_alone(encoder: Encoder) -> None:
    """As an exception and as NaN; its batch mates get the vectors that they have alone."""
    poison = encoder.preparer(Input("poison")).ids
    with gated() as (server, gate):
        backend = server.service.encoder.backend
        run, kinds = gate._run, itertools.cycle(["raise", "nan"])  # noqa: SLF001

        def fragile(batch: Any) -> Any:
            bad = [np.array_equal(row[: len(poison)], poison) for row in batch.input_ids]
            vectors = run(batch).copy()
            if any(bad):
                if next(kinds) == "raise":
                    raise BackendError("one input is bad")
                vectors[bad] = np.nan
            return vectors

        gate._run = fragile  # noqa: SLF001
        assert backend.run == gate._gated  # noqa: SLF001
        bodies = [[f"good {number}"] for number in range(20)] + [["good", "poison"]] * 2
        with ThreadPoolExecutor(len(bodies)) as threads:
            replies = [threads.submit(server.post, input=body) for body in bodies]
            wait_for(lambda: server.server.state.admission.items == 24)
            gate.open()
            for body, reply in zip(bodies, replies, strict=True):
                if "poison" in body:
                    assert reply.result().status_code == 500
                    assert error_of(reply.result())["param"] == "input[1]"
                    assert reply.result().headers["x-should-retry"] == "false"
                else:
                    assert vectors_of(reply.result()) == as_bytes(encoder.encode(body))
        assert server.client.get("/v1/health/ready").status_code == 200


def test_a_graph_with_other_vectors_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up compares golden inputs of every kind; the control is the bundle as it is."""
    with load_tiny() as encoder:
        probe = probes.warm_up(encoder)
        vector = encoder.backend.run(assemble([probe.prepared], encoder.preparer.contract))[0]
        assert probe.accepts(vector)
        assert not probe.accepts(-vector)
        run = encoder.backend.run
        monkeypatch.setattr(encoder.backend, "run", lambda batch: -run(batch))
        with pytest.raises(ProofError, match="lame-runtime verify"):
            probes.warm_up(encoder)


def test_threads_end_with_the_server() -> None:
    """None of ours is left, and a request after the end is refused."""
    # other tests share a server
    before = set(threading.enumerate())
    with running() as server:
        service = server.service
        assert len(set(threading.enumerate()) - before) > 3
    assert set(threading.enumerate()) <= before
    with pytest.raises(Exception, match="about to end"):
        service.scheduler.submit(job_of(service.encoder, [Input(TEXT)]))
