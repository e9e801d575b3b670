"""The bisection's other side on TensorRT: plans in which every value that is asked for is an output.

Such plans are built for the inputs at hand and thrown away. An output that was inside a fused kernel breaks it open, so
a fault of fusion may vanish here while the embedding of the real plans is wrong: that, too, says where to look.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.backends._buffers import Buffers
from lame_runtime.backends._cudart import Cudart
from lame_runtime.backends._engine import Engine, Session
from lame_runtime.backends._tensorrt import make_logger, make_runtime
from lame_runtime.backends._worker import EMBEDDING, FEATURES, fetched
from lame_runtime.backends.base import Floats

from lame_export.engine.network import Options, build_plan
from lame_export.engine.profiles import DIMENSIONS, Ranges
from lame_export.streamed import Feeds

OUTPUTS = {"vision": FEATURES, "encoder": EMBEDDING}
Report = Callable[[Feeds], None]


class Probe:
    """Runs both parts of a graph on the GPU, values and all.

    Args:
        paths: the two ONNX files, by part.
        wanted: names of the values, by part.
        runs: feeds of all runs there will be, by part, which the plans are built for.
        trt: the TensorRT module.
        cuda: the CUDA runtime; None takes the system's.

    Raises:
        ExportError, BackendError: as for building and loading plans.
    """

    def __init__(
        self,
        paths: dict[str, Path],
        wanted: Mapping[str, Iterable[str]],
        runs: dict[str, list[Feeds]],
        trt: Any,
        cuda: Cudart | None = None,
    ) -> None:
        self._cuda = cuda or Cudart()
        self._logger = make_logger(trt)
        self._runtime = make_runtime(trt, self._logger)
        self._stream = self._cuda.stream()
        self._buffers = Buffers(self._cuda, self._stream)
        self._sessions: dict[str, Session] = {}
        with tempfile.TemporaryDirectory() as scratch:
            engines = {
                part: self._build(paths[part], set(wanted[part]), runs[part], trt, Path(scratch)) for part in DIMENSIONS if runs[part]
            }
        memory = self._buffers.device("scratch", max(1, *(engine.scratch for engine in engines.values())))
        for part, engine in engines.items():
            self._sessions[part] = Session(trt, engine, self._logger, self._cuda, self._stream, self._buffers, memory, capture=False)

    def _build(self, path: Path, wanted: set[str], runs: list[Feeds], trt: Any, scratch: Path) -> Engine:
        def mark(trt: Any, network: Any) -> None:
            there = {network.get_output(index).name for index in range(network.num_outputs)}
            for layer in [network.get_layer(index) for index in range(network.num_layers)]:
                for index in range(layer.num_outputs):
                    value = layer.get_output(index)
                    if value.name in wanted - there and value.dtype in (trt.DataType.FLOAT, trt.DataType.HALF):
                        network.mark_output(value)
                        there.add(value.name)

        plan, _ = build_plan(path, [ranges_of(runs)], Options(), trt, edit=mark)
        file = scratch / f"{path.stem}.plan"
        file.write_bytes(plan)
        return Engine(trt, self._runtime, self._logger, file)

    def run(self, part: str, feeds: Feeds, report: Report) -> Floats:
        """One run of a part; all values go to `report`, the part's output is returned."""
        session = self._sessions[part]
        shapes = session.run(0, feeds, {})
        found: Feeds = {}
        for name, shape in shapes.items():
            size = int(np.prod(shape)) * session.engine.outputs[name].itemsize
            staged = self._buffers.staging(size)
            self._cuda.to_host(staged, self._buffers.device(name, size), size, self._stream)
            self._cuda.synchronize(self._stream)
            found[name] = fetched(staged, shape, session.engine.outputs[name])
        self._buffers.settle()
        report(found)
        return found[OUTPUTS[part]]

    def close(self) -> None:
        """Gives everything back."""
        self._cuda.synchronize(self._stream)
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._buffers.close()
        self._cuda.destroy_stream(self._stream)


def ranges_of(runs: list[Feeds]) -> Ranges:
    """One profile that takes exactly what the runs need."""
    sizes: dict[str, list[int]] = {name: [] for names in DIMENSIONS.values() for name in names}
    for feeds in runs:
        if "pixel_patches" in feeds:
            pictures, patches, _ = feeds["pixel_patches"].shape
            sizes["pictures"].append(pictures)
            sizes["patches"].append(patches)
            sizes["windows"].append(len(feeds["window_index"]) if "window_index" in feeds else 1)
        else:
            batch, length = feeds["input_ids"].shape
            sizes["batch"].append(batch)
            sizes["length"].append(length)
            sizes["n_features"].append(len(feeds[FEATURES]))
    return {name: (min(found), max(found), max(found)) for name, found in sizes.items() if found}
