"""Tests that the bytes that were checked are the bytes that run, whatever happens on the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_bundle import ENCODER, EXAMPLE, changed_bundle, constant_encoder
from lame_runtime import BundleError, Encoder
from lame_runtime.backends import onnxruntime as onnx_backend
from lame_runtime.bundle import graph_source
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.contract.batch import assemble
from lame_runtime.contract.preparer import Preparer
from lame_runtime.inputs import as_input

DATA = f"{ENCODER}.data"


@pytest.fixture(scope="module")
def feeds() -> dict[str, Any]:
    """Returns the encoder graph's inputs for one text."""
    preparer = Preparer.load(EXAMPLE)
    batch = assemble([preparer(as_input("seven"))], preparer.contract)
    return batch.encoder_feeds(np.zeros((1, 64), np.float32))


@pytest.fixture(scope="module")
def vectors(feeds: dict[str, Any]) -> np.ndarray:
    """Returns the example's vector of that text."""
    return embed(onnx_backend.open_session(EXAMPLE / ENCODER), feeds)


def embed(session: Any, feeds: dict[str, Any]) -> np.ndarray:
    return onnx_backend.run_session(session, feeds)["sentence_embedding"]


def other_weights() -> bytes:
    return np.roll(np.frombuffer((EXAMPLE / DATA).read_bytes(), np.uint8), 4096).tobytes()


def replace(path: Path, content: bytes) -> None:
    """Puts another file in the place of one, as a new download does."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(path)


def test_files_that_are_replaced_after_the_check_are_not_read(
    tmp_path: Path, feeds: dict[str, Any], vectors: np.ndarray
) -> None:
    """Graph and weights are those that were opened, not those that have taken their names.

    Control: a session that opens the files by name takes what lies there.
    """
    bundle = changed_bundle(tmp_path / "b")
    with graph_source.open_graph(bundle / ENCODER) as source:
        replace(bundle / DATA, other_weights())
        session = onnx_backend.source_session(source, "CPUExecutionProvider", 1)
    assert np.allclose(embed(session, feeds), vectors, atol=1e-5)
    by_name = onnx_backend.open_session(bundle / ENCODER)
    assert not np.allclose(embed(by_name, feeds), vectors, atol=1e-2)


def test_mapped_weights_that_are_replaced_are_refused(tmp_path: Path) -> None:
    """The mapped bytes are the right ones, but their times have changed; loading again helps."""
    bundle = changed_bundle(tmp_path / "b")
    with graph_source.open_graph(bundle / ENCODER, mapped=True) as source:
        replace(bundle / DATA, other_weights())
        with pytest.raises(BundleError, match="load the bundle again"):
            onnx_backend.source_session(source, "CPUExecutionProvider", 1, lean=True)


def test_files_that_are_replaced_between_two_graphs_are_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the vision graph is loaded, the encoder's files are replaced: that is noticed."""
    bundle = changed_bundle(tmp_path / "b")
    create = onnx_backend.source_session

    def late(*args: Any, **options: Any) -> Any:
        replace(bundle / ENCODER, constant_encoder(np.ones((1, 64), np.float32)))
        return create(*args, **options)

    monkeypatch.setattr(onnx_backend, "source_session", late)
    with pytest.raises(BundleError, match=r"encoder.fp32.onnx: differs from what was exported"):
        Encoder.load(bundle, backend="onnxruntime")


def test_weights_that_are_overwritten_while_they_are_loaded_do_no_harm(
    tmp_path: Path, feeds: dict[str, Any], vectors: np.ndarray
) -> None:
    """Weights in memory are a copy: the file may be overwritten or cut short in its place."""
    bundle = changed_bundle(tmp_path / "b")
    with graph_source.open_graph(bundle / ENCODER) as source:
        (bundle / DATA).write_bytes(b"short")
        session = onnx_backend.source_session(source, "CPUExecutionProvider", 1)
    assert np.allclose(embed(session, feeds), vectors, atol=1e-5)


@pytest.mark.parametrize("limit", [0, 1 << 29])
def test_mapped_weights_that_are_overwritten_while_they_are_loaded_are_refused(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that stay on the disk, or are too large for a copy, are looked at once more.

    Control: without the second look they are loaded.
    """
    monkeypatch.setattr(graph_source, "PRIVATE_BYTES", limit)
    bundle = changed_bundle(tmp_path / "b")

    def overwrite() -> None:
        with (bundle / DATA).open("r+b") as file:
            file.write(other_weights())

    def load() -> None:
        with graph_source.open_graph(bundle / ENCODER, mapped=limit > 0) as source:
            overwrite()
            onnx_backend.source_session(source, "CPUExecutionProvider", 1, lean=limit > 0)

    with pytest.raises(BundleError, match="was changed while it was loaded"):
        load()
    monkeypatch.setattr(graph_source.GraphSource, "require_unchanged", lambda self: None)
    load()


def test_a_change_right_after_another_is_seen(tmp_path: Path) -> None:
    """Two changes within one tick of the kernel's clock get the same time, so the state is taken
    later.
    """
    path = tmp_path / "weights"
    for _ in range(20):
        path.write_bytes(b"good")
        with path.open("rb") as file:
            state = graph_source.settled_state(file)
            path.write_bytes(b"evil")
            assert graph_source.file_state(file) != state


@pytest.mark.parametrize("name", ["contract.json", "tokenizer.json"])
def test_small_files_are_read_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced after the bundle was opened is refused, not used unchecked."""
    bundle = changed_bundle(tmp_path / "b")
    opened = Bundle.open(bundle)
    content = (bundle / name).read_bytes()
    assert opened.read(name) == content
    monkeypatch.setattr("lame_runtime.loading.Bundle.open", lambda folder: opened)
    replace(bundle / name, content.replace(b"0", b"1"))
    with pytest.raises(BundleError, match=rf"{name}: differs from what was exported"):
        Encoder.load(bundle, backend="onnxruntime")


@pytest.mark.parametrize("name", ["inputs.jsonl", "embeddings.npy"])
def test_golden_vectors_are_those_that_were_hashed(name: str, tmp_path: Path) -> None:
    """Golden files are hashed as they are read, not by a look before."""
    bundle = changed_bundle(tmp_path / "b")
    opened = Bundle.open(bundle)
    assert len(opened.golden().inputs) > 1
    path = bundle / "golden" / name
    content = path.read_bytes()
    replace(path, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(BundleError, match="differs from what was exported"):
        opened.golden()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
@pytest.mark.parametrize("mapped", [False, True])
def test_a_path_that_is_not_utf8_is_a_path(mapped: bool, tmp_path: Path) -> None:
    """A bundle is loaded from a folder of any name that the system allows."""
    bundle = changed_bundle(tmp_path / os.fsdecode(b"b\xff\n\xfe"))
    with Encoder.load(bundle, backend="onnxruntime", map_weights=mapped) as encoder:
        assert encoder.encode("seven").shape == (1, 64)
