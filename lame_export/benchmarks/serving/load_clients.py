"""Clients that send one request after the other over kept connections, and what they measured."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Load:
    """Requests per second, and the seconds that requests took.

    Attributes:
        rate: answered requests per second.
        seconds: of each answered request, sorted.
        refused: requests that were answered with another status than 200.
    """

    rate: float
    seconds: list[float]
    refused: int

    def percentile(self, share: float) -> float:
        """Returns the seconds within which a share of the requests was answered."""
        return self.seconds[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


def request_bytes(url: str, payload: object) -> bytes:
    """Returns a POST request as it goes over the wire.

    It is written once: a client library would take processor time from the server beside it.
    """
    parts = urlsplit(url)
    body = json.dumps(payload).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run_load(url: str, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Lets clients send requests in turn for a time; each waits for its answer."""
    return asyncio.run(_run(url, requests, clients, seconds))


async def _run(url: str, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    taken: list[float] = []
    refused = [0]
    start = time.perf_counter()
    end = start + seconds

    async def client(number: int) -> None:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        turn = number
        while time.perf_counter() < end:
            before = time.perf_counter()
            writer.write(requests[turn % len(requests)])
            status = await _answer(reader)
            if status == 200:
                taken.append(time.perf_counter() - before)
            else:
                refused[0] += 1
            turn += clients
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    # the last answers come after the end
    whole = time.perf_counter() - start
    return Load(len(taken) / whole, sorted(taken), refused[0])


async def _answer(reader: asyncio.StreamReader) -> int:
    """Reads one answer and returns its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = head.lower().split(b"\r\n")
    size = next(int(line.split(b":")[1]) for line in fields if line.startswith(b"content-length"))
    await reader.readexactly(size)
    return int(head.split(b" ", 2)[1])
