"""TensorRT's Python module as a recording stand-in: builds "plans" that ONNX Runtime executes.

Each class offers what the real one of the version offers, as far as we use it; `make_tensorrt` leaves out what a version
lacks. `tests/export/test_bindings.py` holds every name and argument here against the real bindings.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import json
import threading
import types
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from recording_gpu.cudart import GpuMisuseError, RecordingCudart

Dims = tuple[int, ...]
SCRATCH = 4096
"""Bytes that a context needs while it runs."""


class DataType(enum.Enum):
    """Of tensors."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    INT64 = 4
    BOOL = 5


NUMPY = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT64: np.int64, DataType.INT32: np.int32, DataType.BOOL: np.bool_}
ONNX = {1: DataType.FLOAT, 10: DataType.HALF, 7: DataType.INT64, 6: DataType.INT32, 9: DataType.BOOL}


class TensorIOMode(enum.Enum):
    """Whether a tensor goes in or comes out."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    """Who allocates a context's memory."""

    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class MemoryPoolType(enum.Enum):
    """Of the builder."""

    WORKSPACE = 0


class HardwareCompatibilityLevel(enum.Enum):
    """Other GPUs a plan runs on."""

    NONE = 0
    AMPERE_PLUS = 1


class ILogger(ABC):
    """What TensorRT says goes here; abstract, as the real one is."""

    class Severity(enum.Enum):
        """Of a message."""

        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    @abstractmethod
    def log(self, severity: Any, msg: str) -> None:
        """A message."""


class IProgressMonitor(ABC):
    """Told of the builder's progress; abstract, as the real one is."""

    @abstractmethod
    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        """A phase begins."""

    @abstractmethod
    def step_complete(self, phase_name: str, step: int) -> bool:
        """A step is done; False ends the build."""

    @abstractmethod
    def phase_finish(self, phase_name: str) -> None:
        """A phase is over."""


class ITensor:
    """A tensor of a network."""

    def __init__(self, name: str, shape: Dims, dtype: DataType, names: list[str]) -> None:
        self.name, self.shape, self.dtype, self._names = name, shape, dtype, names

    def get_dimension_name(self, index: int) -> str:
        """As in the file."""
        return self._names[index]


def _tensor(value: Any) -> ITensor:
    kind = value.type.tensor_type
    shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in kind.shape.dim)
    return ITensor(value.name, shape, ONNX.get(kind.elem_type, DataType.INT8), [dim.dim_param for dim in kind.shape.dim])


class LayerType(enum.Enum):
    """What a layer does; ELEMENTWISE stands for all that the ladder leaves alone."""

    SOFTMAX = 0
    MATRIX_MULTIPLY = 1
    REDUCE = 2
    NORMALIZATION = 3
    ELEMENTWISE = 4
    CAST = 5


LAYERS = {
    "Softmax": LayerType.SOFTMAX,
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "ReduceMean": LayerType.REDUCE,
    "LayerNormalization": LayerType.NORMALIZATION,
    "Cast": LayerType.CAST,
}


class ILayer:
    """A node; what it computes in follows its inputs' type, as in a strongly typed network."""

    def __init__(self, name: str, kind: LayerType, inputs: list[ITensor | None], outputs: list[ITensor]) -> None:
        self.name, self.type, self._inputs, self._outputs = name, kind, inputs, outputs

    @property
    def num_inputs(self) -> int:
        """Those left out are counted, too."""
        return len(self._inputs)

    def get_input(self, index: int) -> ITensor | None:
        """One of them; None where it was left out."""
        return self._inputs[index]

    def set_input(self, index: int, tensor: ITensor) -> None:
        """Reads another value."""
        self._inputs[index] = tensor
        if self.type not in (LayerType.ELEMENTWISE, LayerType.CAST):
            for output in self._outputs:
                output.dtype = tensor.dtype

    def _check(self) -> None:
        kinds = {value.dtype for value in self._inputs if value is not None} & {DataType.FLOAT, DataType.HALF}
        if len(kinds) > 1:
            raise GpuMisuseError(f"{self.name}: its inputs are of two types")

    @property
    def num_outputs(self) -> int:
        """Whose types are known."""
        return len(self._outputs)

    def get_output(self, index: int) -> ITensor:
        """One of them."""
        return self._outputs[index]


