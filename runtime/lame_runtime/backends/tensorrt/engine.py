"""One deserialized TensorRT plan: its inputs and outputs, and the shapes that its profiles take."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lame_runtime.backends.tensorrt.module import failure
from lame_runtime.errors import BackendError, shown

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
"""Shape of each tensor, by name."""


class ShapeRange(NamedTuple):
    """The shapes of one input that a profile takes, in TensorRT's words."""

    min: Shape
    opt: Shape
    """The shape that the kernels were tuned for."""
    max: Shape


Profile = dict[str, ShapeRange]
"""An optimization profile: the range of each input's shape."""

# Names of TensorRT's types. NumPy has none for BF16, FP8 and INT4, which plans may use inside.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT64": "int64",
    "INT32": "int32",
    "UINT8": "uint8",
    "BOOL": "bool",
}


class Engine:
    """A plan on the GPU: its weights, which all workers share.

    Args:
        trt: the TensorRT module.
        runtime: what `make_runtime` returned.
        logger: what `make_logger` returned.
        path: the plan's file.
        weights: the ONNX file that a stripped plan gets its weights from.
        sha256: the sha256 that the plan's file must have; None skips the check.

    Raises:
        BackendError: the file is another one, or TensorRT refuses the plan; `DeviceError` if memory
            ran out.
    """

    def __init__(
        self,
        trt: Any,
        runtime: Any,
        logger: Any,
        path: Path,
        weights: Path | None = None,
        *,
        sha256: str | None = None,
    ) -> None:
        self.path = path
        self._trt = trt
        self._logger = logger
        self._engine = _deserialize(trt, runtime, logger, path, sha256)
        if weights is not None:
            _refit(trt, self._engine, logger, weights)
        names = [
            self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)
        ]
        # TensorRT lists inputs and outputs in one sequence.
        is_input = {
            name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names
        }
        self.inputs = {name: _dtype(self._engine, name) for name in names if is_input[name]}
        self.outputs = {name: _dtype(self._engine, name) for name in names if not is_input[name]}
        self.profiles: list[Profile] = [
            {name: _shape_range(self._engine, name, index) for name in self.inputs}
            for index in range(self._engine.num_optimization_profiles)
        ]
        # The property without _v2 is deprecated, and TensorRT-RTX does not have it.
        self.scratch = int(self._engine.device_memory_size_v2)
        """Bytes of GPU memory that an execution context needs while it runs, in any profile."""

    def width(self, output: str) -> int:
        """Returns the last dimension of an output, which is fixed."""
        return int(tuple(self._engine.get_tensor_shape(output))[-1])

    def range(self, name: str, axis: int) -> str:
        """Returns which sizes of an input's dimension the profiles take, such as "128–512"."""
        low = min(profile[name].min[axis] for profile in self.profiles)
        high = max(profile[name].max[axis] for profile in self.profiles)
        return f"{low:,}–{high:,}"

    def create_context(self, scratch: int) -> Any:
        """Returns a new execution context of TensorRT that computes in the given memory.

        Args:
            scratch: address of `self.scratch` bytes on the GPU, which must outlive the context.

        Raises:
            BackendError: TensorRT cannot make one; `DeviceError` if memory ran out.
        """
        # By default every context allocates the largest profile's memory for itself. The contexts
        # of a worker run one after the other on its stream, so they can share one piece of memory.
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise failure(
                f"{shown(self.path)}: TensorRT cannot make an execution context",
                self._logger.first(),
            )
        context.set_device_memory(scratch, self.scratch)
        return context

    def require(self, succeeded: bool, action: str) -> None:
        """Raises `BackendError` with TensorRT's reason unless a call on this engine succeeded."""
        if not succeeded:
            raise failure(f"{shown(self.path)}: TensorRT cannot {action}", self._logger.first())

    def close(self) -> None:
        """Drops TensorRT's engine, even if this object is still referenced, as from a traceback."""
        self._engine = None

    def choose(
        self, shapes_of: Callable[[int], Shapes], count: int, only: int | None = None
    ) -> tuple[int, int] | None:
        """Chooses the profile that takes the most rows or pictures at once.

        Of profiles that take the same number, the first is chosen: the one for the smallest inputs,
        whose kernels are the fastest for them.

        Args:
            shapes_of: returns the shapes of all inputs for a number of rows or pictures.
            count: how many there are.
            only: index of the one profile that may be chosen; None allows all.

        Returns:
            The profile's index and how many it takes; None if no profile takes even one.
        """
        best = None
        for index, profile in enumerate(self.profiles):
            if only not in (None, index):
                continue
            taken = _most(profile, shapes_of, count)
            if taken and (best is None or taken > best[1]):
                best = index, taken
        return best


