"""Tests how tensors and parameters of a request become inputs, and that strings are never paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from changed_bundle import EXAMPLE
from lame_runtime import Encoder, InputError, UsageError
from lame_runtime.contract import Contract, Preparer
from lame_runtime.files import urls
from lame_runtime.inputs import as_input
from lame_runtime.integrations.triton.triton_requests import TritonRequest, read_request


@pytest.fixture(scope="module")
def example_contract() -> Contract:
    """Returns the contract of the example bundle."""
    return Preparer.load(EXAMPLE).contract


def encoded(tensors: dict[str, Any]) -> dict[str, list[bytes]]:
    """Returns tensors as the server hands them over: one value per row, in bytes."""
    return {
        name: [value if isinstance(value, bytes) else value.encode() for value in values]
        for name, values in tensors.items()
    }


def test_every_form_of_a_picture_is_the_same_input(
    example_contract: Contract, picture: Path, picture_uri: str
) -> None:
    """Bytes, `data:` URIs in three tensors, and a dict, with a text and without."""
    content = picture.read_bytes()
    alone = [
        {"image": [content]},
        {"image": [picture_uri]},
        {"image": [picture_uri.replace("data:", "DATA:")]},
        {"text": [picture_uri]},
        {"text": ["  " + picture_uri], "modality": ["image"]},
        {"text": [""], "image": [content], "input_json": [""]},
        {"input_json": [json.dumps({"image": picture_uri})]},
    ]
    together = [
        {"text": ["a caption"], "image": [content]},
        {"input_json": [json.dumps({"image": picture_uri, "text": "a caption"})]},
    ]
    for forms, expected in (
        (alone, as_input({"image": content})),
        (together, as_input({"image": content, "text": "a caption"})),
    ):
        for tensors in forms:
            request = read_request(encoded(tensors), {}, example_contract)
            (item,) = request.items
            assert item.parts == expected.parts
            assert item.given_parts == expected.given_parts


def test_a_text_stays_a_text(example_contract: Contract, picture: Path, picture_uri: str) -> None:
    """The name of a file, a URL, and what only looks like a `data:` URI; all as `text`."""
    for text in (str(picture), "https://example.com/a.png", "data: the new oil", "file:///a"):
        request = read_request(encoded({"text": [text]}), {}, example_contract)
        assert request.items[0].parts == (text,)
    request = read_request(
        encoded({"text": [picture_uri], "modality": ["text"]}), {}, example_contract
    )
    assert request.items[0].parts == (picture_uri,)


def test_the_role_of_a_row_is_an_instruction(contract: Contract) -> None:
    """The tensor `input_type` goes before the parameter, and an own instruction before both."""
    rows = [json.dumps({"text": "a", "instruction": "Mine."}), '{"text": "a"}', '{"text": "a"}']
    tensors = encoded({"input_json": rows, "input_type": ["query", "passage", ""]})
    request = read_request(tensors, {"input_type": "search_query"}, contract)
    assert [item.instruction for item in request.items] == ["Mine.", "", "Find it."]


def test_parameters_are_read(example_contract: Contract) -> None:
    """Number of values and truncation, by NIM's names."""
    parameters = {"truncate": "END", "dimensions": 16, "embedding_type": "float"}
    request = read_request(encoded({"text": ["a"]}), parameters, example_contract)
    assert (request.truncate, request.dimensions) == (True, 16)
    request = read_request(encoded({"text": ["a"]}), {}, example_contract)
    assert (request.truncate, request.dimensions) == (False, None)


