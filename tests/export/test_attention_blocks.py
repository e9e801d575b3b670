"""Attention over blocks of queries: the same values, and no run that holds all scores."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graph_runs import picture_feeds, run_pieces
from lame_export.forward import layers
from lame_export.quantization.calibration import scan
from lame_export.rewrites.emulate import emulate
from lame_export.streaming import attention_blocks
from lame_export.streaming.attention_blocks import Feeds, needs_blocks, run_by_query
from lame_export.streaming.pieces import cut
from lame_export.streaming.streamed_backend import StreamedBackend
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.contract.rules import Contract

LENGTH = 40
LIMITS = {"MAX_SCORES": 100, "BLOCK_SCORES": 7 * LENGTH * 8}
"""So small that the tests' inputs are cut, into blocks of a few queries and a rest."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowers the limits."""
    for name, limit in LIMITS.items():
        monkeypatch.setattr(attention_blocks, name, limit)


def feeds_of(part: str, bundle: Path) -> Feeds:
    """Makes inputs of a graph: two pictures of 8 × 8 patches, or two texts of random tokens."""
    rng = np.random.default_rng(0)
    contract = Contract.load(bundle / "contract.json")
    if part == "vision":
        return picture_feeds((8, 8), contract)
    ids = rng.integers(0, 300, (2, LENGTH))
    width = ir.load(bundle / "graphs/vision.fp32.onnx").graph.outputs[0].shape
    assert width is not None
    return {
        "input_ids": ids,
        "features": np.zeros((1, int(width[-1])), np.float32),
        "feature_index": np.zeros_like(ids),
        "position_ids": np.broadcast_to(np.arange(LENGTH), (3, *ids.shape)).astype(np.int64),
        "embed_index": np.array([LENGTH - 1, LENGTH - 9]),
    }


@pytest.mark.parametrize("graph", ["fp32", "fp16"])
@pytest.mark.parametrize("part", ["vision", "encoder"])
@pytest.mark.usefixtures("small")
def test_attention_over_blocks_of_queries_is_the_same(
    part: str, graph: str, exported: Path
) -> None:
    """In FP32, and in the emulation of half precision, which rounds inside of the attention."""
    model = ir.load(exported / f"graphs/{part}.{graph}.onnx")
    if graph == "fp16":
        assert emulate(model)
    feeds = feeds_of(part, exported)
    assert needs_blocks(feeds)
    name = model.graph.outputs[0].name or ""
    whole = run_pieces(cut(model), feeds, name)
    pieces = cut(model, attention_apart=True)
    count = sum(node.op_type == "Softmax" for node in model.graph)
    assert sum(bool(piece.by_query) for piece in pieces) == count
    assert sum(len(list(piece.model.graph)) for piece in pieces) == len(list(model.graph))
    parts = run_pieces(pieces, feeds, name)
    # a last bit of FP32 may decide which way a value is rounded to half
    assert np.abs(whole - parts).max() < (1e-5 if graph == "fp32" else 1e-3)


def test_no_run_has_more_scores_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a mask go with their queries. The control, without a limit, runs all at once."""
    rng = np.random.default_rng(0)
    feeds = {
        "q": rng.standard_normal((2, 3, 20, 4)).astype(np.float32),
        "k": rng.standard_normal((2, 3, 4, 20)).astype(np.float32),
        "mask": rng.random((20, 20)) < 0.5,
        "keys": rng.random((1, 20)) < 0.5,
    }
    runs: list[int] = []

    def scores(feeds: Feeds) -> Feeds:
        runs.append(feeds["q"].shape[-2])
        values = np.where(feeds["mask"] & feeds["keys"], feeds["q"] @ feeds["k"], 0)
        return {"y": values, "largest": values.max()}

    whole = scores(feeds)
    for limit, expected in ((2 * 3 * 20 * 8, [8, 8, 4]), (1, [1] * 20), (1 << 40, [20])):
        monkeypatch.setattr(attention_blocks, "BLOCK_SCORES", limit)
        runs.clear()
        result = run_by_query(scores, feeds, ["q", "mask", "keys"])
        assert runs == expected
        assert np.allclose(result["y"], whole["y"], atol=1e-6)
        assert result["largest"] == pytest.approx(whole["largest"])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_the_scan_measures_the_same(
    part: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest score of all blocks is the largest score."""
    model = ir.load(exported / f"graphs/{part}.fp32.onnx")
    feeds = feeds_of(part, exported)
    blocks = scan(model, [feeds])[0]
    monkeypatch.setattr(attention_blocks, "MAX_SCORES", 1 << 40)
    whole = scan(model, [feeds])[0]
    assert blocks.amax.keys() == whole.amax.keys()
    for name, value in whole.amax.items():
        assert blocks.amax[name] == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert blocks.ranges() == pytest.approx(whole.ranges(), rel=1e-4)


def test_a_backend_cuts_what_is_too_long(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session that is kept runs short inputs, pieces run long ones, with equal results."""
    models = {part: ir.load(exported / f"graphs/{part}.fp32.onnx") for part in PARTS}
    with closing(StreamedBackend(models["vision"], models["encoder"], optimize=False)) as backend:
        for part in models:
            feeds = feeds_of(part, exported)
            kept = backend.run_all(part, [feeds])[0]
            monkeypatch.setattr(attention_blocks, "MAX_SCORES", 100)
            monkeypatch.setattr(attention_blocks, "BLOCK_SCORES", LIMITS["BLOCK_SCORES"])
            assert np.abs(backend.run_all(part, [feeds])[0] - kept).max() < 1e-5
            monkeypatch.undo()


@pytest.mark.parametrize("mask", ["causal", "keys", "none"])
def test_the_traced_forward_attends_over_blocks(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch, which runs it for comparison, computes the same rows a few at a time."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 20, 4, generator=generator) for _ in "qkv")
    visible = {
        "causal": torch.ones(20, 20).tril().bool(),
        "keys": torch.arange(20)[None, None, None] < 13,
        "none": None,
    }[mask]
    whole = layers.attend(q, k, v, visible)
    sizes: list[int] = []
    at_once = layers.attend_at_once
    monkeypatch.setattr(layers, "BLOCK_SCORES", 2 * 3 * 20 * 8)
    monkeypatch.setattr(
        layers, "attend_at_once", lambda q, *rest: sizes.append(q.shape[2]) or at_once(q, *rest)
    )
    assert torch.allclose(layers.attend(q, k, v, visible), whole, atol=1e-6)
    assert sizes == [8, 8, 4]