class INetworkDefinition:
    """What the parser filled."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.path: str | None = None
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers: list[ILayer] = []

    @property
    def num_inputs(self) -> int:
        """Of the graph."""
        return len(self._inputs)

    @property
    def num_layers(self) -> int:
        """One per node of the file."""
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        """One of them."""
        return self._layers[index]

    @property
    def num_outputs(self) -> int:
        """Of the graph, and what was marked."""
        return len(self._outputs)

    def get_output(self, index: int) -> ITensor:
        """One of them."""
        return self._outputs[index]

    def mark_output(self, tensor: ITensor) -> None:
        """Makes a value an output."""
        if tensor.name in [each.name for each in self._outputs]:
            raise GpuMisuseError(f"{tensor.name} is an output already")
        self._outputs.append(tensor)

    def add_cast(self, input: ITensor, to_type: DataType) -> ILayer:
        """A layer that changes a value's type."""
        name = f"(Unnamed Layer* {len(self._layers)}) [Cast]"
        layer = ILayer(name, LayerType.CAST, [input], [ITensor(f"{name}_output", input.shape, to_type, input._names)])
        self._layers.append(layer)
        return layer

    def get_input(self, index: int) -> ITensor:
        """One of them."""
        return self._inputs[index]


class IParserError:
    """Why a graph was not parsed."""

    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        """In words."""
        return self._text


class OnnxParser:
    """Reads a graph."""

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[IParserError] = []
        self._logger = logger

    @property
    def num_errors(self) -> int:
        """How many there were."""
        return len(self._errors)

    def get_error(self, index: int) -> IParserError:
        """One of them."""
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        """Whether it could be read."""
        try:
            read = onnx.load(model, load_external_data=False)
        except Exception as error:
            self._errors.append(IParserError(str(error).splitlines()[0]))
            return False
        self._network.path = model
        graph = read.graph
        values = {value.name: _tensor(value) for value in (*graph.value_info, *graph.input, *graph.output)}
        for each in graph.initializer:
            values[each.name] = ITensor(each.name, tuple(each.dims), ONNX.get(each.data_type, DataType.INT8), [""] * len(each.dims))
        self._network._inputs = [values[value.name] for value in graph.input]
        self._network._outputs = [values[value.name] for value in graph.output]
        self._network._layers = [
            ILayer(
                node.name,
                LAYERS.get(node.op_type, LayerType.ELEMENTWISE),
                [values.get(name) for name in node.input],
                [values[name] for name in node.output if name in values],
            )
            for node in graph.node
        ]
        return True


class IOptimizationProfile:
    """Ranges of the inputs' shapes."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[Dims]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        """Of one input."""
        if not all(low <= usual <= high for low, usual, high in zip(min, opt, max, strict=True)):
            raise ValueError(f"{input}: {min} ≤ {opt} ≤ {max} does not hold")
        self.shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class IHostMemory(bytes):
    """Bytes TensorRT made."""


class ITimingCache:
    """What was measured in earlier builds."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> IHostMemory:
        """To be kept."""
        return IHostMemory(self.content)


class IBuilderConfig:
    """How to build."""

    def __init__(self, flags: set[Any]) -> None:
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor: IProgressMonitor | None = None
        self._pools: dict[Any, int] = {}
        self._flags = flags
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """At most so many bytes."""
        self._pools[pool] = pool_size

    def set_flag(self, flag: Any) -> None:
        """Turns a flag on."""
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        """Turns a flag off."""
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Its index."""
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        """From bytes, or empty."""
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Whether it fits this device."""
        del ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        """The one in use."""
        return self._cache


