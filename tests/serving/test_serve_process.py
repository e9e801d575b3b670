"""The command: its start, its end, and what it says if something is missing or wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from lame_runtime import BundleError, Encoder
from lame_runtime.cli.main import main
from lame_runtime.serving.settings import ServeOptions
from lame_runtime.serving.web.http_server import HttpServer, bind
from running_server import TINY, error_of, load_tiny, running, vectors_of, wait_for


@contextlib.contextmanager
def process(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs the command on a free port, and yields the process and its address."""
    command = [sys.executable, "-m", "lame_runtime", "serve", str(TINY), "--port", "0", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            match = re.match(r"(http://\S+) serves tiny-bundle: graph fp32 on onnxruntime", line)
            assert match, line
            yield child, match[1]
        finally:
            child.kill()


def test_a_signal_ends_the_server_after_its_answers() -> None:
    """All that was accepted is answered, new requests are not, and the exit code is 0."""
    texts = [f"a text of some words, number {index}" for index in range(1000)]
    with process() as (child, url), ThreadPoolExecutor(4) as threads, load_tiny() as encoder:
        body = {"input": texts, "encoding_format": "base64"}
        post = lambda: httpx.post(f"{url}/v1/embeddings", json=body, timeout=60)  # noqa: E731
        assert post().status_code == 200
        replies = [threads.submit(post) for _ in range(4)]
        # all of them are in the server, and none is answered
        pattern = re.compile(r"^lame_queue_items (4000)", re.MULTILINE)
        wait_for(
            lambda: (
                any(reply.done() for reply in replies)
                or pattern.search(httpx.get(f"{url}/metrics").text)
            )
        )
        assert not any(reply.done() for reply in replies)
        child.send_signal(signal.SIGTERM)
        expected = [row.tobytes() for row in encoder.encode(texts)]
        for reply in replies:
            assert vectors_of(reply.result()) == expected
        assert child.wait(30) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""
        with pytest.raises(httpx.ConnectError):
            post()


def test_a_killed_server_starts_again_with_the_same_answers() -> None:
    """SIGKILL under load loses what ran; nothing else remains of it."""
    texts = [f"a text of some words, number {index}" for index in range(1000)]
    body = {"input": texts, "encoding_format": "base64"}
    answers = []
    with load_tiny() as encoder:
        expected = [row.tobytes() for row in encoder.encode(texts)]
    for _ in range(2):
        with process() as (child, url), ThreadPoolExecutor(4) as threads:
            post = partial(httpx.post, f"{url}/v1/embeddings", json=body, timeout=60)
            answers.append(vectors_of(post()))
            replies = [threads.submit(post) for _ in range(4)]
            wait_for(lambda url=url: "lame_queue_items 4000" in httpx.get(f"{url}/metrics").text)
            child.kill()
            for reply in replies:
                with pytest.raises(httpx.HTTPError):
                    reply.result()
    assert answers == [expected] * 2


def test_traces_hold_what_a_request_took() -> None:
    """OpenTelemetry's own program starts the server; its spans go to the output here."""
    program = [str(Path(sys.executable).parent / "opentelemetry-instrument")]
    program += ["--traces_exporter", "console", "--metrics_exporter", "none"]
    arguments = [str(Path(sys.executable).parent / "lame-runtime"), "serve", str(TINY)]
    command = [*program, "--logs_exporter", "none", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        url = child.stdout.readline().split()[0]
        httpx.post(f"{url}/v1/embeddings", json={"input": ["seven", "eight"]}).raise_for_status()
        child.send_signal(signal.SIGTERM)
        written = child.stdout.read()
    assert child.returncode == 0
    decoder, spans = json.JSONDecoder(), []
    while written := written.lstrip():
        span, end = decoder.raw_decode(written)
        spans.append(span)
        written = written[end:]
    (span,) = [span for span in spans if "lame.items" in span["attributes"]]
    assert span["name"] == "POST /v1/embeddings"
    assert span["attributes"]["lame.items"] == 2
    assert span["attributes"]["lame.tokens"] > 2
    assert span["attributes"]["lame.inference_seconds"] > 0


def test_a_server_that_drains_is_not_ready() -> None:
    """It refuses new work with 503 while it finishes what it has."""
    from running_server import Gate

    with running() as server, ThreadPoolExecutor(1) as threads:
        gate = Gate(server.service)
        accepted = threads.submit(server.post, input="seven")
        wait_for(gate.arrived.is_set)
        loop_call(server.server, server.server.drain)
        wait_for(lambda: server.client.get("/v1/health/ready").status_code == 503)
        response = server.post(input="eight")
        assert response.status_code == 503
        assert error_of(response)["code"] == "draining"
        assert response.headers["retry-after"]
        gate.open()
        assert accepted.result().status_code == 200


def loop_call(server: HttpServer, call: Any) -> None:
    """Calls a function in the loop of a server."""
    loop = server._loading.get_loop()  # type: ignore[union-attr]  # noqa: SLF001
    loop.call_soon_threadsafe(call)


def test_a_server_that_starts_says_so() -> None:
    """It is alive and not ready, and refuses requests with 503 and Retry-After."""
    begin = threading.Event()

    def load() -> Encoder:
        assert begin.wait(30)
        return load_tiny()

    with running(load=load, until_loaded=False) as server:
        try:
            assert server.client.get("/v1/health/live").status_code == 200
            assert server.client.get("/v1/health/ready").status_code == 503
            assert server.client.get("/v1/models").json()["data"] == []
            response = server.post(input="seven")
            assert response.status_code == 503
            assert error_of(response)["code"] == "starting"
            assert response.headers["retry-after"]
        finally:
            begin.set()
        wait_for(lambda: server.client.get("/v1/health/ready").status_code == 200)
        assert server.post(input="seven").status_code == 200


def test_a_bundle_that_cannot_be_loaded_ends_the_server() -> None:
    """With the error of `Encoder.load`, which the command prints on one line."""

    def load() -> Encoder:
        raise BundleError("no such bundle")

    with pytest.raises(BundleError, match="no such bundle"):
        HttpServer(ServeOptions(port=0), load).serve_until_signal()


def test_the_command_says_on_one_line_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that is missing, a port that is taken, an option that cannot be."""
    with bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            ([str(tmp_path / "none"), "--port", "0"], "none"),
            ([str(TINY), "--port", port], f"--port {port} (Address already in use)"),
            ([str(TINY), "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
            ([str(TINY), "--queue-items", "1"], "--queue-items is 1"),
            ([str(TINY), "--port", "0", "--graph", "fp9"], "fp9"),
        ):
            assert main(["serve", *arguments]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("error: ")
            assert words in line
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("lame_runtime.serving.web")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["serve", str(TINY)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("pip install 'lame-runtime[serve]'")
    assert "uvicorn" in line


def test_an_open_server_is_warned_of_and_a_key_comes_from_the_environment() -> None:
    """A key is never printed."""
    with process("--host", "0.0.0.0", LAME_API_KEY="") as (child, url):
        port = httpx.URL(url).port
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
        assert child.stderr is not None
        assert child.stderr.read() == (
            "warning: everybody who reaches 0.0.0.0 may use this server; set LAME_API_KEY\n"
        )
    with process("--host", "0.0.0.0", LAME_API_KEY="from-the-environment") as (child, url):
        port = httpx.URL(url).port
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
        headers = {"authorization": "Bearer from-the-environment"}
        response = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=headers)
        assert response.status_code == 200
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_replies_do_not_wait_for_acknowledgements() -> None:
    """The protocol's number is what asyncio turns Nagle's algorithm off by."""
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
