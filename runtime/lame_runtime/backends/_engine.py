"""One TensorRT plan in use: its profiles, and an execution context for each of them."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.backends._buffers import Buffers
from lame_runtime.backends._cudart import Cudart
from lame_runtime.backends._tensorrt import failure
from lame_runtime.errors import BackendError

Shapes = dict[str, tuple[int, ...]]
Profile = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Smallest, usual and largest shape of each input."""

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}


class Engine:
    """A plan on the GPU: its weights, shared by all workers.

    Args:
        trt: the TensorRT module.
        runtime: its `Runtime`.
        logger: of `make_logger`, for reasons.
        path: the plan.
        weights: the ONNX file whose weights a stripped plan gets.
        sha256: which the plan's file must have; None does not look.

    Raises:
        BackendError: another file, or TensorRT does not take the plan; `DeviceError` where memory ran out.
    """

    def __init__(self, trt: Any, runtime: Any, logger: Any, path: Path, weights: Path | None = None, *, sha256: str | None = None) -> None:
        self.path = path
        self.only: int | None = None
        """The one profile that may be chosen, for proofs; None chooses among all."""
        self.engine = _deserialize(trt, runtime, logger, path, sha256)
        if weights is not None:
            _refit(trt, self.engine, logger, weights)
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        is_input = {name: self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = {name: _dtype(self.engine, name) for name in names if is_input[name]}
        self.outputs = {name: _dtype(self.engine, name) for name in names if not is_input[name]}
        self.profiles: list[Profile] = [
            {name: _three(self.engine.get_tensor_profile_shape(name, index)) for name in self.inputs}
            for index in range(self.engine.num_optimization_profiles)
        ]
        self.scratch = int(self.engine.device_memory_size_v2)
        """Bytes of GPU memory that a context needs while it runs."""

    def width(self, output: str) -> int:
        """Last dimension of an output, which is fixed."""
        return int(tuple(self.engine.get_tensor_shape(output))[-1])

    def range(self, name: str, axis: int) -> str:
        """What the profiles take of an input's dimension, as in "128–512"."""
        return f"{min(each[name][0][axis] for each in self.profiles):,}–{max(each[name][2][axis] for each in self.profiles):,}"

    def close(self) -> None:
        """Drops TensorRT's engine, whoever still holds this object."""
        self.engine = None

    def choose(self, shapes_of: Callable[[int], Shapes], wanted: int) -> tuple[int, int] | None:
        """The profile that takes the most of what is wanted, and how many; None where none takes even one.

        Args:
            shapes_of: shapes of all inputs for a number of rows or pictures.
            wanted: how many there are.
        """
        best = None
        for index, profile in enumerate(self.profiles):
            if self.only not in (None, index):
                continue
            count = _most(profile, shapes_of, wanted)
            if count and (best is None or count > best[1]):
                best = index, count
        return best


def _most(profile: Profile, shapes_of: Callable[[int], Shapes], wanted: int) -> int:
    """How many rows of those wanted the profile takes at once."""
    low, high = 0, wanted
    while low < high:  # the more rows, the larger every shape
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _within(profile, shapes_of(middle), 2) else (low, middle - 1)
    return low if low and _within(profile, shapes_of(low), 0) else 0


def _within(profile: Profile, shapes: Shapes, bound: int) -> bool:
    """Whether no dimension is above the largest (bound 2) or below the smallest (bound 0)."""
    sign = 1 if bound == 2 else -1
    pairs = [pair for name, shape in shapes.items() for pair in zip(shape, profile[name][bound], strict=True)]
    return all(sign * size <= sign * limit for size, limit in pairs)


class Session:
    """An engine in one worker: a context per profile, all in the same scratch memory, since one stream runs them in turn.

    Args:
        trt: the TensorRT module.
        engine: the plan.
        logger: for reasons.
        cuda: the CUDA runtime.
        stream: where work is queued.
        buffers: of this worker.
        scratch: address of at least `engine.scratch` bytes.
        capture: record the work of a profile once it comes with the same shapes again, and replay it.
    """

    def __init__(
        self, trt: Any, engine: Engine, logger: Any, cuda: Cudart, stream: int, buffers: Buffers, scratch: int, *, capture: bool
    ) -> None:
        self.engine = engine
        self._trt, self._logger, self._cuda, self._stream, self._buffers = trt, logger, cuda, stream, buffers
        self._scratch = scratch
        self._capture = capture
        self._contexts: dict[int, _Context] = {}

    def run(self, profile: int, feeds: Mapping[str, npt.NDArray[Any]], resident: Mapping[str, tuple[int, tuple[int, ...]]]) -> Shapes:
        """Queues one run; outputs lie in the buffers of their names afterwards.

        Args:
            profile: index of the profile that takes these shapes.
            feeds: inputs on the host.
            resident: inputs on the GPU: address and shape.

        Returns:
            Shapes of the outputs.
        """
        arrays = {name: np.ascontiguousarray(array, self.engine.inputs[name]) for name, array in feeds.items()}
        addresses = {name: self._buffers.upload(name, array) for name, array in arrays.items()}
        addresses |= {name: address for name, (address, _) in resident.items()}
        shapes = {name: array.shape for name, array in arrays.items()} | {name: shape for name, (_, shape) in resident.items()}
        context = self._contexts.get(profile) or self._begin(profile)
        context.set_shapes(shapes)
        outputs = context.output_shapes()
        for name, shape in outputs.items():
            size = int(np.prod(shape)) * self.engine.outputs[name].itemsize
            addresses[name] = self._buffers.device(name, size)
        context.set_addresses(addresses)
        context.execute()
        return outputs

    def _begin(self, profile: int) -> _Context:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        made = self.engine.engine.create_execution_context(strategy)
        if made is None:
            raise failure(f"{self.engine.path}: TensorRT cannot make an execution context", self._logger.first())
        made.set_device_memory(self._scratch, self.engine.scratch)
        context = _Context(made, self)
        try:
            taken = made.set_optimization_profile_async(profile, self._stream)
        except RuntimeError:  # the bindings raise here, and return False elsewhere
            taken = False
        context.check(taken, f"take profile {profile}")
        self._contexts[profile] = context
        return context

    def close(self) -> None:
        """Forgets recorded work and contexts; nothing may be queued any more."""
        with contextlib.ExitStack() as steps:  # one after the other, whatever the one before said
            while self._contexts:
                steps.callback(self._contexts.popitem()[1].close)


class _Context:
    """An execution context and what it was last told."""

    def __init__(self, context: Any, session: Session) -> None:
        self._context = context
        self._session = session
        self._shapes: Shapes = {}
        self._addresses: dict[str, int] = {}
        self._runs = 0
        """Since shapes or addresses last changed."""
        self._graph: int | None = None
        self._recordable = session._capture

    def check(self, done: bool, what: str) -> None:
        """Raises `BackendError` where TensorRT says no."""
        if not done:
            raise failure(f"{self._session.engine.path}: TensorRT cannot {what}", self._session._logger.first())

    def set_shapes(self, shapes: Shapes) -> None:
        """Of the inputs, where they changed."""
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self.forget()
                self.check(self._context.set_input_shape(name, shape), f"take {name} of shape {shape}")
                self._shapes[name] = shape

    def output_shapes(self) -> Shapes:
        """For the inputs' shapes."""
        return {name: tuple(self._context.get_tensor_shape(name)) for name in self._session.engine.outputs}

    def set_addresses(self, addresses: dict[str, int]) -> None:
        """Of inputs and outputs, where they changed."""
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                self.forget()
                self.check(self._context.set_tensor_address(name, address), f"use the memory of {name}")
                self._addresses[name] = address

    def execute(self) -> None:
        """Queues the work: as recorded, or anew; it is recorded when it comes a second time, as the first prepares kernels."""
        cuda, stream = self._session._cuda, self._session._stream
        if self._recordable and self._graph is None and self._runs:
            self._record()
        if self._graph is not None:
            cuda.launch(self._graph, stream)
        else:
            self.check(self._context.execute_async_v3(stream), "run the graph")
        self._runs += 1

    def _record(self) -> None:
        """Records the work; what cannot be recorded is queued anew each time."""
        cuda, stream = self._session._cuda, self._session._stream
        self._recordable, done, graph = False, False, None
        cuda.begin_capture(stream)
        try:
            done = self._context.execute_async_v3(stream)
        finally:
            with contextlib.suppress(BackendError):  # the capture was broken off
                graph = cuda.end_capture(stream)
        if graph is not None and done:
            self._graph, self._recordable = graph, True
        elif graph is not None:
            cuda.destroy_graph(graph)

    def forget(self) -> None:
        """Drops recorded work, which holds for the shapes and addresses it was recorded with."""
        self._runs = 0
        if self._graph is not None:
            self._session._cuda.synchronize(self._session._stream)
            graph, self._graph = self._graph, None
            self._session._cuda.destroy_graph(graph)

    def close(self) -> None:
        """Drops TensorRT's context, whoever still holds this object: an error's traceback may."""
        try:
            self.forget()
        finally:
            self._context = None


def _deserialize(trt: Any, runtime: Any, logger: Any, path: Path, sha256: str | None) -> Any:
    """The engine of a plan; its file is mapped, so that a small device does not hold it twice, and what is mapped is what is hashed."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            if sha256 is not None and hashlib.sha256(plan).hexdigest() != sha256:
                raise BackendError(f"{path}: is not the file that was built; build it again: lame-export engine")
            engine = runtime.deserialize_cuda_engine(plan)
    except (OSError, ValueError) as error:
        raise BackendError(f"{path}: cannot be read ({error}); build it again: lame-export engine") from None
    if engine is None:
        remedy = "plans belong to one GPU and one TensorRT version: build it here with lame-export engine"
        raise failure(f"{path}: {trt.__name__} {trt.__version__} refuses the plan", logger.first(), remedy)
    return engine


def _refit(trt: Any, engine: Any, logger: Any, weights: Path) -> None:
    """Gives a stripped plan its weights back."""
    try:
        refitter = trt.Refitter(engine, logger)
        done = trt.OnnxParserRefitter(refitter, logger).refit_from_file(str(weights)) and refitter.refit_cuda_engine()
    except (TypeError, RuntimeError):  # the bindings' way to say that the plan was not built to be refitted
        done = False
    if not done:
        raise failure(f"{weights}: TensorRT cannot refit the plan with these weights", logger.first(), "build it again")


def _dtype(engine: Any, name: str) -> np.dtype[Any]:
    kind = engine.get_tensor_dtype(name).name
    if kind not in _DTYPES:
        raise BackendError(f"{name}: is {kind} in the plan, which NumPy cannot hold; export graphs of fp16, fp32 or int8")
    return np.dtype(_DTYPES[kind])


def _three(shapes: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    low, usual, high = (tuple(int(size) for size in shape) for shape in shapes)
    return low, usual, high
