"""Clients that send requests one after the other, check every answer, and hang up at times."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from soak.mixed_requests import MixedRequest


@dataclass
class Seen:
    """Counts what became of the requests.

    Attributes:
        outcomes: number of requests by outcome.
        faults: what must not happen, in one line each.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


async def run_clients(url: str, requests: Iterator[MixedRequest], clients: int, seen: Seen) -> None:
    """Sends all requests of an iterator that the clients share."""
    await asyncio.gather(*(_client(url, requests, seen) for _ in range(clients)))


async def _client(url: str, requests: Iterator[MixedRequest], seen: Seen) -> None:
    parts = urlsplit(url)
    reader = writer = None
    for request in requests:
        if reader is None or writer is None:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(request.data)
        if request.hangs_up:
            await writer.drain()
            writer.close()
            reader = writer = None
            seen.outcomes["hung up"] += 1
            continue
        status, body = await asyncio.wait_for(read_answer(reader), 120)
        _check(request, status, body, seen)
    if writer is not None:
        writer.close()


def _check(request: MixedRequest, status: int, body: bytes, seen: Seen) -> None:
    answer = json.loads(body)
    if request.place:
        param = (answer.get("error") or {}).get("param") or ""
        if status == 400 and param.startswith(request.place):
            seen.outcomes["refused, as it must be"] += 1
        else:
            seen.faults.append(f"{status} {param!r} in place of 400 {request.place}")
        return
    if status == 429:
        seen.outcomes["full, try again"] += 1
        return
    if status != 200:
        seen.faults.append(f"{status}: {body[:200]!r}")
        return
    vectors = tuple(entry["embedding"] for entry in answer["data"])
    if vectors == request.vectors:
        seen.outcomes["right, to the bit"] += 1
    else:
        seen.faults.append("another vector than that of the item alone")


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Returns status and body of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = head.lower().split(b"\r\n")
    size = next(int(line.split(b":")[1]) for line in fields if line.startswith(b"content-length"))
    return int(head.split(b" ", 2)[1]), await reader.readexactly(size)