class ICudaEngine:
    """A plan that was taken."""

    def __init__(self, plan: dict[str, Any], cudart: RecordingCudart, logger: ILogger) -> None:
        self._plan, self._cudart, self._logger = plan, cudart, logger
        self._weights = not plan["stripped"]
        self._known: dict[Any, dict[str, Dims]] = {}
        self._session = _open(plan["onnx"], plan["outputs"])
        cudart.engines.add(self)
        self._inputs = {each.name: _kind(each) for each in self._session.get_inputs()}
        self._outputs = {each.name: _kind(each) for each in self._session.get_outputs()}
        self._shapes = {each.name: tuple(d if isinstance(d, int) else -1 for d in each.shape) for each in self._session.get_outputs()}

    def _output_shapes(self, shapes: tuple[tuple[str, Dims], ...]) -> dict[str, Dims]:
        """Found by running on zeros, once."""
        if shapes not in self._known:
            zeros = {name: np.zeros(shape, NUMPY[self._inputs[name]]) for name, shape in shapes}
            found = self._session.run(list(self._outputs), zeros)
            self._known[shapes] = {name: tuple(array.shape) for name, array in zip(self._outputs, found, strict=True)}
        return self._known[shapes]

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""
        return len(self._inputs) + len(self._outputs)

    @property
    def num_optimization_profiles(self) -> int:
        """How many there are."""
        return len(self._plan["profiles"])

    @property
    def device_memory_size_v2(self) -> int:
        """Of a context, for any profile."""
        return SCRATCH

    def get_tensor_name(self, index: int) -> str:
        """Inputs first."""
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Whether it goes in."""
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        """Its type."""
        return (self._inputs | self._outputs)[name]

    def get_tensor_shape(self, name: str) -> Dims:
        """With -1 where it varies."""
        return self._shapes[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        """Smallest, usual, largest."""
        return [tuple(shape) for shape in self._plan["profiles"][profile_index][name]]

    def create_execution_context(self, strategy: Any = ExecutionContextAllocationStrategy.STATIC) -> IExecutionContext | None:
        """One thread's use of the engine."""
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
        self._busy = threading.Lock()
        engine._cudart.contexts.add(self)

    def _say(self, text: str) -> bool:
        self._engine._logger.log(ILogger.Severity.ERROR, text)
        return False

    def set_device_memory(self, memory: int, size: int) -> None:
        """Where it computes."""
        if size < SCRATCH:
            raise GpuMisuseError(f"{size} bytes of scratch memory where {SCRATCH} are needed")
        self._engine._cudart.check(memory, size, "device")
        self._scratch = memory, size

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Shapes and addresses must be set anew."""
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            self._say(f"there is no profile {profile_index}")
            raise RuntimeError("the bindings raise where TensorRT says no")
        self._engine._cudart.queue(stream_handle, lambda: None)
        self._profile, self._shapes, self._changes = profile_index, {}, self._changes + 1
        return True

    def set_input_shape(self, name: str, shape: Dims) -> bool:
        """Within the profile."""
        if self._profile is None:
            raise GpuMisuseError("a shape is set before the profile")
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(low) or not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            return self._say(f"{name}: {shape} is not within the profile")
        self._shapes[name] = tuple(shape)
        self._changes += 1
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Of an input or output."""
        if memory % 256:
            raise GpuMisuseError(f"{name}: its address is no multiple of 256")
        self._addresses[name] = memory
        self._changes += 1
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """Of an output, for the inputs' shapes."""
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
        if self._scratch is None:
            raise GpuMisuseError("a context runs without memory")
        if cudart.error:
            return self._say(f"Cuda Runtime (error {cudart.error})")  # it cannot tell whose it is
        if not engine._weights:
            return self._say("the plan was stripped and has no weights")
        if missing := (set(engine._inputs) | set(engine._outputs)) - set(self._addresses):
            raise GpuMisuseError(f"no address was set for {sorted(missing)}")
        if cudart.recording(stream) and self._run_at != self._changes:
            raise GpuMisuseError("a graph is recorded before the context ran once with its shapes and addresses")
        self._run_at = state = self._changes
        shapes = self._shapes | {name: self.get_tensor_shape(name) for name in engine._outputs}
        addresses, scratch, profile = dict(self._addresses), self._scratch, self._profile

        def compute() -> None:
            feeds = {name: _read(cudart, addresses[name], shapes[name], NUMPY[kind]) for name, kind in engine._inputs.items()}
            for name, array in zip(engine._outputs, engine._session.run(list(engine._outputs), feeds), strict=True):
                nonsense = engine._plan.get("wrong") or profile in engine._plan.get("wrong_profiles", ())
                wrong = np.roll(array, 1, axis=-1) if nonsense else array
                _write(cudart, addresses[name], wrong)

        sizes = {
            name: int(np.prod(shapes[name])) * np.dtype(NUMPY[kind]).itemsize for name, kind in (engine._inputs | engine._outputs).items()
        }
        uses = [cudart.check(addresses[name], size, "device") for name, size in sizes.items()]
        uses.append(cudart.check(scratch[0], SCRATCH, "device"))
        cudart.queue(stream, compute, *uses, holds=lambda: self._changes == state)
        return True


