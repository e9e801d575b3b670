"""Each pass does what it says and leaves the rest alone; each gate's control is seen to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from lame_export.calibration import scan
from lame_export.forward import MASKED
from lame_export.passes.emulate import emulate
from lame_export.passes.fp16 import LIMIT, type_fp16
from lame_export.passes.int8 import quantise_static
from lame_export.passes.int8_cpu import quantise_cpu
from lame_export.passes.lint import lint
from lame_export.passes.scopes import MODULE
from lame_export.passes.weight_only import BLOCK, quantise_weights
from lame_export.streamed import cut
from lame_export.streamed import run as run_pieces
from lame_runtime.contract import Contract
from lame_runtime.contract.tower import tower_tables

WIDTH = 8
Save = Callable[[ir.Model], Path]


def chain(gain: float = 1.0, norm: str = "Affine") -> ir.Model:
    """X → MatMul(w1) → Mul(gain) → MatMul(w2) → y, an FP32 graph like those of the tracer."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 3 for _ in range(2)]
    x = ir.Value(name="x", shape=ir.Shape(["batch", WIDTH]), type=ir.TensorType(ir.DataType.FLOAT))
    constants = [
        ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.tensor(array, name=name))
        for name, array in (("w1", weights[0]), ("gain", np.asarray(gain, dtype=np.float32)), ("w2", weights[1]))
    ]
    w1, scale, w2 = constants
    nodes = []

    def add(op: str, inputs: list[ir.Value], name: str, module: str) -> ir.Value:
        node = ir.Node("", op, inputs, num_outputs=1, name=f"{name}/{op}", metadata_props={MODULE: module})
        node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = name, ir.DataType.FLOAT, x.shape
        nodes.append(node)
        return node.outputs[0]

    first = add("MatMul", [x, w1], "first", "Affine")
    scaled = add("Mul", [first, scale], "scaled", norm)
    shrunk = add("Div", [scaled, scale], "shrunk", "graph")
    y = add("MatMul", [shrunk, w2], "y", "Affine")
    graph = ir.Graph([x], [y], nodes=nodes, initializers=constants, opset_imports={"": 20}, name="chain")
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


def run(path: Path, x: np.ndarray, *, optimise: bool = False) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]  # type: ignore[no-any-return]


INPUT = np.random.default_rng(1).standard_normal((5, WIDTH)).astype(np.float32)


def amax_of(model: ir.Model) -> dict[str, float]:
    return scan(model, [{"x": INPUT}])[0].amax


def test_the_scan_measures_every_float_tensor(save: Save) -> None:
    """Inputs, weights and results, as NumPy measures them."""
    amax = amax_of(chain(100))
    w1 = chain().graph.initializers["w1"].const_value.numpy()  # type: ignore[union-attr]
    assert amax["x"] == pytest.approx(np.abs(INPUT).max())
    assert amax["w1"] == pytest.approx(np.abs(w1).max())
    assert amax["scaled"] == pytest.approx(np.abs(INPUT @ w1 * 100).max(), rel=1e-5)


def test_ranges_are_taken_per_channel_token_and_modality() -> None:
    """A percentile is one of a modality's tokens, and the modality that reaches furthest decides."""
    few, many = INPUT[:2] * 3, np.random.default_rng(2).standard_normal((400, WIDTH)).astype(np.float32)
    many[7] *= 1000
    found, _ = scan(chain(), [{"x": few}, {"x": many}], ["text", "image"])
    assert np.array_equal(found.channels["x"], np.abs(np.concatenate([few, many])).max(axis=0))
    assert np.array_equal(found.tokens["image"]["x"], np.abs(many).max(axis=1))
    assert found.ranges()["x"] == np.abs(many).max()
    expected = max(np.percentile(np.abs(few).max(axis=1), 99), np.percentile(np.abs(many).max(axis=1), 99))
    assert found.ranges(99)["x"] == pytest.approx(expected)
    assert found.ranges(99)["x"] < found.ranges()["x"] / 100


