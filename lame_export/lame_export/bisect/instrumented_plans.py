"""Runs a graph on TensorRT with the values of its modules as outputs.

The plans are built for the inputs at hand and thrown away. Making a value an output breaks up the
fused kernel that computed it, so a fault of fusion may vanish here although the real plans'
embedding is wrong. That tells where to look, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.backends.tensorrt.buffers import Buffers
from lame_runtime.backends.tensorrt.cudart import Cudart
from lame_runtime.backends.tensorrt.engine import Engine
from lame_runtime.backends.tensorrt.module import make_logger, make_runtime
from lame_runtime.backends.tensorrt.session import Session
from lame_runtime.backends.tensorrt.worker import EMBEDDING, FEATURES, fetched
from lame_runtime.contract.batch import Floats

from lame_export.bisect.graph_errors import ReportValues
from lame_export.engine.network import Options, build_plan
from lame_export.engine.profiles import DIMENSIONS, Ranges
from lame_export.streaming.attention_blocks import Feeds

PART_OUTPUTS = {"vision": FEATURES, "encoder": EMBEDDING}
"""Name of each part's own output."""


class InstrumentedPlans:
    """Plans of both parts whose intermediate values are outputs, on the GPU.

    Args:
        paths: the two ONNX files, by part.
        values: names of the values to make outputs, by part.
        runs: inputs of all runs there will be, by part; the plans are built for their shapes.
        trt: the TensorRT module.
        cuda: the CUDA runtime; None takes the system's.

    Raises:
        ExportError: TensorRT cannot build the graph.
        BackendError: there is no GPU, or it cannot load the plans.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        values: Mapping[str, Iterable[str]],
        runs: Mapping[str, list[Feeds]],
        trt: Any,
        cuda: Cudart | None = None,
    ) -> None:
        self._cuda = cuda or Cudart()
        # Both must outlive the engines that are made with them.
        self._logger = make_logger(trt)
        self._runtime = make_runtime(trt, self._logger)
        self._stream = self._cuda.stream()
        self._buffers = Buffers(self._cuda, self._stream)
        self._sessions: dict[str, Session] = {}
        with tempfile.TemporaryDirectory() as scratch:
            engines = {
                part: self._build(paths[part], set(values[part]), runs[part], trt, Path(scratch))
                for part in DIMENSIONS
                # Texts alone never run the vision tower.
                if runs[part]
            }
        # One stream runs the parts in turn, so they can share their scratch memory.
        memory = self._buffers.device(
            "scratch", max(1, *(engine.scratch for engine in engines.values()))
        )
        for part, engine in engines.items():
            # A recorded CUDA graph pays off if shapes repeat; each batch runs only once here.
            self._sessions[part] = Session(engine, self._buffers, memory, capture=False)

    def _build(
        self, path: Path, values: set[str], runs: list[Feeds], trt: Any, scratch: Path
    ) -> Engine:
        edit = partial(_mark_outputs, values)
        plan, _ = build_plan(path, [ranges_of(runs)], Options(), trt, edit=edit)
        file = scratch / f"{path.stem}.plan"
        file.write_bytes(plan)
        # The engine has read the file when this returns, so the folder may go.
        return Engine(trt, self._runtime, self._logger, file)

    def run(self, part: str, feeds: Feeds, report: ReportValues) -> Floats:
        """Runs a part, reports all values, and returns the part's output in float32."""
        session = self._sessions[part]
        # 0: the plans have one profile.
        shapes = session.run(0, feeds, {})
        values: Feeds = {}
        for name, shape in shapes.items():
            dtype = session.engine.outputs[name]
            size = int(np.prod(shape)) * dtype.itemsize
            staged = self._buffers.staging(size)
            self._cuda.to_host(staged, self._buffers.device(name, size), size, self._stream)
            # Copies are only queued until the stream is synchronized.
            self._cuda.synchronize(self._stream)
            values[name] = fetched(staged, shape, dtype)
        self._buffers.settle()
        report(values)
        return values[PART_OUTPUTS[part]]

    def close(self) -> None:
        """Releases everything on the GPU."""
        # In this order: contexts use the buffers, and buffers may only go when the stream is idle.
        self._cuda.synchronize(self._stream)
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._buffers.close()
        self._cuda.destroy_stream(self._stream)


def _mark_outputs(names: set[str], trt: Any, network: Any) -> None:
    """Makes values of a parsed network outputs, if NumPy can hold their type."""
    existing = {network.get_output(index).name for index in range(network.num_outputs)}
    # INT8 values inside a quantized layer have no meaning without their scale.
    types = (trt.DataType.FLOAT, trt.DataType.HALF)
    for layer in [network.get_layer(index) for index in range(network.num_layers)]:
        for index in range(layer.num_outputs):
            value = layer.get_output(index)
            if value.name in names - existing and value.dtype in types:
                network.mark_output(value)
                # Marking a value twice is an error, and layers may share one.
                existing.add(value.name)


def ranges_of(runs: list[Feeds]) -> Ranges:
    """Returns one profile that accepts exactly the shapes of the runs."""
    sizes: dict[str, list[int]] = {name: [] for names in DIMENSIONS.values() for name in names}
    for feeds in runs:
        if "frames" in feeds:
            pictures, depth, patches, _ = feeds["frames"].shape
            sizes["pictures"].append(pictures)
            sizes["depth"].append(depth)
            sizes["patches"].append(patches)
            # Only Qwen2.5-VL has windows.
            sizes["windows"].append(len(feeds["window_index"]) if "window_index" in feeds else 1)
        else:
            batch, length = feeds["input_ids"].shape
            sizes["batch"].append(batch)
            sizes["length"].append(length)
            sizes["n_features"].append(len(feeds[FEATURES]))
    return {name: (min(seen), max(seen), max(seen)) for name, seen in sizes.items() if seen}
