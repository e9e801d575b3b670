"""Each rewrite does what it says and leaves the rest alone; each gate's control is seen to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graph_runs import picture_feeds, run_pieces
from lame_export.forward import MASKED
from lame_export.quantization.calibration import scan
from lame_export.quantization.cpu_int8 import quantize_cpu
from lame_export.quantization.static_int8 import quantize_static
from lame_export.quantization.weight_only import BLOCK, quantize_weights
from lame_export.rewrites.emulate import emulate
from lame_export.rewrites.half import LIMIT, type_fp16
from lame_export.rewrites.scopes import MODULE
from lame_export.streaming.pieces import cut
from lame_runtime.contract import Contract

WIDTH = 8
Save = Callable[[ir.Model], Path]


def chain(gain: float = 1.0, norm: str = "Affine") -> ir.Model:
    """Makes an FP32 graph like those of the tracer: x → MatMul → Mul → Div → MatMul → y.

    Mul and Div are by `gain`, so that the middle is large and the ends are not.
    """
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 3 for _ in range(2)]
    x = ir.Value(name="x", shape=ir.Shape(["batch", WIDTH]), type=ir.TensorType(ir.DataType.FLOAT))
    constants = [
        ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(array, name=name),
        )
        for name, array in (
            ("w1", weights[0]),
            ("gain", np.asarray(gain, dtype=np.float32)),
            ("w2", weights[1]),
        )
    ]
    w1, scale, w2 = constants
    nodes = []

    def add(op: str, inputs: list[ir.Value], name: str, module: str) -> ir.Value:
        node = ir.Node(
            "", op, inputs, num_outputs=1, name=f"{name}/{op}", metadata_props={MODULE: module}
        )
        output = node.outputs[0]
        output.name, output.dtype, output.shape = name, ir.DataType.FLOAT, x.shape
        nodes.append(node)
        return output

    first = add("MatMul", [x, w1], "first", "Affine")
    scaled = add("Mul", [first, scale], "scaled", norm)
    shrunk = add("Div", [scaled, scale], "shrunk", "graph")
    y = add("MatMul", [shrunk, w2], "y", "Affine")
    graph = ir.Graph(
        [x], [y], nodes=nodes, initializers=constants, opset_imports={"": 20}, name="chain"
    )
    return ir.Model(graph, ir_version=10)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    count = 0

    def write(model: ir.Model) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / f"{count}.onnx"
        ir.save(model, path)
        return path

    return write


def run(path: Path, x: np.ndarray, *, optimize: bool = False) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]  # type: ignore[no-any-return]


INPUT = np.random.default_rng(1).standard_normal((5, WIDTH)).astype(np.float32)


def amax_of(model: ir.Model) -> dict[str, float]:
    return scan(model, [{"x": INPUT}])[0].amax


def test_the_scan_measures_every_float_tensor(save: Save) -> None:
    """Inputs, weights and results are measured, as NumPy measures them."""
    amax = amax_of(chain(100))
    w1 = chain().graph.initializers["w1"].const_value.numpy()  # type: ignore[union-attr]
    assert amax["x"] == pytest.approx(np.abs(INPUT).max())
    assert amax["w1"] == pytest.approx(np.abs(w1).max())
    assert amax["scaled"] == pytest.approx(np.abs(INPUT @ w1 * 100).max(), rel=1e-5)


def test_ranges_are_taken_per_channel_token_and_modality() -> None:
    """A percentile counts a modality's tokens; the modality that reaches furthest decides."""
    few = INPUT[:2] * 3
    many = np.random.default_rng(2).standard_normal((400, WIDTH)).astype(np.float32)
    many[7] *= 1000
    measured, _ = scan(chain(), [{"x": few}, {"x": many}], ["text", "image"])
    assert np.array_equal(measured.channels["x"], np.abs(np.concatenate([few, many])).max(axis=0))
    assert np.array_equal(measured.tokens["image"]["x"], np.abs(many).max(axis=1))
    assert measured.ranges()["x"] == np.abs(many).max()
    expected = max(np.percentile(np.abs(rows).max(axis=1), 99) for rows in (few, many))
    assert measured.ranges(99)["x"] == pytest.approx(expected)
    assert measured.ranges(99)["x"] < measured.ranges()["x"] / 100


def encoder_feeds() -> dict[str, np.ndarray]:
    """Makes the encoder's inputs for two texts of twelve random tokens."""
    ids = np.random.default_rng(0).integers(0, 300, (2, 12))
    return {
        "input_ids": ids,
        "features": np.zeros((1, 64), np.float32),
        "feature_index": np.zeros_like(ids),
        "position_ids": np.broadcast_to(np.arange(12), (3, 2, 12)).astype(np.int64),
        "embed_index": np.array([11, 11]),
    }