def _most(profile: Profile, shapes_of: Callable[[int], Shapes], count: int) -> int:
    """Returns how many of `count` rows the profile takes at once."""
    # Bisection: with more rows every dimension stays the same or grows, so the largest number that
    # is below the upper bounds is found without trying them all.
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if _below(profile, shapes_of(middle)):
            low = middle
        else:
            high = middle - 1
    return low if low and _above(profile, shapes_of(low)) else 0


def _below(profile: Profile, shapes: Shapes) -> bool:
    """Returns whether no dimension is larger than the profile takes."""
    return all(
        size <= bound
        for name, shape in shapes.items()
        for size, bound in zip(shape, profile[name].max, strict=True)
    )


def _above(profile: Profile, shapes: Shapes) -> bool:
    """Returns whether no dimension is smaller than the profile takes."""
    return all(
        size >= bound
        for name, shape in shapes.items()
        for size, bound in zip(shape, profile[name].min, strict=True)
    )


def _deserialize(trt: Any, runtime: Any, logger: Any, path: Path, sha256: str | None) -> Any:
    """Returns TensorRT's engine of a plan's file."""
    try:
        # Mapped, so that a device whose CPU and GPU share memory does not hold the plan twice.
        # The mapping is what is hashed and what is deserialized: a file that is replaced in between
        # cannot get past the check.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            if sha256 is not None and hashlib.sha256(plan).hexdigest() != sha256:
                raise BackendError(
                    f"{shown(path)}: is not the file that was built; build it again: "
                    "lame-export engine"
                )
            engine = runtime.deserialize_cuda_engine(plan)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped: ValueError
        raise BackendError(
            f"{shown(path)}: cannot be read ({error}); build it again: lame-export engine"
        ) from None
    if engine is None:
        raise failure(
            f"{shown(path)}: {trt.__name__} {trt.__version__} refuses the plan",
            logger.first(),
            "plans belong to one GPU and one TensorRT version: build it here with "
            "lame-export engine",
        )
    return engine


def _refit(trt: Any, engine: Any, logger: Any, weights: Path) -> None:
    """Gives a plan that was stripped of its weights those of the ONNX file."""
    try:
        refitter = trt.Refitter(engine, logger)
        parser = trt.OnnxParserRefitter(refitter, logger)
        refitted = parser.refit_from_file(str(weights)) and refitter.refit_cuda_engine()
    # A plan that was not built to be refitted has no refitter: a null pointer, which the bindings
    # turn into a TypeError.
    except (TypeError, RuntimeError):
        refitted = False
    if not refitted:
        raise failure(
            f"{weights}: TensorRT cannot refit the plan with these weights",
            logger.first(),
            "build it again",
        )


def _dtype(engine: Any, name: str) -> np.dtype[Any]:
    kind = engine.get_tensor_dtype(name).name
    if kind not in _DTYPES:
        raise BackendError(
            f"{name}: is {kind} in the plan, which NumPy cannot hold; "
            "export graphs of fp16, fp32 or int8"
        )
    return np.dtype(_DTYPES[kind])


def _shape_range(engine: Any, name: str, index: int) -> ShapeRange:
    # TensorRT's Dims are copied: they belong to the engine, and compare with tuples as unequal.
    low, opt, high = (
        tuple(int(size) for size in shape) for shape in engine.get_tensor_profile_shape(name, index)
    )
    return ShapeRange(low, opt, high)
