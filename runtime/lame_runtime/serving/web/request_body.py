"""A request's bytes, within bounds of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from lame_runtime.serving.admission import Ticket
from lame_runtime.serving.api.api_errors import ApiError

BODY_SECONDS = 60.0
"""Longest time that a client may take to send a request."""


async def read_body(request: Request, most: int, ticket: Ticket) -> bytes:
    """Returns the body of a request.

    Args:
        request: the request.
        most: largest size in bytes.
        ticket: counts the bytes while they are in memory.

    Raises:
        ApiError: 413, too large, by its header or while it is read; 408, too slow; 429, too many
            bytes are in memory already.
    """
    length = _announced(request)
    if length > most:
        raise _too_large(most)
    # all at once, so that no two requests wait for each other's rest
    ticket.take(size=length)
    chunks: list[bytes] = []
    try:
        await asyncio.wait_for(_read(request, most, length, ticket, chunks), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(
            408, f"the request was not complete after {BODY_SECONDS:g} s", "too_slow"
        ) from None
    except ClientDisconnect:
        raise ApiError(400, "the request is incomplete", "incomplete") from None
    return b"".join(chunks)


async def _read(
    request: Request, most: int, length: int, ticket: Ticket, chunks: list[bytes]
) -> None:
    size = 0
    async for chunk in request.stream():
        # a client may send more than it announced, or announce nothing
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        if size > length:  # it came in chunks, without a length
            ticket.take(size=size - length)
            length = size
        chunks.append(chunk)


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
