"""Tests that a graph of unknown origin is looked at before ONNX Runtime opens it."""

from __future__ import annotations

import importlib
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from changed_bundle import (
    ENCODER,
    EXAMPLE,
    changed_bundle,
    constant_encoder,
    example_encoder,
    rehash,
)
from lame_runtime import BackendError, BundleError, Encoder, StorageError
from lame_runtime.backends.fake import FakeBackend
from lame_runtime.backends.onnxruntime import source_session
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.graph_source import open_graph
from lame_runtime.contract.batch import assemble
from lame_runtime.contract.preparer import Preparer
from lame_runtime.files.graphs.divisions import require_safe
from lame_runtime.files.graphs.onnx_fields import OPERATORS
from lame_runtime.files.graphs.onnx_graph import GraphFacts, read_graph
from lame_runtime.files.graphs.protobuf import Message, Reader, number, text
from lame_runtime.inputs import as_input
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Records what ONNX Runtime is asked to open, and opens none of it."""
    import onnxruntime

    opened: list[object] = []

    def refuse(model: object, *_: object, **__: object) -> None:
        opened.append(model)
        raise ValueError("ONNX Runtime was reached")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    return opened


def facts_of(model: onnx.ModelProto) -> GraphFacts:
    return read_graph(model.SerializeToString(), "encoder.fp32.onnx")


@pytest.mark.parametrize("part", ["encoder", "vision"])
def test_the_reader_sees_what_the_onnx_package_sees(part: str) -> None:
    """Weights, inputs and outputs of the example are those that the `onnx` package reads."""
    path = EXAMPLE / f"graphs/{part}.fp32.onnx"
    facts = read_graph(path.read_bytes(), path.name)
    graph = onnx.load(path, load_external_data=False).graph
    stored = [tensor for tensor in graph.initializer if tensor.external_data]
    assert len(stored) > 10
    for weight, tensor in zip(facts.weights, stored, strict=True):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert (weight.name, weight.dims) == (tensor.name, tuple(tensor.dims))
        assert weight.data_type == tensor.data_type
        assert (weight.offset, weight.length) == (int(entries["offset"]), int(entries["length"]))
    for values, expected in ((facts.inputs, graph.input), (facts.outputs, graph.output)):
        assert values == {
            value.name: (
                value.type.tensor_type.elem_type,
                tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim),
            )
            for value in expected
        }


def test_the_operators_are_those_of_the_linter() -> None:
    """The runtime accepts exactly the operators that the exporter's linter accepts."""
    linter = importlib.import_module("lame_export.lint.linter")
    assert OPERATORS[""] == set(linter.TENSORRT_10_3) | linter.STANDARD_ON_CPU
    assert OPERATORS[linter.CONTRIB] == linter.CONTRIBUTED
    assert set(OPERATORS) == {"", linter.CONTRIB}


def located(location: str, **entries: str) -> Change:
    """Returns a change that moves the first weight to another place."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
        del tensor.external_data[:]
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def with_two_locations(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    tensor.external_data.add(key="location", value="../secret")


def with_constant_elsewhere(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="x", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="encoder.fp32.onnx.data")
    model.graph.node.append(helper.make_node("Constant", [], ["x"], value=tensor))


def with_data_twice(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    tensor.raw_data = b"0000"


def with_external_but_nowhere(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    del model.graph.initializer[0].external_data[:]


def with_two_tensors_of_a_name(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def with_overridden_input(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1), "input_ids"))


def with_huge_sizes(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    tensor.dims[:] = [2**62, 2**62]


def with_node(*arguments: object, **attributes: object) -> Change:
    return lambda model: model.graph.node.append(helper.make_node(*arguments, **attributes))


def integers(name: str, *values: int, kind: int = TensorProto.INT64) -> TensorProto:
    return helper.make_tensor(name, kind, [len(values)], values)


def with_division(
    divisor: TensorProto | None, *, operator: str = "Div", declared: int = TensorProto.INT64
) -> Change:
    """Returns a change that divides the prompt's ids, at run time."""

    def change(model: onnx.ModelProto) -> None:
        if divisor is not None:
            model.graph.initializer.append(divisor)
        model.graph.node.append(helper.make_node("Neg", ["input_ids"], ["negative"]))
        model.graph.value_info.append(helper.make_tensor_value_info("negative", declared, None))
        by = "negative" if divisor is None else divisor.name
        model.graph.node.append(helper.make_node(operator, ["negative", by], ["quotient"]))

    return change


