"""Clients that send little and hold much: others are served all the same, and the server ends."""

from __future__ import annotations

import io
import json
import logging
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest
from lame_runtime.serving.requests.media_sources import MediaSources
from lame_runtime.serving.settings import ServeOptions
from lame_runtime.serving.web import http_protocol
from PIL import Image
from running_server import RunningServer, data_url, error_of, picture, running, wait_for
from test_serve_process import process


def connected(url: str, data: bytes = b"") -> socket.socket:
    """Returns a connection that has sent something."""
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port), timeout=30)
    connection.sendall(data)
    return connection


def head(size: int) -> bytes:
    """Returns the header of a request whose body is announced."""
    return f"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n".encode()


def test_a_text_does_not_wait_for_the_pictures_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers of pictures may wait for memory; all threads that read them are taken."""
    release = threading.Event()
    real = MediaSources._checked  # noqa: SLF001

    def slow(self: MediaSources, data: bytes) -> bytes:
        assert release.wait(30)
        return real(self, data)

    monkeypatch.setattr(MediaSources, "_checked", slow)
    with running() as server, ThreadPoolExecutor(12) as threads:
        many = [threads.submit(server.post, input=[data_url(picture())]) for _ in range(12)]
        wait_for(lambda: server.server.state.admission.items == 12)
        for item in ("seven", {"text": "seven"}, [{"role": "user", "content": "seven"}]):
            assert server.post(input=[item]).status_code == 200
        assert not any(reply.done() for reply in many)
        release.set()
        assert all(reply.result().status_code == 200 for reply in many)


def test_a_text_does_not_wait_for_pictures_that_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the threads that prepare takes texts alone."""
    from lame_runtime.serving.scheduling import scheduler

    release = threading.Event()
    real = scheduler.prepare

    def slow(item: Any, *rest: Any) -> Any:
        if any(not isinstance(part, str) for part in item.parts):
            assert release.wait(30)
        return real(item, *rest)

    monkeypatch.setattr(scheduler, "prepare", slow)
    with running() as server, ThreadPoolExecutor(12) as threads:
        many = [threads.submit(server.post, input=[data_url(picture())]) for _ in range(12)]
        wait_for(lambda: server.server.state.admission.items == 12)
        assert server.post(input="seven").status_code == 200
        release.set()
        assert all(reply.result().status_code == 200 for reply in many)


def read_all(connection: socket.socket) -> int:
    """Reads until the other side has ended the connection, and returns the number of bytes."""
    size = 0
    while data := connection.recv(1 << 20):
        size += len(data)
    return size


def test_what_is_only_announced_takes_no_room() -> None:
    """Clients that send headers alone do not keep others out; what they send is counted."""
    with running(ServeOptions(port=0, max_body_mb=1)) as server:
        silent = [connected(server.url, head(1_000_000)) for _ in range(12)]
        wait_for(lambda: server.server.state.admission.requests == 12)
        assert server.post(input="seven").status_code == 200
        # eight bodies of the largest size fit, and the ninth is refused
        for number, connection in enumerate(silent[:9]):
            connection.sendall(b" " * 999_000)
            most = min(number + 1, 8) * 999_000
            wait_for(lambda most=most: server.server.state.admission.bytes == most)
        wait_for(lambda: server.server.state.admission.requests == 11)
        for connection in silent:
            connection.close()
        wait_for(lambda: server.server.state.admission.bytes == 0)


