"""Requests of every kind, each with the answer that it must get."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass
from typing import Any

from lame_runtime import Encoder
from running_server import as_bytes, data_url, picture
from test_serve_refusals import BROKEN

HEAD = "POST /v1/embeddings HTTP/1.1\r\nHost: soak\r\nContent-Length: {}\r\n\r\n"


@dataclass(frozen=True)
class MixedRequest:
    """A request as it goes over the wire.

    Attributes:
        data: head and body.
        vectors: the vectors of its items in base64; none if it must be refused.
        place: the item that an error must name.
        hangs_up: whether the client leaves without waiting.
    """

    data: bytes
    vectors: tuple[str, ...] = ()
    place: str = ""
    hangs_up: bool = False


def mixed_requests(encoder: Encoder, count: int, seed: int) -> list[MixedRequest]:
    """Returns requests in random order: a tenth is broken, and a twentieth is given up.

    Args:
        encoder: gives the vectors, each item alone.
        count: number of requests.
        seed: of the random choices.
    """
    chance = random.Random(seed)
    items: list[Any] = [f"digits that add up to {number}" for number in range(200)]
    items += [data_url(picture(number, 20 + number, 40)) for number in range(40)]
    sources = [
        {"image": base64.b64decode(item.partition(",")[2])} if item.startswith("data:") else item
        for item in items
    ]
    vectors = [
        base64.b64encode(data).decode()
        for source in sources
        for data in as_bytes(encoder.encode([source]))
    ]
    return [_request(chance, items, vectors, number) for number in range(count)]


def _request(
    chance: random.Random, items: list[Any], vectors: list[str], number: int
) -> MixedRequest:
    # now and then a list that fills batches by itself
    size = 64 if number % 50 == 7 else chance.randint(1, 4)
    rows = chance.choices(range(len(items)), k=size)
    sent = [items[row] for row in rows]
    if number % 10 == 0:
        place = chance.randrange(size)
        sent[place] = list(BROKEN.values())[number // 10 % len(BROKEN)]
        return MixedRequest(_wire(sent), place=f"input[{place}]")
    expected = tuple(vectors[row] for row in rows)
    return MixedRequest(_wire(sent), expected, hangs_up=number % 20 == 3)


def _wire(items: list[Any]) -> bytes:
    body = json.dumps({"input": items, "encoding_format": "base64"}).encode()
    return HEAD.format(len(body)).encode() + body
