"""A request's bytes, within bounds of size and time."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from lame_runtime.serving.admission import Ticket
from lame_runtime.serving.api.api_errors import ApiError, unavailable

BODY_SECONDS = 60.0
"""Longest time that a client may take to send a request."""


async def read_body(request: Request, most: int, ticket: Ticket, ending: asyncio.Event) -> bytes:
    """Returns the body of a request.

    Args:
        request: the request.
        most: largest size in bytes.
        ticket: counts the bytes as they come; what is only announced takes no memory.
        ending: set when the server begins to end, which waits for no body.

    Raises:
        ApiError: 413, too large, by its header or while it is read; 408, too slow; 429, too many
            bytes are in memory already; 503, the server is about to end.
    """
    if _announced(request) > most:
        raise _too_large(most)
    reading = asyncio.ensure_future(_read(request, most, ticket))
    end = asyncio.ensure_future(ending.wait())
    try:
        either: set[asyncio.Future[Any]] = {reading, end}
        await asyncio.wait(either, timeout=BODY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            return reading.result()
        if end.done():
            raise unavailable("the server is about to end", "draining", 5)
        raise ApiError(408, f"the request was not complete after {BODY_SECONDS:g} s", "too_slow")
    except ClientDisconnect:
        raise ApiError(400, "the request is incomplete", "incomplete") from None
    finally:
        reading.cancel()
        end.cancel()


async def _read(request: Request, most: int, ticket: Ticket) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        # a client may send more than it announced, or announce nothing
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        ticket.take(size=len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def _announced(request: Request) -> int:
    """Returns the length that the header announces; 0 if there is none."""
    header = request.headers.get("content-length", "0")
    # the HTTP library has refused what is no number
    return int(header) if header.isascii() and header.isdigit() else 0


def _too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"the request is larger than {most / 1e6:,.0f} MB: send fewer or smaller inputs",
        "request_too_large",
    )
