"""Runs the server of a bundle in a thread, on a free port of the loopback."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import numpy.typing as npt
from lame_runtime import Encoder
from lame_runtime.search import Index
from lame_runtime.serving.service import Service
from lame_runtime.serving.settings import ServeOptions
from lame_runtime.serving.web.http_server import HttpServer
from PIL import Image

TINY = Path(__file__).parent.parent.parent / "examples/tiny-bundle"
MOST_SECONDS = 30.0


def load_tiny() -> Encoder:
    """Loads the tiny bundle."""
    return Encoder.load(TINY, threads=1, backend="onnxruntime")


class RunningServer:
    """A server and a client of it."""

    def __init__(self, server: HttpServer, client: httpx.Client) -> None:
        self.server = server
        self.client = client
        self.url = server.url

    @property
    def service(self) -> Service:
        """The service behind the routes."""
        service = self.server.state.service
        assert service is not None
        return service

    def post(self, route: str = "/v1/embeddings", **body: Any) -> httpx.Response:
        """Posts JSON; `/v1/embeddings` gets base64 unless the body says otherwise."""
        if route == "/v1/embeddings":
            body = {"encoding_format": "base64", **body}
        return self.client.post(route, json=body)

    def vectors(self, **body: Any) -> list[bytes]:
        """Returns the bytes of the vectors of a request that must succeed."""
        return vectors_of(self.post(**body))

    def error(self, status: int, **body: Any) -> dict[str, Any]:
        """Returns the error of a request that must fail with a status."""
        response = self.post(**body)
        assert response.status_code == status, response.text
        return error_of(response)

    def figure(self, name: str) -> float:
        """Returns one of Prometheus' figures; the sum, if it has several labels."""
        lines = self.client.get("/metrics").text.splitlines()
        values = [
            line.rsplit(" ", 1)[1] for line in lines if line.split("{")[0].split(" ")[0] == name
        ]
        return sum(map(float, values))


def vectors_of(response: httpx.Response) -> list[bytes]:
    """Returns the bytes of the vectors of a reply in base64."""
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return [base64.b64decode(entry["embedding"]) for entry in data]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Returns the error in a body, whose shape is the same everywhere."""
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["message"]
    assert error["type"]
    assert error["code"]
    return error


@contextmanager
def running(
    options: ServeOptions | None = None,
    load: Callable[[], Encoder] = load_tiny,
    *,
    until_loaded: bool = True,
    index: Index | None = None,
) -> Iterator[RunningServer]:
    """Runs a server; the client sends the first of its keys."""
    options = options or ServeOptions(port=0)
    server = HttpServer(options, load, index=index)
    thread = threading.Thread(target=server.serve_until_signal)
    thread.start()
    headers = {"authorization": f"Bearer {options.api_keys[0]}"} if options.api_keys else {}
    try:
        wait_for(lambda: server.started and (not until_loaded or server.state.service is not None))
        with httpx.Client(base_url=server.url, timeout=MOST_SECONDS, headers=headers) as client:
            yield RunningServer(server, client)
    finally:
        server.should_exit = True
        thread.join(MOST_SECONDS)
    assert not thread.is_alive()


def wait_for(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + MOST_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


class Gate:
    """Stops a backend before its runs, until it is opened; records the batches."""

    def __init__(self, service: Service, *, is_open: bool = False) -> None:
        self._run = service.encoder.backend.run
        self._event = threading.Event()
        self.arrived = threading.Event()
        self.batches: list[Any] = []
        service.encoder.backend.run = self._gated  # type: ignore[method-assign]
        if is_open:
            self.open()

    def open(self) -> None:
        """Lets all runs through."""
        self._event.set()

    def _gated(self, batch: Any) -> Any:
        self.batches.append(batch)
        self.arrived.set()
        assert self._event.wait(MOST_SECONDS)
        return self._run(batch)


def as_bytes(vectors: npt.NDArray[Any]) -> list[bytes]:
    """Returns the little-endian bytes of each row."""
    return [row.astype(row.dtype.newbyteorder("<")).tobytes() for row in vectors]


def data_url(data: bytes | str | Path, kind: str = "image/png") -> str:
    """Returns the `data:` URL of bytes or of a file."""
    content = data if isinstance(data, bytes) else Path(data).read_bytes()
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(number: int = 0, width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    """Returns the file of a picture of noise."""
    pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