@pytest.mark.parametrize("graph", ["vision", "encoder"])
def test_a_graph_cut_into_pieces_computes_the_same(graph: str, exported: Path) -> None:
    """Every node is in one of the pieces, however small, and the scan measures the same."""
    model = ir.load(exported / f"graphs/{graph}.fp32.onnx")
    if graph == "vision":
        contract = Contract.load(exported / "contract.json")
        feeds = picture_feeds((4, 4), contract)
    else:
        feeds = encoder_feeds()
    name = model.graph.outputs[0].name or ""
    whole = run_pieces(cut(model), feeds, name)
    pieces = cut(model, 20_000)
    parts = run_pieces(pieces, feeds, name)
    assert len(pieces) > 5
    assert sum(len(list(piece.model.graph)) for piece in pieces) == len(list(model.graph))
    # not equal to the bit: weights are packed for one of them and not for the other
    assert np.abs(whole - parts).max() < 1e-5
    one, several = scan(model, [feeds])[0], scan(model, [feeds], budget=20_000)[0]
    assert one.amax.keys() == several.amax.keys()
    assert all(
        several.amax[key] == pytest.approx(value, rel=1e-4, abs=1e-6)
        for key, value in one.amax.items()
    )
    assert one.channels.keys() == several.channels.keys() == several.ranges().keys()
    assert all(
        one.channels[name].max() == pytest.approx(reach, rel=1e-4)
        for name, reach in several.ranges().items()
    )


def test_plain_values_become_half_and_the_interface_stays(save: Save) -> None:
    """Inputs and outputs are FP32, and everything between them is half."""
    model = chain()
    assert type_fp16(model, amax_of(chain())) == []
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [
        ir.DataType.FLOAT
    ] * 2
    assert [value.name for value in model.graph.outputs] == ["y"]
    for node in model.graph:
        if node.op_type != "Cast":
            assert {value.dtype for value in node.inputs if value is not None} == {
                ir.DataType.FLOAT16
            }
    assert np.allclose(run(save(model), INPUT), run(save(chain()), INPUT), atol=2e-3)


def test_norms_stay_fp32_whatever_their_values(save: Save) -> None:
    """Their module decides, without the scan."""
    model = chain(norm="RMSNorm")
    assert type_fp16(model, amax_of(chain())) == []
    (scaled,) = [node for node in model.graph if node.op_type == "Mul"]
    assert {value.dtype for value in (*scaled.inputs, *scaled.outputs) if value is not None} == {
        ir.DataType.FLOAT
    }


def planted(save: Save, limit: float) -> tuple[ir.Model, list[str]]:
    """Types a graph whose middle reaches 160,000; returns it and its islands."""
    model = chain(60_000.0)
    islands = type_fp16(model, amax_of(chain(60_000.0)), limit)
    return model, [island.node for island in islands]


def test_the_scan_protects_a_planted_overflow(save: Save) -> None:
    """Nodes that make and read the huge value are islands; the emulation agrees with FP32."""
    model, islands = planted(save, LIMIT)
    assert {"scaled/Mul", "shrunk/Div"} <= set(islands)
    assert "y/MatMul" not in islands
    emulate(model)
    assert np.allclose(run(save(model), INPUT), run(save(chain(60_000.0)), INPUT), atol=5e-3)


def test_without_the_scan_the_emulation_overflows_where_onnx_runtime_hides_it(save: Save) -> None:
    """The control of the FP16 gate: the emulation shows half's infinity, the FP16 file does not.

    ONNX Runtime must not optimize the emulation's casts away either.
    """
    model, islands = planted(save, np.inf)
    assert islands == []
    plain = save(model)
    emulate(model)
    emulation = save(model)
    assert not np.isfinite(run(emulation, INPUT)).all()
    assert not np.isfinite(run(emulation, INPUT, optimize=True)).all()
    assert np.isfinite(run(plain, INPUT, optimize=True)).all()


def test_masked_scores_make_no_island(exported: Path) -> None:
    """The mask's constant is half's lowest value, and no measurement."""
    feeds = encoder_feeds()
    amax = scan(ir.load(exported / "graphs/encoder.fp32.onnx"), [feeds])[0].amax
    assert max(amax.values()) < LIMIT < -MASKED


def test_static_int8_quantizes_linear_layers_only(save: Save) -> None:
    """Two layers have four DequantizeLinear and two QuantizeLinear, and a close result."""
    model = chain()
    amax = amax_of(chain())
    type_fp16(model, amax)
    assert quantize_static(model, amax) == 2
    ops = [node.op_type for node in model.graph]
    assert (ops.count("QuantizeLinear"), ops.count("DequantizeLinear")) == (2, 4)
    emulate(model)
    ours, exact = run(save(model), INPUT), run(save(chain()), INPUT)
    assert cosine(ours, exact).min() > 0.995
    assert not np.allclose(ours, exact, atol=1e-4)