def test_a_connection_without_a_request_is_closed(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, for one that sends nothing and one that begins a header; others stay."""
    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.2)
    for data in (b"", b"GET /v1/health/live HTTP/1.1\r\nhost"):
        with connected(server.url, data) as connection:
            assert connection.recv(1) == b""
    request = b"GET /v1/health/live HTTP/1.1\r\nhost: a\r\n\r\n"
    with connected(server.url, request) as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_replies_that_nobody_reads_count_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """They fill the same memory as requests; their connections are cut, a slow reader's is not."""
    monkeypatch.setattr(http_protocol, "UNREAD_SECONDS", 2.0)
    body = json.dumps({"input": ["seven"] * 2048}).encode()
    with running(ServeOptions(port=0, max_body_mb=1)) as server:
        # else the kernel takes a whole reply
        listener = server.server._listener  # noqa: SLF001
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        size = len(server.client.post("/v1/embeddings", content=body).content)
        admission = server.server.state.admission
        unread = []
        # eight of the largest bodies are the limit, and a reply is larger than that
        for number in range(1, 2 + 8_000_000 // size):
            unread.append(connected(server.url, head(len(body)) + body))
            wait_for(lambda most=size * number: admission.bytes == most)
        assert admission.items == 0
        assert server.error(429, input="seven")["code"] == "queue_full"
        # one of them begins to read, and gets all of it
        with unread.pop() as slow:
            answer = b""
            while len(answer) < size:
                answer += slow.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200")
        wait_for(lambda: admission.requests == 0)
        assert admission.bytes == 0
        for connection in unread:
            # what the kernel holds, then the end
            with connection:
                assert 0 < read_all(connection) < size
        assert server.post(input="seven").status_code == 200


def test_an_upgrade_is_not_logged(server: RunningServer) -> None:
    """Any client could fill the log with advice to install a library."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    logging.getLogger("uvicorn.error").addHandler(handler)
    try:
        headers = {"connection": "upgrade", "upgrade": "websocket"}
        assert server.client.get("/v1/health/live", headers=headers).status_code == 200
    finally:
        logging.getLogger("uvicorn.error").removeHandler(handler)
    assert lines.getvalue() == ""


def test_the_end_waits_for_no_body() -> None:
    """A request that is not complete when the signal comes is refused."""
    with process("--deadline", "60") as (child, url):
        with connected(url, head(100) + b"{") as connection:
            # another request is answered later than the first was begun
            assert httpx.get(f"{url}/v1/health/live").status_code == 200
            child.send_signal(signal.SIGTERM)
            assert connection.recv(12) == b"HTTP/1.1 503"
            assert child.wait(30) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_a_second_signal_ends_the_server_and_says_so() -> None:
    """The exit code is 1, because work was lost; there is no traceback."""
    with process() as (child, url), ThreadPoolExecutor(3) as threads:
        body = {"input": ["a text of some words " * 20] * 2048}
        replies = [
            threads.submit(httpx.post, f"{url}/v1/embeddings", json=body, timeout=60)
            for _ in range(3)
        ]
        wait_for(lambda: "lame_queue_items 6144" in httpx.get(f"{url}/metrics").text)
        child.send_signal(signal.SIGINT)
        wait_for(lambda: httpx.get(f"{url}/v1/health/ready").status_code == 503)
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 1
        assert child.stderr is not None
        assert child.stderr.read().splitlines() == [
            "error: a second signal ended the server before it had answered all requests"
        ]
        for reply in replies:
            error = reply.exception()
            assert isinstance(error, httpx.TransportError) or reply.result().status_code == 503


def test_a_pdf_of_two_pages_is_told_what_to_do(server: RunningServer) -> None:
    """Neither error sends the client to the other."""
    buffer = io.BytesIO()
    page = Image.new("RGB", (60, 80), "white")
    page.save(buffer, "PDF", save_all=True, append_images=[page])
    url = data_url(buffer.getvalue(), "application/pdf")
    assert "has 2 pages; send one page" in server.error(400, input=url)["message"]
    assert "give a PDF of one page" in server.error(400, input=f"{url}#page=1")["message"]


def test_too_many_texts_are_named_as_the_client_names_them(server: RunningServer) -> None:
    """Cohere's shape has `texts`, OpenAI's has `input`."""
    texts = ["a"] * 2049
    response = server.post("/v2/embed", model="", texts=texts, input_type="search_query")
    assert error_of(response)["param"] == "texts"
    assert server.error(400, input=texts)["param"] == "input"
