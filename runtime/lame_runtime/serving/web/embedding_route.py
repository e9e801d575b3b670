"""Answers requests for vectors, step by step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lame_runtime.contract.batch import Floats
from lame_runtime.encoder import Encoder
from lame_runtime.serving.api.api_errors import ApiError, unavailable
from lame_runtime.serving.api.held_reply import HeldReply
from lame_runtime.serving.requests.schemas import Usage
from lame_runtime.serving.requests.wanted import Wanted
from lame_runtime.serving.scheduling.jobs import Job
from lame_runtime.serving.service import Service
from lame_runtime.serving.tracing import describe_request
from lame_runtime.serving.web.request_body import read_body
from lame_runtime.serving.web.server_state import ServerState

Read = Callable[[bytes, Encoder, str], Wanted]


def embedding_route(state: ServerState, read: Read) -> Callable[[Request], Awaitable[Response]]:
    """Returns the endpoint of a route that embeds.

    Args:
        state: the server.
        read: reads the shape of the route's requests.
    """

    async def endpoint(request: Request) -> Response:
        return await _embed(state, request, read)

    return endpoint


async def _embed(state: ServerState, request: Request, read: Read) -> Response:
    start, service = time.perf_counter(), state.require_service()
    with ExitStack() as held:
        ticket = held.enter_context(service.admission.ticket())
        # counted before it is read, or bodies would fill the memory
        body = await read_body(request, service.options.max_body_bytes, ticket, state.ending)
        readers = service.readers
        wanted = await _in_thread(service, readers, read, body, service.encoder, service.name)
        # media are copied once more on their way; what is not needed goes
        del body
        service.check_count(wanted)
        # all of the request or nothing, and before anything is decoded
        ticket.take(items=len(wanted.items))
        job = await _in_thread(service, service.threads_for(wanted), service.job, wanted, ticket)
        vectors = await _outcome(service, job, request, start + service.options.deadline)
        usage = Usage(job.tokens, job.tokens, job.tokens - job.vision_tokens, job.vision_tokens)
        content = await _in_thread(service, readers, wanted.reply, service.encoder, vectors, usage)
        describe_request(job, len(wanted.places))
        # a client that does not read keeps the reply in memory
        ticket.exchange(len(content))
        return HeldReply(content, _times(job, start), held.pop_all())


async def _in_thread(
    service: Service, threads: Executor, call: Callable[..., Any], *arguments: Any
) -> Any:
    """Calls a function in a thread, because large requests would hold up all others."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(threads, partial(call, *arguments))
    except RuntimeError:  # the threads have ended
        if service.health.phase == "serving":
            raise
        raise unavailable("the server is about to end", "draining") from None


async def _outcome(service: Service, job: Job, request: Request, end: float) -> Floats:
    """Waits for the vectors, the deadline, or the client's end, whichever comes first."""
    service.scheduler.submit(job)
    future = asyncio.wrap_future(job.outcome)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        # reading counts too: a client waits from its first byte
        left = max(0.0, end - time.perf_counter())
        either: set[asyncio.Future[Any]] = {future, gone}
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        if gone.done():
            raise ApiError(499, "the client has gone away", "client_gone")
        seconds = service.options.deadline
        raise ApiError(504, f"not done within {seconds:g} s: send fewer items", "deadline")
    finally:
        gone.cancel()
        # also if the task itself is canceled; nothing is left to do for a job that is over
        service.scheduler.cancel(job)


async def _until_gone(request: Request) -> None:
    # nothing else can come after the body
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _times(job: Job, start: float) -> dict[str, str]:
    """Returns headers with milliseconds; those of steps are of the item that took longest."""
    seconds = {
        "total": time.perf_counter() - start,
        "prepare": job.times.prepare,
        "queue": job.times.queue,
        "inference": job.times.run,
    }
    return {f"x-{step}-time": f"{1000 * value:.1f}" for step, value in seconds.items()}