def test_a_wrong_scale_fails_the_int8_gate(save: Save) -> None:
    """The control of the INT8 gate: a scale thirty times too small clips nearly everything."""
    model = chain()
    amax = amax_of(chain())
    type_fp16(model, amax)
    quantize_static(model, {name: value / 30 for name, value in amax.items()})
    emulate(model)
    assert cosine(run(save(model), INPUT), run(save(chain()), INPUT)).mean() < 0.99


def test_layers_that_are_skipped_have_no_qdq(save: Save) -> None:
    """Layers are skipped by their name."""
    static = chain()
    amax = amax_of(chain())
    type_fp16(static, amax)
    assert quantize_static(static, amax, skip=frozenset({"y"})) == 1
    assert sum(node.op_type == "QuantizeLinear" for node in static.graph) == 1


def ranges_of(model: ir.Model) -> dict[str, float]:
    return scan(model, [{"x": INPUT}])[0].ranges()


@pytest.mark.parametrize("static", [frozenset(), frozenset({"first", "y"})])
def test_cpu_int8_is_blind_to_other_tokens(static: frozenset[str], save: Save) -> None:
    """An outlier in one row leaves the others exactly as they were.

    One scale measured over the tensor would not, as its steps show.
    """
    wild = INPUT.copy()
    wild[0] *= 1000
    model = chain()
    quantize_cpu(model, ranges_of(chain()), static)
    path = save(model)
    assert np.array_equal(run(path, wild)[1:], run(path, INPUT)[1:])
    step = np.abs(wild).max() / 127
    assert not np.allclose(np.rint(wild[1:] / step) * step, wild[1:], atol=0.1)


@pytest.mark.parametrize("static", [frozenset(), frozenset({"first", "y"})])
def test_cpu_int8_is_close_and_one_product_a_layer(static: frozenset[str], save: Save) -> None:
    """Both layers are MatMulIntegerToFloat with 7-bit weights; static ones measure nothing."""
    model = chain()
    assert quantize_cpu(model, ranges_of(chain()), static) == 2
    stored = [
        constant(value)
        for value in model.graph.initializers.values()
        if value.dtype == ir.DataType.INT8
    ]
    assert max(np.abs(weight.astype(int)).max() for weight in stored) == 63
    ops = [node.op_type for node in model.graph]
    assert ops.count("MatMulIntegerToFloat") == 2
    assert ops.count("ReduceMax") == (0 if static else 2)
    exact = run(save(chain()), INPUT)
    for optimize in (False, True):
        assert cosine(run(save(model), INPUT, optimize=optimize), exact).min() > 0.99


def test_a_wrong_range_fails_the_cpu_int8_gate(save: Save) -> None:
    """The control of the static form: a range thirty times too small clips nearly everything."""
    model = chain()
    quantize_cpu(
        model, {name: reach / 30 for name, reach in ranges_of(chain()).items()}, {"first", "y"}
    )
    assert cosine(run(save(model), INPUT), run(save(chain()), INPUT)).mean() < 0.99


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_alone_are_quantized_block_by_block(bits: int, save: Save) -> None:
    """ONNX Runtime reads the steps as they were written.

    Its product is that of the restored weights, but for its own 8-bit rounding of activations.
    """
    model = chain()
    assert quantize_weights(model, bits) == 2
    restored, written = chain(), model.graph.initializers
    for name in ("w1", "w2"):
        value = restored.graph.initializers[name]
        weight = constant(value)  # (in, out), one block: eight rows are fewer than a block holds
        steps = constant(written[f"{name}.int{bits}"])[:, 0]
        scales = constant(written[f"{name}.scale"])
        if bits == 4:
            steps = np.stack([steps & 15, steps >> 4], axis=-1).reshape(len(steps), -1)
        signed = steps.astype(np.float32) - (1 << (bits - 1))
        restored_weight = (signed * scales)[:, : len(weight)].T
        # a scale that holds the largest weight would round each weight by half a step at most
        half_step = np.abs(weight).max(axis=0) / (1 << bits)
        error = np.square(restored_weight - weight).sum(axis=0)
        assert (error <= len(weight) * np.square(half_step)).all()
        value.const_value = ir.tensor(restored_weight, name=name)
    ours, exact = run(save(model), INPUT), run(save(restored), INPUT)
    assert np.abs(ours - exact).max() < 0.02 * np.abs(exact).max()
    assert not np.allclose(exact, run(save(chain()), INPUT), atol=1e-4)
    sizes = [
        constant(value).nbytes
        for value in model.graph.initializers.values()
        if value.dtype == ir.DataType.UINT8
    ]
    assert sizes == [WIDTH * BLOCK[bits] * bits // 8] * 2


def constant(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)  # type: ignore[no-any-return]
