"""Requests that are refused: one shape for every error, and nothing of the server in any body."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from lame_runtime import InputError, UsageError
from lame_runtime.errors import shown
from lame_runtime.serving.api.api_errors import input_problem
from lame_runtime.serving.requests import json_body
from lame_runtime.serving.requests.media_sources import MediaSources
from lame_runtime.serving.settings import ServeOptions
from running_server import (
    RunningServer,
    data_url,
    error_of,
    load_tiny,
    picture,
    running,
)

FOREIGN = re.compile(r"0x[0-9a-f]{6}|Traceback|BytesIO|PIL|Errno|lame_runtime|site-packages")
"""Parts of what other libraries say, and of what no client should learn."""


def bomb(width: int, height: int) -> bytes:
    """Returns a PNG of a few bytes whose header announces a size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    return data + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT"


BROKEN: dict[str, Any] = {
    "truncated": data_url(picture()[:400]),
    "no bytes": {"image": "data:image/png;base64,"},
    "no picture": data_url(b"plain text, and long enough to be looked at"),
    "no base64": {"image": "data:image/png;base64,####"},
    "unknown key": {"txt": "seven"},
    "token ids": [5, 6, 7],
    "a path": {"image": "/etc/hostname"},
    "a strip": data_url(bomb(1, 10_000)),
    "a bomb": data_url(bomb(50_000, 50_000)),
    "nothing": {},
    "too long": "word " * 2000,
    "a URL": {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}},
}
"""Twelve ways in which an item can be bad."""


def test_a_string_that_never_ends_is_refused_at_once(server: RunningServer) -> None:
    """Looking for its end takes time that grows with its length, not with the square of it."""
    values = json_body.MAX_VALUES + 1
    body = b'{"input":[' + b"1," * values + b'"' + b'\\"' * 200_000
    response = server.client.post("/v1/embeddings", content=body)
    assert response.status_code == 413
    assert error_of(response)["code"] == "too_many_values"


