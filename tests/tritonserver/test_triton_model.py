"""Tests the `model.py` of a written repository, under a stand-in for Triton's Python module."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_bundle import EXAMPLE, rehash
from lame_runtime import Encoder, ProofError
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.contract import Preparer
from lame_runtime.inputs import as_input
from lame_runtime.integrations.triton import triton_service
from triton_stand_in import Request, TritonError, load_model

FAULTS: list[tuple[dict[str, list[bytes]], dict[str, Any]]] = [
    ({"image": [b"not a picture"]}, {}),
    ({"image": [b"\x89PNG\r\n\x1a\n"]}, {}),
    ({"image": [b"data:image/png;base64,!"]}, {}),
    ({"text": [b"\xff"]}, {}),
    ({"text": [b"word " * 10_000]}, {}),
    ({"text": [b"  "]}, {}),
    ({"text": [b"fine", b""]}, {}),
    ({"input_json": [b"{"]}, {}),
    ({"input_json": [b'{"image": "/etc/passwd"}']}, {}),
    ({"input_json": [b'{"image": "http://169.254.169.254/"}']}, {}),
    ({"text": [b"fine"]}, {"dimensions": 0}),
    ({"text": [b"fine"]}, {"unknown": 1}),
]
"""Tensors and parameters of twelve requests that must be refused."""


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Iterator[Any]:
    """Returns the initialized model of the repository."""
    with pytest.MonkeyPatch.context() as patch:
        model = load_model(model_folder, patch)
    yield model
    model.finalize()


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    """Returns an encoder of the same bundle."""
    with Encoder.load(EXAMPLE, backend="onnxruntime") as encoder:
        yield encoder


def vectors(response: Any) -> np.ndarray:
    """Returns the tensor of a response that is no error."""
    assert response.error() is None, response.error().message()
    (tensor,) = response.output_tensors()
    assert tensor.name() == "embeddings"
    array: np.ndarray = tensor.as_numpy()
    assert array.dtype == np.float32
    return array


def text_request(text: str, **parameters: Any) -> Request:
    """Returns a request of one text."""
    return Request({"text": [text.encode()]}, parameters or None)


def test_a_list_of_requests_is_one_call_of_the_encoder(
    model: Any,
    encoder: Encoder,
    golden_items: list[tuple[dict[str, Any], str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All golden inputs with roles of their own, each a request: the same bits as `encode`."""
    calls: list[int] = []
    encode = Encoder.encode

    def count(self: Encoder, inputs: Any, **options: Any) -> Any:
        calls.append(len(inputs))
        return encode(self, inputs, **options)

    requests = [
        Request({"input_json": [json.dumps(item).encode()], "input_type": [role.encode()]})
        for item, role in golden_items
    ]
    monkeypatch.setattr(Encoder, "encode", count)
    responses = model.execute(requests)
    assert calls == [len(golden_items)]
    for response, (item, role) in zip(responses, golden_items, strict=True):
        expected = encode(encoder, [item], role=role)
        np.testing.assert_array_equal(vectors(response), expected)


def test_rows_and_values_of_each_request_are_its_own(model: Any, encoder: Encoder) -> None:
    """Several rows, cut vectors and cut texts share a list, and equal `encode` bit for bit."""
    long = "word " * 10_000
    requests = [
        Request({"text": [b"one", b"two"]}, {"input_type": "query"}),
        text_request("three", dimensions=16),
        text_request(long, truncate="END"),
        text_request("four"),
    ]
    expected = [
        encoder.encode_query(["one", "two"]),
        encoder.encode("three", truncate_dim=16),
        encoder.encode(long, truncate=True),
        encoder.encode("four"),
    ]
    for response, rows in zip(model.execute(requests), expected, strict=True):
        np.testing.assert_array_equal(vectors(response), rows)


def test_bad_requests_leave_their_batch_mates_alone(model: Any, encoder: Encoder) -> None:
    """Twelve faults among good requests: each has its own error, the others their vectors."""
    requests = []
    for number, (tensors, parameters) in enumerate(FAULTS):
        requests += [text_request(f"text {number}"), Request(tensors, parameters)]
    responses = model.execute(requests)
    assert len(responses) == len(requests)
    for number, (good, bad) in enumerate(zip(responses[::2], responses[1::2], strict=True)):
        np.testing.assert_array_equal(vectors(good), encoder.encode(f"text {number}"))
        assert bad.error().code() == TritonError.INVALID_ARG, FAULTS[number]
        assert bad.output_tensors() == []
        assert "Traceback" not in bad.error().message()
        assert str(EXAMPLE) not in bad.error().message()
    assert model.is_ready()
    # the number is that of the row in its own request, not in the batch
    (_, mixed) = model.execute([text_request("a"), Request({"image": [b"x"], "text": [b"b"]})])
    assert mixed.error().message().startswith("input 0: ")


def test_a_message_quotes_no_other_library(model: Any, picture: Path) -> None:
    """Pillow's and PDFium's words stay here; options are those that a client has."""
    cut = picture.read_bytes()
    damaged = [cut[:60], cut[:200], b"\x89PNG\r\n\x1a\n" + bytes(50), b"%PDF-1.4"]
    requests = [Request({"image": [content]}) for content in damaged]
    *pictures, text = model.execute([*requests, text_request("word " * 900)])
    for response in pictures:
        message = response.error().message()
        assert re.fullmatch(
            r"input 0: the given bytes: the (picture|PDF) cannot be (decoded|read); it may be "
            r"truncated or damaged",
            message,
        )
    assert text.error().message().endswith("shorten it or set `truncate` to END")