def encoder_feeds() -> dict[str, np.ndarray]:
    """Two texts of twelve random tokens."""
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
    """However small the pieces; every node is in one of them, and the scan finds the same."""
    model = ir.load(exported / f"graphs/{graph}.fp32.onnx")
    rng = np.random.default_rng(0)
    if graph == "vision":
        contract = Contract.load(exported / "contract.json")
        feeds = {
            "pixel_patches": rng.standard_normal((2, 16, contract.images.patch_dim)).astype(np.float32),
            **tower_tables((4, 4), contract),
        }
    else:
        feeds = encoder_feeds()
    name = model.graph.outputs[0].name or ""
    (whole,) = run_pieces(cut(model), [feeds], [name], optimise=False)
    pieces = cut(model, 20_000)
    (parts,) = run_pieces(pieces, [feeds], [name], optimise=False)
    assert len(pieces) > 5
    assert sum(len(list(piece.model.graph)) for piece in pieces) == len(list(model.graph))
    assert np.abs(whole[name] - parts[name]).max() < 1e-5  # weights are packed for one of them and not for the other
    one, several = scan(model, [feeds])[0], scan(model, [feeds], budget=20_000)[0]
    assert one.amax.keys() == several.amax.keys()
    assert all(several.amax[key] == pytest.approx(value, rel=1e-4, abs=1e-6) for key, value in one.amax.items())
    assert one.channels.keys() == several.channels.keys() == several.ranges().keys()
    assert all(one.channels[name].max() == pytest.approx(reach, rel=1e-4) for name, reach in several.ranges().items())


def test_plain_values_become_half_and_the_interface_stays(save: Save) -> None:
    """Inputs and outputs are FP32, what lies between is half."""
    model = chain()
    assert type_fp16(model, amax_of(chain())) == []
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert [value.name for value in model.graph.outputs] == ["y"]
    for node in model.graph:
        if node.op_type != "Cast":
            assert {value.dtype for value in node.inputs if value is not None} == {ir.DataType.FLOAT16}
    assert np.allclose(run(save(model), INPUT), run(save(chain()), INPUT), atol=2e-3)


def test_norms_stay_fp32_whatever_their_values(save: Save) -> None:
    """By their module, without the scan."""
    model = chain(norm="RMSNorm")
    assert type_fp16(model, amax_of(chain())) == []
    (scaled,) = [node for node in model.graph if node.op_type == "Mul"]
    assert {value.dtype for value in (*scaled.inputs, *scaled.outputs) if value is not None} == {ir.DataType.FLOAT}


def planted(save: Save, limit: float) -> tuple[ir.Model, list[str]]:
    """A graph whose middle reaches 160,000, typed with the given limit."""
    model = chain(60_000.0)
    islands = type_fp16(model, amax_of(chain(60_000.0)), limit)
    return model, [island.node for island in islands]


def test_the_scan_protects_a_planted_overflow(save: Save) -> None:
    """The nodes that make and read the huge value are islands, the rest is half, and the emulation agrees with FP32."""
    model, islands = planted(save, LIMIT)
    assert {"scaled/Mul", "shrunk/Div"} <= set(islands)
    assert "y/MatMul" not in islands
    emulate(model)
    assert np.allclose(run(save(model), INPUT), run(save(chain(60_000.0)), INPUT), atol=5e-3)


def test_without_the_scan_the_emulation_overflows_where_onnx_runtime_hides_it(save: Save) -> None:
    """The control of the FP16 gate: half's infinity is seen on the emulation, optimised or not, and not on the FP16 file itself."""
    model, islands = planted(save, np.inf)
    assert islands == []
    plain = save(model)
    emulate(model)
    emulation = save(model)
    assert not np.isfinite(run(emulation, INPUT)).all()
    assert not np.isfinite(run(emulation, INPUT, optimise=True)).all()
    assert np.isfinite(run(plain, INPUT, optimise=True)).all()


def test_masked_scores_make_no_island(exported: Path) -> None:
    """The mask's constant is half's lowest value; the scan knows that it is no measurement."""
    feeds = encoder_feeds()
    amax = scan(ir.load(exported / "graphs/encoder.fp32.onnx"), [feeds])[0].amax
    assert max(amax.values()) < LIMIT < -MASKED


def test_static_int8_quantises_linear_layers_only(save: Save) -> None:
    """Two MatMuls, four DequantizeLinear, two QuantizeLinear; a close result."""
    model = chain()
    amax = amax_of(chain())
    type_fp16(model, amax)
    assert quantise_static(model, amax) == 2
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
    quantise_static(model, {name: value / 30 for name, value in amax.items()})
    emulate(model)
    assert cosine(run(save(model), INPUT), run(save(chain()), INPUT)).mean() < 0.99