def with_many(kind: str, count: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for place in range(count):
            getattr(model.graph, kind).add().name = f"n{place}"

    return change


def with_many_operands(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Sum", ["features"] * 50_000, ["sum"]))


def with_two_types(model: onnx.ModelProto) -> None:
    for kind in (TensorProto.FLOAT, TensorProto.INT64):
        model.graph.value_info.append(helper.make_tensor_value_info("twice", kind, None))


def with_another_type(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("input_ids", 1, None))


def with_function(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("Identity", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("", "Relu", ["a"], ["b"], nodes, opsets))


def with_sparse_tensor(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.name = "sparse"


def with_settings(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="ort_config", value='{"session_options": {}}')


def with_experts(taken: int, *, stored: bool = True) -> Change:
    """Returns a change that adds a mixture of four experts, of which a token takes some."""

    def change(model: onnx.ModelProto) -> None:
        if stored:
            model.graph.initializer.append(
                numpy_helper.from_array(np.zeros((4, 8, 8), np.float32), "experts")
            )
        inputs = ["features", "features", "experts", "", "experts"]
        model.graph.node.append(
            helper.make_node("MoE", inputs, ["mixed"], domain="com.microsoft", k=taken)
        )

    return change


BODY = helper.make_graph([], "body", [], [])
CHANGES: dict[str, tuple[Change, str]] = {
    "a path upward": (located("../../secret"), "has its data in ../../secret"),
    "an absolute path": (located("/etc/hostname"), "has its data in /etc/hostname"),
    "another file beside the graph": (located("x.bin"), "has its data in x.bin"),
    "the data of another graph": (located("vision.fp32.onnx.data"), "has its data in vision"),
    "the same file by a longer path": (located("./encoder.fp32.onnx.data"), "has its data in"),
    "an address in memory": (located("*/_ORT_MEM_ADDR_/*", offset="4096"), "_ORT_MEM_ADDR_"),
    "no location": (located(""), "has its data in"),
    "an unknown key": (located("encoder.fp32.onnx.data", basepath="/"), "has the keys"),
    "a signed offset": (located("encoder.fp32.onnx.data", offset="-1"), "not a number of bytes"),
    "an offset with signs": (located("encoder.fp32.onnx.data", offset="1_0"), "not a number"),
    "an odd offset": (located("encoder.fp32.onnx.data", offset="3"), "takes"),
    "another length": (located("encoder.fp32.onnx.data", length="1"), "takes"),
    "two locations": (with_two_locations, "has the keys"),
    "a constant in another file": (with_constant_elsewhere, "in another file"),
    "data in two places": (with_data_twice, "data twice"),
    "external data without a place": (with_external_but_nowhere, "where its data is"),
    "two tensors of one name": (with_two_tensors_of_a_name, "two tensors called"),
    "a tensor in place of an input": (with_overridden_input, "an input and a tensor"),
    "sizes beyond all memory": (with_huge_sizes, "takes"),
    "a loop": (with_node("Loop", ["a", "", "b"], ["c"], body=BODY), "operator Loop"),
    "a branch": (with_node("If", ["a"], ["c"], then_branch=BODY), "operator If"),
    "a scan": (with_node("Scan", ["a"], ["c"], body=BODY), "operator Scan"),
    "a known operator with a graph": (with_node("Relu", ["a"], ["c"], body=BODY), "field 6"),
    "an unknown domain": (with_node("Run", ["a"], ["c"], domain="my.library"), "my.library::Run"),
    "a context of a provider": (
        with_node("EPContext", [], ["c"], domain="com.microsoft", ep_cache_context="/x"),
        "EPContext",
    ),
    "a function": (with_function, "ModelProto has the field 25"),
    "a sparse tensor": (with_sparse_tensor, "GraphProto has the field 15"),
    "training": (lambda model: model.training_info.add(), "ModelProto has the field 20"),
    "settings of ONNX Runtime": (with_settings, "ort_config"),
    "a division by a value of the run": (with_division(None), "a Div of integers by negative"),
    "a division by minus one": (with_division(integers("d", 4, -1)), "a Div of integers by d"),
    "a division by zero": (with_division(integers("d", 0)), "a Div of integers by d"),
    "a remainder": (with_division(None, operator="Mod"), "a Mod of integers by negative"),
    "more experts than there are": (with_experts(5), "to 5 of 4 experts"),
    "experts computed by the graph": (with_experts(1, stored=False), "to 1 of an unknown"),
    "many nodes": (with_many("node", 10_000), "GraphProto.node has more than 10,000"),
    "many tensors": (with_many("initializer", 5_000), "GraphProto.initializer has more than"),
    "many declarations": (with_many("value_info", 50_000), "GraphProto.value_info has more"),
    "many outputs": (with_many("output", 100), "GraphProto.output has more than 100"),
    "many operands": (with_many_operands, "more than 50,000 inputs and outputs"),
    "an attribute out of range": (
        with_node("GatherND", ["features", "i"], ["c"], batch_dims=-(2**63)),
        "has a GatherND with the attribute -9223372036854775808",
    ),
    "two types": (with_two_types, "declares two types for twice"),
    "another type declared": (with_another_type, "declares two types for input_ids"),
    "no graph": (lambda model: model.ClearField("graph"), "holds no graph"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_no_export_holds_is_refused_before_it_is_opened(
    name: str, tmp_path: Path, sessions: list[object]
) -> None:
    """The message says what is wrong, and ONNX Runtime is not asked to open the graph."""
    change, message = CHANGES[name]
    model = example_encoder()
    change(model)
    bundle = changed_bundle(tmp_path / "b", {ENCODER: model.SerializeToString()})
    with pytest.raises(BundleError, match=re.escape(message)):
        open_encoder(bundle)
    assert sessions == []


def open_encoder(bundle: Path) -> None:
    """Opens the encoder graph alone, as `Encoder.load` does after the vision graph."""
    with open_graph(bundle / ENCODER) as source:
        source_session(source, "CPUExecutionProvider", 1)


def test_without_the_reader_onnx_runtime_would_be_reached(
    tmp_path: Path, sessions: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with the facts of the untouched graph, the changed one is handed on."""
    facts = facts_of(example_encoder())
    monkeypatch.setattr("lame_runtime.bundle.graph_source.read_graph", lambda *_: facts)
    model = example_encoder()
    located("../../secret")(model)
    bundle = changed_bundle(tmp_path / "b", {ENCODER: model.SerializeToString()})
    with pytest.raises(BackendError, match="ONNX Runtime was reached"):
        open_encoder(bundle)
    assert len(sessions) == 1


@pytest.mark.parametrize("declared", ["INT64", "FLOAT"])
def test_what_is_declared_a_float_is_one_to_onnx_runtime(
    declared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integers declared as floats pass our reader alone; a true declaration passes both."""
    model = example_encoder()
    with_division(None, declared=getattr(TensorProto, declared))(model)
    monkeypatch.setattr("lame_runtime.files.graphs.onnx_graph.require_safe", lambda *_: None)
    bundle = changed_bundle(tmp_path / "b", {ENCODER: model.SerializeToString()})
    if declared == "INT64":
        open_encoder(bundle)
        return
    monkeypatch.undo()
    with pytest.raises(BackendError, match=r"Type Error.*negative"):
        open_encoder(bundle)


def test_as_many_experts_as_there_are_are_read() -> None:
    """The other side of the bound: four of four experts."""
    model = example_encoder()
    with_experts(4)(model)
    assert facts_of(model).inputs == facts_of(example_encoder()).inputs


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="others do not stop")
def test_without_the_reader_a_division_ends_the_process(operator: str) -> None:
    """Control: ONNX Runtime divides the smallest integer by −1."""
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in "abc"]
    nodes = [helper.make_node(operator, ["a", "b"], ["c"])]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:])
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    script = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.stdin.buffer.read())\n"
        "session.run(None, {'a': numpy.array([-2**63]), 'b': numpy.array([-1])})\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, input=model, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGFPE


@pytest.mark.parametrize(
    ("tensor", "safe"),
    [
        (helper.make_tensor("d", TensorProto.INT64, [2], [1, 2**63 - 1]), True),
        (helper.make_tensor("d", TensorProto.INT32, [1], [4]), True),
        (numpy_helper.from_array(np.array([1, 4]), "d"), True),
        (numpy_helper.from_array(np.array([1, -1]), "d"), False),
        (numpy_helper.from_array(np.array([-1], np.int32), "d"), False),
        (numpy_helper.from_array(np.array([], np.int64), "d"), False),
        (helper.make_tensor("d", TensorProto.UINT8, [1], [4]), False),
    ],
)
def test_integers_are_divided_by_positive_constants(tensor: TensorProto, safe: bool) -> None:
    """Whatever form the constant has in the file."""
    model = example_encoder()
    with_division(tensor)(model)
    if safe:
        facts_of(model)
        return
    with pytest.raises(ValueError, match="not a positive constant"):
        facts_of(model)


def test_a_divisor_with_more_bits_than_its_type_is_refused() -> None:
    """Other readers take the lower 32 bits of 0xFFFFFFFF, which are those of −1."""
    divisor: Message = {"data_type": [6], "int32_data": [0xFFFFFFFF]}
    with pytest.raises(ValueError, match="not a positive constant"):
        require_safe([("Div", ["a", "d"])], {}, {"d": divisor})
    require_safe([("Div", ["a", "d"])], {}, {"d": {**divisor, "int32_data": [0x7FFFFFFF]}})


def test_every_road_to_a_graph_looks_at_it(tmp_path: Path) -> None:
    """Loading refuses the graph, and so do the paths that TensorRT and `bisect` get."""
    model = example_encoder()
    located("../../secret")(model)
    bundle = changed_bundle(tmp_path / "b", {ENCODER: model.SerializeToString()})
    for options in ({}, {"map_weights": True}, {"check_hashes": False}):
        with pytest.raises(BundleError, match="has its data in"):
            Encoder.load(bundle, backend="onnxruntime", **options)
    with pytest.raises(BundleError, match="has its data in"):
        Bundle.open(bundle).graph_paths("fp32")


@pytest.mark.parametrize("check_hashes", [True, False])
def test_weights_that_the_manifest_does_not_list_are_refused(
    check_hashes: bool, tmp_path: Path
) -> None:
    """A data file without a hash could be any file, whatever its name."""
    bundle = rehash(changed_bundle(tmp_path / "b"), without=f"{ENCODER}.data")
    with pytest.raises(BundleError, match=r"encoder.fp32.onnx.data: is not listed"):
        Encoder.load(bundle, backend="onnxruntime", check_hashes=check_hashes)


def test_weights_that_are_a_link_must_lie_beside_the_graph(tmp_path: Path) -> None:
    """A link to a file elsewhere is refused; the links of a model hub's cache are followed."""
    snapshot = tmp_path / "model/snapshots/1"
    blobs, elsewhere = tmp_path / "model/blobs", tmp_path / "elsewhere"
    for folder in (snapshot.parent, blobs, elsewhere):
        folder.mkdir(parents=True)
    bundle = changed_bundle(snapshot)
    data = bundle / f"{ENCODER}.data"
    data.rename(elsewhere / "1")
    data.symlink_to(elsewhere / "1")
    with pytest.raises(BundleError, match="is a link that leads out of the bundle"):
        Encoder.load(bundle, backend="onnxruntime", check_hashes=False)
    with pytest.raises(BundleError, match="is a link that leads elsewhere"):
        open_encoder(bundle)
    (elsewhere / "1").rename(blobs / "1")
    data.unlink()
    data.symlink_to(blobs / "1")
    (bundle / ENCODER).rename(blobs / "2")
    (bundle / ENCODER).symlink_to(blobs / "2")
    for mapped in (False, True):
        with Encoder.load(bundle, backend="onnxruntime", map_weights=mapped) as encoder:
            assert encoder.encode("a").shape == (1, 64)


def test_mapped_weights_without_a_temporary_folder_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine on which nothing can be written loads a bundle, but not with mapped weights."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(StorageError, match="set TMPDIR to a folder"):
        Encoder.load(EXAMPLE, backend="onnxruntime", map_weights=True)
    with Encoder.load(EXAMPLE, backend="onnxruntime") as encoder:
        assert encoder.encode("a").shape == (1, 64)


def test_a_data_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    """The sizes in the graph are compared with that of the file, not read beyond its end."""
    bundle = changed_bundle(tmp_path / "b", {f"{ENCODER}.data": b"0" * 1000})
    with pytest.raises(BundleError, match="has 1,000 bytes, its graph needs 443,648"):
        Encoder.load(bundle, backend="onnxruntime")


OUTPUTS: dict[str, tuple[bytes, str]] = {
    "integers": (
        constant_encoder(np.ones((1, 64), np.int64), TensorProto.INT64),
        r"sentence_embedding is int64",
    ),
    "truth values": (
        constant_encoder(np.ones((1, 64), np.bool_), TensorProto.BOOL),
        r"sentence_embedding is bool",
    ),
    "a scalar": (
        constant_encoder(np.ones((), np.float32), shape=()),
        r"is float32 \(\); expected float32 \(batch, 64\)",
    ),
    "another width": (
        constant_encoder(np.ones((1, 32), np.float32), shape=("batch", 32)),
        r"is float32 \(batch, 32\); expected float32 \(batch, 64\)",
    ),
    "a symbolic width": (
        constant_encoder(np.ones((1, 64), np.float32), shape=("batch", "width")),
        r"is float32 \(batch, width\)",
    ),
    "a single row": (
        constant_encoder(np.ones((1, 64), np.float32)),
        r"the encoder graph returned float32 \(1, 64\); expected float32 \(2, 64\)",
    ),
    "the width of another declaration": (
        constant_encoder(np.ones((2, 32), np.float32)),
        r"ONNX Runtime|returned float32 \(2, 32\)",
    ),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_another_type_or_shape_never_become_vectors(name: str, tmp_path: Path) -> None:
    """They are refused when the bundle is loaded, or when the graph returns them."""
    content, message = OUTPUTS[name]
    bundle = changed_bundle(tmp_path / "b", {ENCODER: content})
    with (
        pytest.raises((BundleError, BackendError), match=message),
        Encoder.load(bundle, backend="onnxruntime") as encoder,
    ):
        encoder.encode(["one", "two"])


def test_without_the_check_a_row_would_be_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: NumPy gives both inputs the vector of the single row."""
    monkeypatch.setattr("lame_runtime.backends.base.require_floats", lambda *_: None)
    content = constant_encoder(np.ones(64, np.float32), shape=(64,))
    bundle = changed_bundle(tmp_path / "b", {ENCODER: content})
    monkeypatch.setattr("lame_runtime.backends.onnxruntime.vision_width", lambda *_: 64)
    monkeypatch.setattr("lame_runtime.backends.onnxruntime.encoder_dim", lambda *_: 64)
    with Encoder.load(bundle, backend="onnxruntime") as encoder:
        vectors = encoder.encode(["one", "two"])
    assert (vectors[0] == vectors[1]).all()


def test_inputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    """A graph that takes other inputs is not one of this contract."""
    model = example_encoder()
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 128
    bundle = changed_bundle(tmp_path / "b", {ENCODER: model.SerializeToString()})
    with pytest.raises(BundleError, match=r"input features is float32 \(n_features, 128\)"):
        Encoder.load(bundle, backend="onnxruntime")


def test_too_few_features_are_refused(preparer: Preparer) -> None:
    """A vision graph that returns fewer features than pictures have is noticed at once."""

    class Lazy(FakeBackend):
        def vision(self, group):  # type: ignore[no-untyped-def]
            return super().vision(group)[:, :1]

    item = as_input({"image": Image.new("RGB", (112, 112))})
    batch = assemble([preparer(item)], preparer.contract)
    with pytest.raises(BackendError, match="returned 1 features, fewer than the pictures have"):
        Lazy().run(batch)
    assert FakeBackend().run(batch).shape == (1, 16)


MESSAGES: dict[str, tuple[bytes, str]] = {
    "cut short": (b"\x0a\x05abc", "extends past the end"),
    "cut in a number": (b"\x10\x80", "cut short"),
    "a number of eleven bytes": (b"\x10" + b"\x80" * 10 + b"\x01", "cut short"),
    "a number beyond 64 bits": (b"\x10" + b"\xff" * 9 + b"\x7f", "cut short"),
    "a number written longer than needed": (b"\x10\x81\x00", "cut short"),
    "a group": (b"\x0b\x0c", "wire type 3"),
    "a text in place of a number": (b"\x12\x00", "wire type 2"),
    "an unknown field": (b"\x1a\x00", "has the field 3"),
    "a field twice": (b"\x10\x01\x10\x02", "occurs twice"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_wire_format_is_read_strictly(name: str) -> None:
    """Bytes that two readers could understand in two ways are refused."""
    data, message = MESSAGES[name]
    with pytest.raises(ValueError, match=message):
        Reader().read(memoryview(data), "Message", {1: text("name"), 2: number("size")})


def test_a_file_of_millions_of_fields_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields are counted over all messages of a file."""
    monkeypatch.setattr("lame_runtime.files.graphs.protobuf.MAX_FIELDS", 100)
    with pytest.raises(ValueError, match="more than 100 fields"):
        facts_of(example_encoder())
