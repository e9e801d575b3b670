"""Runtime, engine, execution context and refitter, which run plans with ONNX Runtime.

`make_tensorrt` derives `Runtime` for a version and a GPU.
"""

from __future__ import annotations

import ctypes
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from recording_gpu.builder import digest
from recording_gpu.cudart import GpuMisuseError, RecordingCudart
from recording_gpu.enums import (
    NUMPY,
    DataType,
    ExecutionContextAllocationStrategy,
    ILogger,
    TensorIOMode,
)
from recording_gpu.network import Dims

SCRATCH = 4096
"""Bytes of GPU memory that an execution context needs while it runs."""


class ICudaEngine:
    """A deserialized plan."""

    def __init__(self, plan: dict[str, Any], cudart: RecordingCudart, logger: ILogger) -> None:
        self._plan, self._cudart, self._logger = plan, cudart, logger
        self._part = Path(plan["onnx"]).name.split(".")[0]
        self._weights = not plan["stripped"]
        self._known: dict[Any, dict[str, Dims]] = {}
        self._session = _open(plan["onnx"], plan["outputs"])
        cudart.engines.add(self)
        self._inputs = {value.name: _kind(value) for value in self._session.get_inputs()}
        self._outputs = {value.name: _kind(value) for value in self._session.get_outputs()}
        self._shapes = {
            value.name: tuple(size if isinstance(size, int) else -1 for size in value.shape)
            for value in self._session.get_outputs()
        }

    def _output_shapes(self, shapes: tuple[tuple[str, Dims], ...]) -> dict[str, Dims]:
        """Returns the outputs' shapes; finds them by running on zeros, once."""
        if shapes not in self._known:
            zeros = {name: np.zeros(shape, NUMPY[self._inputs[name]]) for name, shape in shapes}
            arrays = self._session.run(list(self._outputs), zeros)
            self._known[shapes] = {
                name: tuple(array.shape) for name, array in zip(self._outputs, arrays, strict=True)
            }
        return self._known[shapes]

    @property
    def num_io_tensors(self) -> int:
        """Number of inputs and outputs."""
        return len(self._inputs) + len(self._outputs)

    @property
    def num_optimization_profiles(self) -> int:
        """Number of profiles."""
        return len(self._plan["profiles"])

    @property
    def device_memory_size_v2(self) -> int:
        """Bytes that a context needs, for any profile."""
        return SCRATCH

    def get_tensor_name(self, index: int) -> str:
        """Returns a tensor's name; inputs come first."""
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Returns whether a tensor is an input or an output."""
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        """Returns a tensor's element type."""
        return (self._inputs | self._outputs)[name]

    def get_tensor_shape(self, name: str) -> Dims:
        """Returns an output's shape, with -1 for dimensions that vary."""
        return self._shapes[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        """Returns the smallest, the usual and the largest shape of an input."""
        return [tuple(shape) for shape in self._plan["profiles"][profile_index][name]]

    def create_execution_context(
        self, strategy: Any = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        """Returns a new execution context."""
        if strategy is not ExecutionContextAllocationStrategy.USER_MANAGED:
            raise GpuMisuseError("a context that allocates for itself")
        return IExecutionContext(self)


class IExecutionContext:
    """One thread's use of an engine."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._profile: int | None = None
        self._shapes: dict[str, Dims] = {}
        self._addresses: dict[str, int] = {}
        self._scratch: tuple[int, int] | None = None
        self._changes = 0
        self._run_at = -1
        """Number of changes at the last run."""
        self._busy = threading.Lock()
        engine._cudart.contexts.add(self)

    def _error(self, text: str) -> bool:
        self._engine._logger.log(ILogger.Severity.ERROR, text)
        return False

    def _changed(self) -> bool:
        self._changes += 1
        self._engine._cudart.context_changes += 1
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        """Sets the memory that the context computes in."""
        if size < SCRATCH:
            raise GpuMisuseError(f"{size} bytes of scratch memory where {SCRATCH} are needed")
        self._engine._cudart.check(memory, size, "device")
        self._scratch = memory, size

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Switches to a profile; all shapes must be set again."""
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            self._error(f"there is no profile {profile_index}")
            raise RuntimeError("the bindings raise if TensorRT returns false")
        self._engine._cudart.queue(stream_handle, lambda: None)
        self._profile, self._shapes = profile_index, {}
        return self._changed()

    def set_input_shape(self, name: str, shape: Dims) -> bool:
        """Sets an input's shape, which must be within the profile."""
        if self._profile is None:
            raise GpuMisuseError("a shape is set before the profile")
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(low) or not all(
            a <= size <= b for a, size, b in zip(low, shape, high, strict=True)
        ):
            return self._error(f"{name}: {shape} is not within the profile")
        self._shapes[name] = tuple(shape)
        return self._changed()

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Sets the address of an input or output."""
        if memory % 256:
            raise GpuMisuseError(f"{name}: its address is no multiple of 256")
        self._addresses[name] = memory
        return self._changed()

    def get_tensor_shape(self, name: str) -> Dims:
        """Returns an output's shape for the inputs' shapes that are set."""
        if set(self._shapes) != set(self._engine._inputs):
            raise GpuMisuseError("an output's shape is asked for before all inputs have theirs")
        return self._engine._output_shapes(tuple(sorted(self._shapes.items())))[name]

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queues the work."""
        if not self._busy.acquire(blocking=False):
            raise GpuMisuseError("a context is used by two threads at once")
        try:
            return self._queue(stream_handle)
        finally:
            self._busy.release()

    def _queue(self, stream: int) -> bool:
        engine, cudart = self._engine, self._engine._cudart
        if self._scratch is None or self._profile is None:
            raise GpuMisuseError("a context runs without memory or without a profile")
        if cudart.error:  # it cannot know that the error is not its own
            return self._error(f"Cuda Runtime (error {cudart.error})")
        if not engine._weights:
            return self._error("the plan was stripped and has no weights")
        if missing := (set(engine._inputs) | set(engine._outputs)) - set(self._addresses):
            raise GpuMisuseError(f"no address was set for {sorted(missing)}")
        if cudart.recording(stream) and self._run_at != self._changes:
            raise GpuMisuseError(
                "a graph is recorded before the context ran once with its shapes and addresses"
            )
        self._run_at = state = self._changes
        cudart.profiles_run[engine._part, self._profile] += 1
        shapes = self._shapes | {name: self.get_tensor_shape(name) for name in engine._outputs}
        addresses, scratch, profile = dict(self._addresses), self._scratch, self._profile

        def compute() -> None:
            feeds = {
                name: _read(cudart, addresses[name], shapes[name], NUMPY[kind])
                for name, kind in engine._inputs.items()
            }
            # Tests plant these keys in a plan, to get an engine that computes wrong values.
            wrong = engine._plan.get("wrong") or profile in engine._plan.get("wrong_profiles", ())
            arrays = engine._session.run(list(engine._outputs), feeds)
            for name, array in zip(engine._outputs, arrays, strict=True):
                _write(cudart, addresses[name], np.roll(array, 1, axis=-1) if wrong else array)

        sizes = {
            name: int(np.prod(shapes[name])) * np.dtype(NUMPY[kind]).itemsize
            for name, kind in (engine._inputs | engine._outputs).items()
        }
        uses = [cudart.check(addresses[name], size, "device") for name, size in sizes.items()]
        uses.append(cudart.check(scratch[0], SCRATCH, "device"))
        cudart.queue(stream, compute, *uses, holds=lambda: self._changes == state)
        return True


class Runtime:
    """Deserializes plans."""

    # Set by `make_tensorrt`, for a version and a GPU.
    _cudart: RecordingCudart
    _version: str
    _gpu: Any

    def __init__(self, logger: ILogger) -> None:
        if not self._cudart.devices:
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        """Returns an engine; None if the plan is damaged, or of another version or GPU."""
        try:
            plan = json.loads(bytes(serialized_engine))
        except ValueError:
            return self._refuse("the plan's magic tag does not match\nsecond line")
        for name, here in (("version", self._version), ("gpu", self._gpu())):
            if plan[name] not in (here, None):
                return self._refuse(f"the plan is of {name} {plan[name]}, this is {here}")
        if plan["host_code"] and not self.engine_host_code_allowed:
            return self._refuse("the plan brings code of its own, which is not allowed")
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._cudart.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        if len(serialized_engine) > free.value:
            return self._refuse(
                "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"
            )
        return ICudaEngine(plan, self._cudart, self._logger)

    def _refuse(self, reason: str) -> None:
        self._logger.log(ILogger.Severity.ERROR, reason)


class Refitter:
    """Replaces the weights of an engine."""

    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        if not engine._plan["stripped"]:
            logger.log(ILogger.Severity.ERROR, "the engine was not built to be refitted")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.engine, self.logger = engine, logger
        self.given = False

    def refit_cuda_engine(self) -> bool:
        """Puts the weights into the engine; returns whether there are any."""
        self.engine._weights = self.given
        return self.given


class OnnxParserRefitter:
    """Reads the weights of an ONNX file into a refitter."""

    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter, self._logger = refitter, logger

    def refit_from_file(self, model: str) -> bool:
        """Reads a file; returns whether it is the graph that the plan was built from."""
        if digest(model) != self._refitter.engine._plan["digest"]:
            self._logger.log(ILogger.Severity.ERROR, "these are not the weights of this plan")
            return False
        self._refitter.given = True
        return True


def _open(path: str, outputs: list[str]) -> Any:
    """Returns a session on the file, with the outputs that were marked."""
    model = onnx.load(path, load_external_data=False)
    typed = {value.name: value for value in model.graph.value_info}
    if not set(outputs) & set(typed):
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(typed[name] for name in outputs if name not in present)
    # Beside the file, since the weights are in another one that is found relative to it.
    changed = Path(path).with_suffix(".marked.onnx")
    changed.write_bytes(model.SerializeToString())
    try:
        return onnxruntime.InferenceSession(str(changed), providers=["CPUExecutionProvider"])
    finally:
        changed.unlink()


def _kind(value: Any) -> DataType:
    kinds = {
        "float": DataType.FLOAT,
        "float16": DataType.HALF,
        "int64": DataType.INT64,
        "int32": DataType.INT32,
        "uint8": DataType.UINT8,
        "bool": DataType.BOOL,
    }
    return kinds[value.type.removeprefix("tensor(").removesuffix(")")]


def _read(cudart: RecordingCudart, address: int, shape: Dims, dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    cudart.check(address, size, "device")
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)


def _write(cudart: RecordingCudart, address: int, array: Any) -> None:
    cudart.check(address, array.nbytes, "device")
    ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