def test_too_many_pictures_are_counted_before_any_is_looked_at(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a list, in parts and in a conversation; the limit of an input is that of the contract."""
    looked: list[object] = []
    monkeypatch.setattr(MediaSources, "_checked", lambda _, data: looked.append(data) or data)
    url = data_url(picture())
    part = {"type": "image_url", "image_url": {"url": url}}
    most = server.service.encoder.preparer.contract.limits.visuals
    turn = {"role": "user", "content": [part] * (most + 1)}
    for item in ({"image": [url] * (most + 1)}, {"content": [part] * (most + 1)}, [turn]):
        error = server.error(400, input=["seven", item])
        assert error["param"] == "input[1]"
        assert f"holds {most + 1} pictures" in error["message"]
    assert not looked


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]], ["a", 5], [1.5]])
def test_token_ids_are_refused_with_the_remedy(ids: Any, server: RunningServer) -> None:
    """They are those of another tokenizer; LangChain sends them by default."""
    error = server.error(400, input=ids)
    assert error["code"] == "token_ids"
    assert error["param"].startswith("input[")
    assert "check_embedding_ctx_length=False" in error["message"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": "a", "modality": "image"}, "modality", "unknown key `modality`"),
        ({"input": ["a", {"type": "image", "url": "x"}]}, "input[1]", "unknown key `url`"),
        ({"input": [{"content": [{"text": "a", "pic": 1}]}]}, "input[0].content[0]", "`pic`"),
        ({"input": [{"image": 5}]}, "input[0].image", "must be a string"),
        ({"input": "a", "dimensions": 0}, "dimensions", "not allowed"),
        ({"input": "a", "dimensions": 65}, "dimensions", "use 1 to 64"),
        ({"input": "a", "dimensions": True}, "dimensions", "whole number"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "not allowed"),
        ({"input": "a", "embedding_type": "float64"}, "embedding_type", "not allowed"),
        ({"input": []}, "input", "empty"),
        ({"input": ""}, "input", "empty"),
        ({}, "input", "either `input` or `messages`"),
        ({"input": "a", "messages": []}, "input", "either"),
        ({"messages": []}, "messages", "list of messages"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role", "not allowed"),
        ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "messages[0]", "`x`"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages", "assistant"),
        ({"input": {"type": "image_url", "text": "a"}}, "input", "needs the key `image_url`"),
        ({"input": {"content": ["a"], "text": "b"}}, "input", "not both"),
        ({"input": {"video": "data:video/mp4;base64,AAAA"}}, "input", "videos are not read"),
        ({"input": "data:video/mp4;base64,AAAA"}, "input", "videos are not read"),
        ({"input": "data:image/png;base64"}, "input", "damaged data: URL"),
        ({"input": {"image": "iVBORw0KGgo="}}, "input", "must be a data: URL"),
        ({"input": {"image": "file:///etc/passwd"}}, "input", "URLs are not fetched"),
        ({"input": {"image": "http://example.com/a.png"}}, "input", "--allow-urls"),
    ],
)
def test_mistakes_are_named(
    body: dict[str, Any], param: str, words: str, server: RunningServer
) -> None:
    """A 400 with the place and what to do."""
    error = server.error(400, **body)
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("key", ["x` - at `$.input[7]", "x`", "`", "[...]", "a\nb", "k" * 5000])
def test_the_name_of_a_key_does_not_change_the_place(key: str, server: RunningServer) -> None:
    """A key of the request is its own place; one of an item has the item's."""
    error = server.error(400, **{"input": "a", key: 1})
    assert error["code"] == "unknown_key"
    assert error["param"] == shown(key)
    nested = server.error(400, input=["a", {"text": "b", key: 1}])
    assert (nested["code"], nested["param"]) == ("unknown_key", "input[1]")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"a"', b"\xff\xfe", b"[" * 100_000, b'{"input":' * 5000]
)
def test_what_is_no_json_object_is_refused(body: bytes, server: RunningServer) -> None:
    """Also JSON that is nested deeper than any parser follows."""
    for route in ("/v1/embeddings", "/v2/embed"):
        response = server.client.post(route, content=body)
        assert response.status_code == 400
        assert not FOREIGN.search(response.text)
        error_of(response)


def test_small_bodies_that_are_large_in_memory_are_refused(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are counted before they are made; commas in a text are none."""
    decoded: list[Any] = []
    real = json_body.msgspec.json.decode
    monkeypatch.setattr(
        json_body.msgspec.json, "decode", lambda body: (decoded.append(1), real(body))[1]
    )
    for value in ("{}", "[]", '""', "1", '{"text":"a"}'):
        body = '{"input":[' + ",".join([value] * 270_000) + "]}"
        response = server.client.post("/v1/embeddings", content=body.encode())
        assert response.status_code == 413
        assert error_of(response)["code"] == "too_many_values"
    assert not decoded
    texts = ["a, " * 50, "[{" * 50, '",' * 50, "\\" * 9]
    monkeypatch.setattr(json_body, "MAX_VALUES", 20)
    assert server.post(input=texts).status_code == 200
    assert server.post(input=["a"] * 30).status_code == 413


def test_errors_of_the_framework_have_the_same_shape(server: RunningServer) -> None:
    """404, 405 and a model that is not served."""
    for method, route, status in (
        ("GET", "/page", 404),
        ("POST", "/v1/embedding", 404),
        ("POST", "/v1/embeddings/", 404),
        ("GET", "/v1/embeddings", 405),
        ("DELETE", "/metrics", 405),
    ):
        response = server.client.request(method, route)
        assert response.status_code == status
        error_of(response)
    assert server.error(404, input="a", model="text-embedding-3-small")["code"] == "model_not_found"


def test_large_bodies_are_refused_before_they_are_read() -> None:
    """By the header, and while they are read if there is none."""
    with running(ServeOptions(port=0, max_body_mb=1)) as server:
        large = json.dumps({"input": "x" * 1_100_000})
        for content in (large, iter([large.encode()[:600_000], large.encode()[600_000:]])):
            response = server.client.post("/v1/embeddings", content=content)
            assert response.status_code == 413
            assert error_of(response)["code"] == "request_too_large"
        # what it says it holds is never waited for
        head = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 99000000\r\n\r\n"
        assert b"413" in raw_answer(server.url, head)
        assert server.service.admission.bytes == 0
        assert server.post(input="a").status_code == 200


def raw_answer(url: str, data: bytes) -> bytes:
    """Sends bytes and returns the first bytes of the answer."""
    import socket

    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), 10) as connection:
        connection.sendall(data)
        return connection.recv(4096)


def test_the_key_covers_all_routes_but_two() -> None:
    """Each of several keys is accepted; live and ready need none, routes that do not exist do."""
    options = ServeOptions(port=0, api_keys=("first-key", "second-key"))
    routes = ["/v1/models", "/metrics", "/health", "/openapi.json", "/nothing", "/v1/embeddings"]
    with running(options) as server:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic first-key"},
        ):
            for route in routes:
                response = httpx.get(server.url + route, headers=headers)
                assert response.status_code == 401, route
                assert error_of(response)["code"] == "invalid_api_key"
            assert httpx.post(f"{server.url}/v1/embeddings", json={"input": "a"}).status_code == 401
        for route in ("/v1/health/live", "/v1/health/ready"):
            assert httpx.get(server.url + route).status_code == 200
        for key in options.api_keys:
            headers = {"authorization": f"Bearer {key}"}
            response = httpx.get(f"{server.url}/v1/models", headers=headers)
            assert response.status_code == 200
    # and not in what is printed about the options
    assert "first-key" not in repr(options)


def test_no_file_is_opened_for_a_client(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever a string is, in whatever place, it is a text or refused; the control opens one."""
    file = tmp_path / "a.png"
    file.write_bytes(picture())
    opened: list[str] = []

    def note(path: Any, *_: Any, **__: Any) -> Any:
        opened.append(str(path))
        raise FileNotFoundError

    for module in ("files.urls", "contract.media.videos.video_file"):
        monkeypatch.setattr(f"lame_runtime.{module}.open_regular", note)
    name = str(file)
    for item in (
        {"image": name},
        {"image": [name]},
        {"content": [{"image": name}]},
        {"image_url": name},
        {"image_url": {"url": f"file://{name}"}},
        {"image_base64": name},
        {"video": name},
        {"video": [name]},
        {"video_url": name},
        [{"role": "user", "content": [{"image": name}]}],
    ):
        server.error(400, input=[item])
    for text in (name, f"{name}#page=1", f"file://{name}", {"text": name}, {"content": name}):
        assert server.post(input=text).status_code == 200
    assert not opened
    with load_tiny() as encoder, pytest.raises(InputError):
        encoder.encode({"image": name})
    assert opened == [name]


def test_messages_lose_what_other_libraries_said() -> None:
    """Texts in parentheses, addresses, and advice for Python."""
    for message, expected in (
        (
            "input 3: the given bytes: the picture cannot be decoded (cannot identify image file "
            "<_io.BytesIO object at 0x7f8b1c0>); it may be truncated or damaged",
            "the given bytes: the picture cannot be decoded; it may be truncated or damaged",
        ),
        ("input 0: too long: pass `truncate=True`", 'too long: send `"truncate": "END"`'),
        ("at 0x7f8b1c0d1230", "…"),
    ):
        problem = input_problem(InputError(message), "input[3]")
        assert problem.message == expected
        assert problem.body["error"]["param"] == "input[3]"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue_items": 5}, "fewer than `max_items`"),
        ({"port": 70_000}, "`port`"),
        ({"api_keys": ("",)}, "`api_key`"),
        ({"api_keys": ("two words",)}, "`api_key`"),
        ({"allow_urls": ("http://a",)}, "`allow_urls`"),
        ({"deadline": 0}, "`deadline`"),
        ({"batch_tokens": 0}, "`batch_tokens`"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    """A server does not start with options that cannot work."""
    with pytest.raises(UsageError, match=re.escape(words)):
        ServeOptions(**options)
