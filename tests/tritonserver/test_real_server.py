"""Tests a written repository in the real Triton server, on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from changed_bundle import EXAMPLE
from triton_server import Server, answer, require_server, running, vectors_there

BAD = "data:image/png;base64," + base64.b64encode(b"not a picture").decode()


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Returns a server that has loaded the model `tiny`."""
    require_server()
    with running(model_folder.parent, tmp_path_factory.mktemp("server")) as server:
        yield server


def data(response: Any) -> list[float]:
    """Returns the values of the tensor of a response."""
    (tensor,) = response["outputs"]
    assert (tensor["name"], tensor["datatype"]) == ("embeddings", "FP32")
    values: list[float] = tensor["data"]
    return values


def hold(server: Server, picture_uri: str) -> Any:
    """Sends a request that keeps the model busy while the next ones arrive; it runs already."""
    item = json.dumps({"video": [picture_uri] * 16, "fps": 2})
    line = "executing 1 requests"
    before = server.log_text().count(line)
    connection = server.send("tiny", {"input_json": [item] * 32})
    server.wait_for(line, before + 1)
    return connection


def test_the_model_is_ready_after_its_warm_up(server: Server) -> None:
    """The server says which graph it serves and why; five golden inputs went through it."""
    assert server.get("/v2/models/tiny/ready")[0] == 200
    log = server.log_text()
    assert "graph fp32 by default there; golden vectors hold" in log
    for modality in ("image", "image+text", "text", "images+text", "video+text"):
        assert f"running warmup sample '{modality}'" in log
    assert "failed to run" not in log


def test_golden_inputs_give_the_vectors_of_encode(
    server: Server, golden_items: list[tuple[dict[str, Any], str]]
) -> None:
    """Every golden input over HTTP, equal bit for bit to `encode` in the same environment."""
    expected = vectors_there(EXAMPLE, golden_items)
    for (item, role), row in zip(golden_items, expected, strict=True):
        status, response = server.infer("tiny", {"input_json": [json.dumps(item)]}, input_type=role)
        assert status == 200, response
        assert data(response) == row


def test_nims_names_work(server: Server, picture_uri: str) -> None:
    """Texts and pictures as `text`, with parameters; both in two tensors give one vector."""
    inputs = {"text": ["a", picture_uri], "modality": ["text", "image"]}
    parameters = {"input_type": "passage", "truncate": "END", "dimensions": 16}
    status, response = server.infer("tiny", inputs, **parameters, embedding_type="float")
    assert status == 200, response
    assert response["outputs"][0]["shape"] == [2, 16]
    status, response = server.infer("tiny", {"text": ["a"], "image": [picture_uri]})
    assert status == 200, response
    assert response["outputs"][0]["shape"] == [1, 64]


def test_simultaneous_requests_are_embedded_together(server: Server, picture_uri: str) -> None:
    """24 texts and pictures that wait run as one batch; a bad one among them fails alone."""
    inputs = [BAD if n == 5 else picture_uri if n % 2 else f"text {n}" for n in range(24)]
    before = server.executions("tiny")
    busy = hold(server, picture_uri)
    answers = [answer(waiting) for waiting in [server.send("tiny", {"text": [i]}) for i in inputs]]
    assert answer(busy)[0] == 200
    after = server.executions("tiny")
    assert after[24] == before.get(24, 0) + 1
    for number, (status, response) in enumerate(answers):
        if number == 5:
            assert status == 400
            assert response["error"].startswith("input 0: the given bytes: not a picture")
        else:
            alone = server.infer("tiny", {"text": [inputs[number]]})[1]
            assert (status, data(response)) == (200, data(alone))
    assert server.get("/v2/models/tiny/ready")[0] == 200


def test_requests_beyond_the_queue_are_refused(server: Server, picture_uri: str) -> None:
    """If 30 requests arrive, 24 may wait and are answered; the others are refused at once."""
    busy = hold(server, picture_uri)
    waiting = [server.send("tiny", {"text": [f"text {number}"]}) for number in range(30)]
    statuses = [answer(connection)[0] for connection in waiting]
    assert answer(busy)[0] == 200
    assert sorted(set(statuses)) == [200, 503]
    assert statuses.count(200) == 24
    assert server.infer("tiny", {"text": ["after"]})[0] == 200


def test_a_request_that_waits_too_long_is_refused(server: Server, picture_uri: str) -> None:
    """A request may wait a millisecond while the model is busy for longer."""
    busy = hold(server, picture_uri)
    hurried = server.send("tiny", {"text": ["in a hurry"]}, timeout=1000)
    assert answer(busy)[0] == 200
    assert answer(hurried)[0] == 503


@pytest.mark.parametrize("name", ["{path}", "file://{path}", "http://127.0.0.1:1/a.png"])
def test_the_server_opens_nothing_that_a_client_names(
    server: Server, picture: Path, name: str
) -> None:
    """A file that the server could read, and a URL: refused as pictures, and the model lives."""
    name = name.replace("{path}", str(picture))
    for inputs in ({"input_json": [json.dumps({"image": name})]}, {"image": [name]}):
        status, response = server.infer("tiny", inputs)
        assert status == 400, response
    assert server.infer("tiny", {"text": ["after"]})[0] == 200