@pytest.mark.parametrize(
    ("tensors", "parameters", "message"),
    [
        ({}, {}, "the request is empty"),
        ({"text": [""]}, {}, "input 0: the row is empty"),
        ({"text": ["a", ""]}, {}, "input 1: the row is empty"),
        ({"text": ["a"], "image": ["b", "c"]}, {}, "different numbers of rows"),
        ({"text": [b"\xff\xfe"]}, {}, "`text` is not UTF-8"),
        ({"image": [b"data:\xff"]}, {}, "`image` is not UTF-8"),
        ({"image": ["data:image/png;base64,%%%"]}, {}, "cannot be decoded"),
        ({"text": ["a"], "input_json": ["{}"]}, {}, "not both"),
        ({"input_json": ["{"]}, {}, "is not JSON"),
        ({"input_json": ["[" * 100_000]}, {}, "nested too deeply"),
        ({"input_json": ['{"text": NaN}']}, {}, "is not JSON"),
        ({"input_json": ['{"text": "a", "text": "b"}']}, {}, "occurs twice"),
        ({"input_json": ['["a"]']}, {}, "must be a JSON object"),
        ({"input_json": ['{"txt": "a"}']}, {}, "unknown keys"),
        ({"input_json": ['{"image": 3}']}, {}, "`image` must be"),
        ({"text": ["a"], "modality": ["audio"]}, {}, "`modality` is 'audio'"),
        ({"text": ["a"]}, {"modality": "image"}, "no data: URI"),
        ({"text": ["see data:image/png;base64,AAAA"]}, {}, "among other words"),
        ({"text": ["data:image/png;base64,AAAA"], "image": ["b"]}, {}, "both in `input_json`"),
        ({"text": ["a"], "input_type": ["qery"]}, {}, "`input_type` is 'qery'"),
        ({"text": ["a"]}, {"input_type": 3}, "`input_type` is 3"),
        ({"text": ["a"]}, {"input_typ": "query"}, "unknown parameter 'input_typ'"),
        ({"text": ["a"]}, {"truncate": "START"}, "`truncate` is 'START'"),
        ({"text": ["a"]}, {"dimensions": 65}, "`dimensions` is 65"),
        ({"text": ["a"]}, {"dimensions": True}, "`dimensions` is True"),
        ({"text": ["a"]}, {"embedding_type": "int8"}, "`embedding_type` is 'int8'"),
    ],
)
def test_a_bad_request_is_refused_by_name(
    tensors: dict[str, Any], parameters: dict[str, Any], message: str, example_contract: Contract
) -> None:
    """The message says which input or parameter is wrong, and what to give."""
    with pytest.raises((InputError, UsageError)) as caught:
        read_request(encoded(tensors), parameters, example_contract)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["{path}", "file://{path}", "http://127.0.0.1/a.png", "clip.mp4"])
def test_no_string_of_a_client_opens_anything(
    name: str,
    example_contract: Contract,
    picture: Path,
    no_network: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names of files that exist and URLs, in every place where a dict takes a source.

    As a control, the encoder reads the same file when its owner names it.
    """
    name = name.replace("{path}", str(picture))
    places: list[Any] = [
        {"image": name},
        {"image": [name]},
        {"text": "a", "image": name},
        {"video": name},
        {"video": [name, name], "fps": 2.0},
        {"content": ["a", {"image": name}]},
        {"content": [{"video": name}]},
        {"content": [{"video": [name], "fps": 1}]},
    ]
    with Encoder.load(EXAMPLE, backend="onnxruntime") as encoder:
        assert encoder.encode({"image": str(picture)}).shape == (1, 64)
    monkeypatch.setattr(urls, "open_regular", lambda *_: pytest.fail("a file was opened"))
    for place in places:
        with pytest.raises(InputError, match=r"a server opens none|is a URL"):
            read_request(encoded({"input_json": [json.dumps(place)]}), {}, example_contract)


def test_videos_have_to_be_allowed(example_contract: Contract, picture_uri: str) -> None:
    """Lists of frames are pictures; an encoded video goes through FFmpeg, which is off."""
    frames = {"input_json": [json.dumps({"video": [picture_uri] * 2, "fps": 1})]}
    assert isinstance(read_request(encoded(frames), {}, example_contract), TritonRequest)
    clip = {"input_json": [json.dumps({"video": "data:video/mp4;base64,AAAA"})]}
    with pytest.raises(InputError, match="videos are turned off"):
        read_request(encoded(clip), {}, example_contract)
    assert read_request(encoded(clip), {}, example_contract, allow_video=True).items