class Runtime:
    """Takes plans."""

    def __init__(self, logger: ILogger) -> None:
        if not self._cudart.devices:
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        """None where the plan is of another version or GPU, or damaged."""
        try:
            plan = json.loads(bytes(serialized_engine))
        except ValueError:
            self._logger.log(ILogger.Severity.ERROR, "the plan's magic tag does not match\nsecond line")
            return None
        for what, here in (("version", self._version), ("gpu", self._gpu())):
            if plan[what] not in (here, None):
                self._logger.log(ILogger.Severity.ERROR, f"the plan is of {what} {plan[what]}, this is {here}")
                return None
        if plan["host_code"] and not self.engine_host_code_allowed:
            self._logger.log(ILogger.Severity.ERROR, "the plan brings code of its own, which is not allowed")
            return None
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._cudart.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        if len(serialized_engine) > free.value:
            self._logger.log(ILogger.Severity.ERROR, "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)")
            return None
        return ICudaEngine(plan, self._cudart, self._logger)


class Refitter:
    """Gives an engine other weights."""

    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        if not engine._plan["stripped"]:
            logger.log(ILogger.Severity.ERROR, "the engine was not built to be refitted")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.engine, self.logger = engine, logger
        self.given = False

    def refit_cuda_engine(self) -> bool:
        """Puts them in."""
        self.engine._weights = self.given
        return self.given


class OnnxParserRefitter:
    """Reads weights."""

    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter, self._logger = refitter, logger

    def refit_from_file(self, model: str) -> bool:
        """Of the same graph."""
        if _digest(model) != self._refitter.engine._plan["digest"]:
            self._logger.log(ILogger.Severity.ERROR, "these are not the weights of this plan")
            return False
        self._refitter.given = True
        return True


class Builder:
    """Makes plans."""

    def __init__(self, logger: ILogger) -> None:
        if not self._cudart.devices:
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        """An empty one; without the flag it would be one in which TensorRT chooses the precision, before 11."""
        if not flags & self._typed == self._typed:
            raise GpuMisuseError("a network that is not strongly typed")
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        """With defaults: TF32 is on."""
        return self._config()

    def create_optimization_profile(self) -> IOptimizationProfile:
        """An empty one."""
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        """The plan, or None."""
        names = {network.get_input(index).name for index in range(network.num_inputs)}
        for profile in config._profiles:
            if set(profile.shapes) != names:
                raise GpuMisuseError(f"a profile lacks {sorted(names - set(profile.shapes))}")
        monitor = config.progress_monitor
        for phase, steps in (("parse", 2), ("time", 3)) if monitor is not None else ():
            assert monitor is not None
            monitor.phase_start(phase, "build", steps)
            for step in range(steps):
                if not monitor.step_complete(phase, step):
                    self._logger.log(ILogger.Severity.ERROR, "the build was cancelled")
                    return None
            monitor.phase_finish(phase)
        if config._cache is not None:
            config._cache.content += b"timed"
        for layer in network._layers:
            if layer.type is not LayerType.CAST:
                layer._check()
        flags = {flag.name for flag in config._flags}
        assert network.path is not None
        plan = {
            "onnx": network.path,
            "digest": _digest(network.path),
            "outputs": [network.get_output(index).name for index in range(network.num_outputs)],
            "profiles": [profile.shapes for profile in config._profiles],
            "version": None if "VERSION_COMPATIBLE" in flags else self._version,
            "gpu": self._gpu() if config.hardware_compatibility_level.name == "NONE" else None,
            "stripped": "STRIP_PLAN" in flags,
            "flags": sorted(flags),
            "level": config.builder_optimization_level,
            "pools": {pool.name: size for pool, size in config._pools.items()},
            "casts": sum("[Cast]" in layer.name for layer in network._layers),
            "host_code": "VERSION_COMPATIBLE" in flags,
        }
        return IHostMemory(json.dumps(plan).encode())