def test_layers_named_so_keep_their_type(save: Save) -> None:
    """By name: what is kept has no Q/DQ in the static form."""
    static = chain()
    amax = amax_of(chain())
    type_fp16(static, amax)
    assert quantise_static(static, amax, keep=frozenset({"y"})) == 1
    assert sum(node.op_type == "QuantizeLinear" for node in static.graph) == 1


def ranges_of(model: ir.Model) -> dict[str, float]:
    return scan(model, [{"x": INPUT}])[0].ranges()


@pytest.mark.parametrize("static", [frozenset(), frozenset({"first", "y"})])
def test_cpu_int8_is_blind_to_other_tokens(static: frozenset[str], save: Save) -> None:
    """An outlier in one row leaves the others exactly as they were, which one scale measured over the tensor would not."""
    wild = INPUT.copy()
    wild[0] *= 1000
    model = chain()
    quantise_cpu(model, ranges_of(chain()), static)
    path = save(model)
    assert np.array_equal(run(path, wild)[1:], run(path, INPUT)[1:])
    step = np.abs(wild).max() / 127
    assert not np.allclose(np.rint(wild[1:] / step) * step, wild[1:], atol=0.1)


@pytest.mark.parametrize("static", [frozenset(), frozenset({"first", "y"})])
def test_cpu_int8_is_close_and_one_product_a_layer(static: frozenset[str], save: Save) -> None:
    """MatMulIntegerToFloat on both layers, 7-bit weights; a static layer needs no node to measure anything."""
    model = chain()
    assert quantise_cpu(model, ranges_of(chain()), static) == 2
    stored = [value.const_value.numpy() for value in model.graph.initializers.values() if value.dtype == ir.DataType.INT8]
    assert max(np.abs(each.astype(int)).max() for each in stored) == 63  # type: ignore[union-attr]
    ops = [node.op_type for node in model.graph]
    assert ops.count("MatMulIntegerToFloat") == 2
    assert ops.count("ReduceMax") == (0 if static else 2)
    for optimise in (False, True):
        assert cosine(run(save(model), INPUT, optimise=optimise), run(save(chain()), INPUT)).min() > 0.99


