"""Shows the time of a graph by kind of work, beside the time of its matrix products alone.

    python lame_export/benchmarks/embedders/profile_graphs.py runs/bench/bundle

The floor is the time of the products of a graph's linear layers, each measured alone at the same
shape, type and number of threads, best of nine runs. The graph cannot be faster than this with ONNX
Runtime, because attention, norms and all other work add to it; floor / measured is the share of the
speed that is possible. Shares are from ONNX Runtime's own profile of the encoder.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

THREADS = 2
LENGTH = 128
GROUPS = {
    "products": {"MatMul", "FusedMatMul", "MatMulIntegerToFloat", "Gemm"},
    "attention": {"GroupQueryAttention", "MultiHeadAttention", "Attention", "Softmax"},
    "quantization": {"QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear"},
    "norms": {
        "SkipSimplifiedLayerNormalization",
        "SimplifiedLayerNormalization",
        "LayerNormalization",
        "SkipLayerNormalization",
    },
}
"""Operators by kind of work; all others are "rest". Unfused attention counts as "products"."""
Event = dict[str, Any]
"""One entry of ONNX Runtime's profile."""
RUNS = 4
Shape = tuple[int, int, int]
"""Rows, inner size and columns of a product."""


def main() -> None:
    """Reads the command line and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--graphs", nargs="+", default=["fp32", "fp32-cpu", "int8-cpu"])
    parser.add_argument("--inputs", nargs="+", type=int, default=[1, 8, 32])
    options = parser.parse_args()
    kinds = [*GROUPS, "rest"]
    print(f"| graph | inputs × {LENGTH} | ms | floor / measured | {' | '.join(kinds)} |")
    print("| --- | --- | --- | --- |" + " --- |" * len(kinds))
    for graph in options.graphs:
        path = options.bundle / f"graphs/encoder.{graph}.onnx"
        for count in options.inputs:
            seconds, events = profile(path, count)
            shares, limit = shares_of(events), floor_seconds(path, events)
            cells = [f"{shares[kind]:.0%}" for kind in kinds]
            print(
                f"| `{graph}` | {count} | {seconds * 1000:.1f} | {limit / seconds:.0%} | "
                f"{' | '.join(cells)} |",
                flush=True,
            )


def profile(path: Path, count: int) -> tuple[float, list[Event]]:
    """Returns the median seconds of a run, and ONNX Runtime's profile of the nodes of one run."""
    session = _session(str(path))
    feeds = _feeds(session, count)
    seconds = statistics.median(_times(lambda: session.run(None, feeds), 9))
    with tempfile.TemporaryDirectory() as folder:
        profiling_session = _session(str(path), profile=f"{folder}/profile")
        for _ in range(RUNS):
            profiling_session.run(None, feeds)
        events = json.loads(Path(profiling_session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    # the last run: the first ones allocate memory
    return seconds, nodes[-len(nodes) // RUNS :]


def shares_of(events: list[Event]) -> Counter[str]:
    """Returns the share of each kind of work in the time of all nodes."""
    kinds = {name: kind for kind, names in GROUPS.items() for name in names}
    durations: Counter[str] = Counter()
    for event in events:
        durations[kinds.get(event["args"]["op_name"], "rest")] += event["dur"]
    total = sum(durations.values())
    return Counter({kind: durations[kind] / total for kind in [*GROUPS, "rest"]})


def floor_seconds(path: Path, events: list[Event]) -> float:
    """Returns the seconds that the linear layers' products take by themselves."""
    graph = onnx.load(path, load_external_data=False).graph
    dims = {weight.name: list(weight.dims) for weight in graph.initializer}
    # the profile has the shape of the activation alone, because weights are repacked
    weights = {node.name: dims.get(node.input[1], []) for node in graph.node if node.input[1:]}
    counts: Counter[tuple[str, Shape]] = Counter()
    for event in events:
        kind = event["args"]["op_name"]
        weight = weights.get(event["name"].removesuffix("_kernel_time"), [])
        if kind in ("MatMul", "MatMulIntegerToFloat") and len(weight) == 2:
            (sizes,) = event["args"]["input_type_shape"][0].values()
            counts[kind, (math.prod(sizes[:-1]), *weight)] += 1
    return sum(number * _product_seconds(kind, shape) for (kind, shape), number in counts.items())


def _product_seconds(kind: str, shape: Shape) -> float:
    """Returns the least seconds of one product with constant weights."""
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    if kind == "MatMul":
        a = rng.standard_normal((rows, inner)).astype(np.float32)
        b = rng.standard_normal((inner, columns)).astype(np.float32)
        node = helper.make_node("MatMul", ["a", "b"], ["y"])
        feeds, weights, element = {"a": a}, {"b": b}, TensorProto.FLOAT
    else:
        a = rng.integers(0, 255, (rows, inner), dtype=np.uint8)
        weights = {
            "b": rng.integers(-127, 127, (inner, columns), dtype=np.int8),
            "scale_a": np.float32(0.01),
            "scale_b": np.full(columns, 0.01, np.float32),
            "zero_a": np.uint8(128),
        }
        names = ["a", "b", "scale_a", "scale_b", "zero_a"]
        node = helper.make_node(kind, names, ["y"], domain="com.microsoft")
        feeds, element = {"a": a}, TensorProto.UINT8
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", element, list(a.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = _session(model.SerializeToString())
    return min(_times(lambda: session.run(None, feeds), 9))


def _session(model: Any, profile: str = "") -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _feeds(session: Any, count: int) -> dict[str, Any]:
    """Makes the encoder's inputs for texts of random tokens."""
    ids = np.random.default_rng(0).integers(0, 300, (count, LENGTH))
    width = next(value.shape[-1] for value in session.get_inputs() if value.name == "features")
    return {
        "input_ids": ids,
        "features": np.zeros((1, width), np.float32),
        "feature_index": np.zeros_like(ids),
        "position_ids": np.broadcast_to(np.arange(LENGTH), (3, *ids.shape)).astype(np.int64),
        "embed_index": np.full(count, LENGTH - 1),
    }


def _times(call: Callable[[], object], repeats: int) -> list[float]:
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