def test_a_client_that_is_gone_and_tensors_that_raise_cost_nobody_else(
    model: Any, encoder: Encoder
) -> None:
    """A request that nobody waits for is not embedded; one that cannot be read gets an error."""
    broken = text_request("b")
    broken.inputs = lambda: [None]  # type: ignore[method-assign]
    gone = Request({"text": [b"c"]}, is_gone=True)
    first, second, third = model.execute([text_request("a"), broken, gone])
    np.testing.assert_array_equal(vectors(first), encoder.encode("a"))
    assert second.error().message() == "the tensors of the request cannot be read"
    assert third.error().code() == TritonError.CANCELLED


class _Faulty(FakeBackend):
    """A backend that fails for batches with a text of a certain length, or for all."""

    def __init__(self, dim: int) -> None:
        super().__init__(width=8, dim=dim)
        self.fails_for: set[int] = set()
        self.is_lost = False

    def encoder(self, batch: Any, features_FD: Any) -> Any:
        """Fails, or returns vectors."""
        lengths = set((batch.embed_index + 1).tolist())
        if self.is_lost or lengths & self.fails_for:
            raise RuntimeError("CUDA error at 0x7f00 in /opt/secret.cc")
        return super().encoder(batch, features_FD)


@pytest.fixture
def faulty(model: Any, monkeypatch: pytest.MonkeyPatch) -> _Faulty:
    """Puts a backend that can be made to fail into the model; its vectors count as proved."""
    service = model.service
    backend = _Faulty(service.encoder.dim)
    monkeypatch.setattr(service, "encoder", service.encoder.with_backend(backend))
    monkeypatch.setattr(triton_service, "holds", lambda *_: True)
    monkeypatch.setattr(service, "_went_through_at", service._went_through_at)  # noqa: SLF001
    logging.getLogger(triton_service.__name__).setLevel(logging.CRITICAL)
    return backend


def test_a_run_that_fails_for_one_request_is_repeated_for_the_others(
    model: Any, faulty: _Faulty
) -> None:
    """Each request runs alone then; the message tells nothing about the machine."""
    preparer = model.service.encoder.preparer
    faulty.fails_for = {len(preparer(as_input("a longer text than the others")).ids)}
    texts = ["a", "a longer text than the others", "b"]
    first, second, third = model.execute([text_request(text) for text in texts])
    assert vectors(first).shape == vectors(third).shape == (1, 64)
    assert second.error().code() == TritonError.INTERNAL
    assert second.error().message() == "the model could not embed this; see the log of the server"
    # a golden input goes through, so the machine is fine
    assert model.is_ready()


def test_a_fault_of_ours_costs_one_request(
    model: Any, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever reading or preparing raises becomes the error of the request that it concerns."""
    logging.getLogger(triton_service.__name__).setLevel(logging.CRITICAL)
    read, prepare = triton_service.read_request, Preparer.__call__

    def faulty_read(tensors: Any, *arguments: Any, **options: Any) -> Any:
        return 1 // 0 if tensors["text"] == [b"unread"] else read(tensors, *arguments, **options)

    def faulty_prepare(self: Preparer, item: Any, *arguments: Any, **options: Any) -> Any:
        if item.parts == ("unprepared",):
            raise KeyError("a secret")
        return prepare(self, item, *arguments, **options)

    monkeypatch.setattr(triton_service, "read_request", faulty_read)
    monkeypatch.setattr(Preparer, "__call__", faulty_prepare)
    # a list with a fault of the client's too, so that inputs are prepared one by one
    for texts in (["unread", "unprepared", "a"], ["unprepared", "\0" * 9_000, "a"]):
        *bad, good = model.execute([text_request(text) for text in texts])
        np.testing.assert_array_equal(vectors(good), encoder.encode("a"))
        assert all(response.error() is not None for response in bad)
        assert not any("secret" in response.error().message() for response in bad)


def test_readiness_is_that_of_a_batch(
    model: Any, faulty: _Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ready as soon as nothing goes through, also without requests; ready again afterward."""
    assert vectors(model.execute([text_request("a")])[0]).shape == (1, 64)
    assert model.is_ready()
    faulty.is_lost = True
    assert model.execute([text_request("a")])[0].error() is not None
    assert not model.is_ready()
    faulty.is_lost = False
    assert model.is_ready()
    # lost while nobody asks for anything: seen when the last batch is no longer fresh
    faulty.is_lost = True
    assert model.is_ready()
    monkeypatch.setattr(triton_service, "FRESH_SECONDS", 0.0)
    assert not model.is_ready()


def test_vectors_that_are_not_proved_do_not_serve(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle whose golden vectors are others than its graph's is refused when it is loaded."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "tiny"))
    bundle = folder / "1/bundle"
    golden = np.load(bundle / "golden/embeddings.npy")
    np.save(bundle / "golden/embeddings.npy", np.roll(golden, 1, axis=1))
    rehash(bundle)
    with pytest.raises(ProofError, match="does not reproduce the golden vectors here"):
        load_model(folder, monkeypatch)


def test_the_bundle_may_lie_elsewhere(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absolute path in the configuration is that of the bundle."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "tiny"))
    (folder / "1/bundle").rename(tmp_path / "elsewhere")
    config = folder / "config.pbtxt"
    place = f'string_value: "{tmp_path / "elsewhere"}"'
    config.write_text(config.read_text().replace('string_value: "bundle"', place))
    model = load_model(folder, monkeypatch)
    assert vectors(model.execute([text_request("a")])[0]).shape == (1, 64)
    model.finalize()