def test_a_wrong_range_fails_the_cpu_int8_gate(save: Save) -> None:
    """The control of the static form: a range thirty times too small clips nearly everything."""
    model = chain()
    quantise_cpu(model, {name: reach / 30 for name, reach in ranges_of(chain()).items()}, {"first", "y"})
    assert cosine(run(save(model), INPUT), run(save(chain()), INPUT)).mean() < 0.99


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_alone_are_quantised_block_by_block(bits: int, save: Save) -> None:
    """ONNX Runtime reads the steps as they were written: its product is that of the restored weights, but for its own 8-bit rounding."""
    model = chain()
    assert quantise_weights(model, bits) == 2
    restored, written = chain(), model.graph.initializers
    for name in ("w1", "w2"):
        value = restored.graph.initializers[name]
        weight = constant(value)  # (in, out), one block: eight rows are fewer than a block holds
        steps, scales = constant(written[f"{name}.int{bits}"])[:, 0], constant(written[f"{name}.scale"])
        if bits == 4:
            steps = np.stack([steps & 15, steps >> 4], axis=-1).reshape(len(steps), -1)
        found = ((steps.astype(np.float32) - (1 << (bits - 1))) * scales)[:, : len(weight)].T
        largest = np.abs(weight).max(axis=0)
        assert (np.square(found - weight).sum(axis=0) <= len(weight) * np.square(largest / (1 << bits))).all()
        value.const_value = ir.tensor(found, name=name)
    ours, exact = run(save(model), INPUT), run(save(restored), INPUT)
    assert np.abs(ours - exact).max() < 0.02 * np.abs(exact).max()
    assert not np.allclose(exact, run(save(chain()), INPUT), atol=1e-4)
    sizes = [value.const_value.nbytes for value in model.graph.initializers.values() if value.dtype == ir.DataType.UINT8]  # type: ignore[union-attr]
    assert sizes == [WIDTH * BLOCK[bits] * bits // 8] * 2


def constant(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("graph", ["fp32", "fp16", "int8", "int8-cpu"])
@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_exported_graphs_are_clean(part: str, graph: str, exported: Path) -> None:
    """No findings, and nothing of the exporting machine in the file."""
    path = exported / f"graphs/{part}.{graph}.onnx"
    assert lint(path, part, graph, Contract.load(exported / "contract.json")) == []
    assert b"/" + b"site-packages" not in path.read_bytes()
    assert b"forward.py" not in path.read_bytes()


def test_a_graph_for_cpus_with_nothing_quantised_is_found(exported: Path) -> None:
    """By what its name promises."""
    contract = Contract.load(exported / "contract.json")
    assert lint(exported / "graphs/encoder.fp32.onnx", "encoder", "int8-cpu", contract) == ["int8-cpu: nothing is quantised"]
    assert "w4-cpu: nothing is quantised" in lint(exported / "graphs/encoder.int8-cpu.onnx", "encoder", "w4-cpu", contract)


def corrupt(model: ir.Model, kind: str) -> None:
    graph = model.graph
    node = next(each for each in graph if each.op_type == "MatMul")
    if kind == "opset":
        graph.opset_imports[""] = 23
    elif kind == "operator":
        node.op_type = "RMSNormalization"
    elif kind == "domain":
        node.domain = "com.microsoft"
    elif kind == "data-dependent":
        node.op_type = "NonZero"
    elif kind == "name":
        graph.inputs[0].name = "ids"
    elif kind == "dimension":
        graph.inputs[0].shape = ir.Shape([1, 77])
    elif kind == "path":
        node.metadata_props["pkg.torch.onnx.stack_trace"] = "/home/somebody/model.py"
    elif kind == "zero point":
        quantise = next(each for each in graph if each.op_type == "QuantizeLinear")
        quantise.inputs[2].const_value = ir.tensor(np.asarray(3, dtype=np.int8))  # type: ignore[union-attr]
    elif kind in ("scale", "type", "reader"):
        quantise = next(each for each in graph if each.op_type == "QuantizeLinear")
        restore = quantise.outputs[0].uses()[0][0]
        if kind == "scale":
            quantise.replace_input_with(1, quantise.inputs[0])
        elif kind == "type":
            restore.inputs[0].dtype = ir.DataType.UINT8  # type: ignore[union-attr]
        else:
            restore.op_type = "Identity"
    elif kind == "nothing":
        for each in list(graph):
            if each.op_type in ("QuantizeLinear", "DequantizeLinear"):
                each.op_type = "Identity"
    elif kind == "foreign operator":
        node.op_type, node.domain = "FusedGelu", "com.microsoft"
    elif kind == "half":
        for value in node.inputs:
            value.dtype = ir.DataType.FLOAT16  # type: ignore[union-attr]
    elif kind == "float only":
        for each in list(graph):
            if each.op_type == "MatMul":
                for value in each.inputs:
                    value.dtype = ir.DataType.FLOAT  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "graph", "message"),
    [
        ("opset", "int8", "opset 23"),
        ("operator", "int8", "not known to TensorRT 10.3"),
        ("domain", "int8", "not standard ONNX"),
        ("data-dependent", "int8", "depend on data"),
        ("name", "int8", "the runtime expects"),
        ("dimension", "int8", "the runtime expects"),
        ("path", "int8", "paths of the exporting machine"),
        ("zero point", "int8", "zero point is not zero"),
        ("scale", "int8", "scale is not a constant"),
        ("type", "int8", "DequantizeLinear of UINT8, TensorRT 10.3 takes INT8"),
        ("reader", "int8", "feeds something other than DequantizeLinear"),
        ("nothing", "int8", "nothing is quantised"),
        ("float only", "int8", "no MatMul computes in half"),
        ("half", "fp32", "a MatMul computes in half"),
        ("foreign operator", "int8-cpu", "not standard ONNX"),
        ("operator", "int8-cpu", "not known to TensorRT 10.3"),
    ],
)
def test_lint_finds(kind: str, graph: str, message: str, exported: Path, save: Save) -> None:
    """The control of lint: every rule has a graph that breaks it, with one thing wrong and a finding about it."""
    model = ir.load(exported / f"graphs/encoder.{graph}.onnx")
    corrupt(model, kind)
    found = lint(save(model), "encoder", graph, Contract.load(exported / "contract.json"))
    assert any(message in finding for finding in found)