FLAGS_10 = ("FP16", "INT8", "TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL")
FLAGS_11 = ("TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL")


def make_tensorrt(cudart: RecordingCudart, version: str = "10.3.0", name: str = "tensorrt") -> Any:
    """The module of a version, on a GPU.

    Args:
        cudart: whose memory it uses.
        version: what `__version__` says; what 10 had and 11 has not is left out from 11 on.
        name: "tensorrt" or "tensorrt_rtx".
    """
    modern = name == "tensorrt_rtx" or int(version.split(".")[0]) >= 11
    module = types.ModuleType(name)
    module.__version__ = version
    plain = (LayerType, DataType, TensorIOMode, ExecutionContextAllocationStrategy, MemoryPoolType, HardwareCompatibilityLevel, ILogger)
    more = (IProgressMonitor, OnnxParser, Refitter, OnnxParserRefitter)
    for each in plain + more:
        setattr(module, each.__name__, each)
    on_device = {"_version": version, "_cudart": cudart, "_gpu": lambda self: f"{cudart.name} {cudart.capability}"}
    config: Any = IBuilderConfig
    if name == "tensorrt_rtx":
        config = type("IBuilderConfig", (IBuilderConfig,), {"num_compute_capabilities": 0, "set_compute_capability": _set_capability})
        module.ComputeCapability = enum.Enum("ComputeCapability", ["SM86", "SM89", "SM120"])
    module.IBuilderConfig = config
    module.Runtime = type("Runtime", (Runtime,), on_device)
    module.BuilderFlag = enum.Enum("BuilderFlag", list(FLAGS_11 if modern else FLAGS_10))
    ours = {"_config": lambda self: config({module.BuilderFlag.TF32}), "_typed": 0 if modern else 1 << 1}
    module.Builder = type("Builder", (Builder,), {**on_device, **ours})
    creation = {"STRONGLY_TYPED": 0} if modern else {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
    module.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", creation)
    return module


def _open(path: str, outputs: list[str]) -> Any:
    """A session on the file, with outputs that were marked."""
    model = onnx.load(path, load_external_data=False)
    typed = {value.name: value for value in model.graph.value_info}
    if not set(outputs) & set(typed):
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    there = {value.name for value in model.graph.output}
    model.graph.output.extend(typed[name] for name in outputs if name not in there)
    changed = Path(path).with_suffix(".marked.onnx")
    changed.write_bytes(model.SerializeToString())
    try:
        return onnxruntime.InferenceSession(str(changed), providers=["CPUExecutionProvider"])
    finally:
        changed.unlink()


def _set_capability(self: Any, compute_capability: Any, index: int) -> bool:
    self.target = compute_capability
    return index < self.num_compute_capabilities


def _kind(value: Any) -> DataType:
    kinds = {"float": DataType.FLOAT, "float16": DataType.HALF, "int64": DataType.INT64, "bool": DataType.BOOL}
    return kinds[value.type.removeprefix("tensor(").removesuffix(")")]


def _read(cudart: RecordingCudart, address: int, shape: Dims, dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    cudart.check(address, size, "device")
    return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)


def _write(cudart: RecordingCudart, address: int, array: Any) -> None:
    cudart.check(address, array.nbytes, "device")
    ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
