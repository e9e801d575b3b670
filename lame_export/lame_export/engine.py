"""ONNX → TensorRT plan, by TensorRT or TensorRT-RTX, whichever is installed, with the same code.

Strongly typed throughout: the file's own types are the precision, on TensorRT 10 by flag, on 11 and RTX by
nature. Only `lame_runtime` and one of the two modules are needed, so this runs on the device.
TensorRT-RTX builds were run without a GPU; builds by TensorRT proper are written for 10.3 to 11 and have not
been shown on a device yet.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.atomic import atomic_path
from lame_runtime.errors import BackendError, InputError

from lame_export.errors import ExportError

MODULES = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Profile:
    """Smallest, usual and largest value of each named dimension of the graphs."""

    pictures: tuple[int, int, int] = (1, 4, 32)
    patches: tuple[int, int, int] = (4, 64, 4096)
    windows: tuple[int, int, int] = (1, 4, 128)
    batch: tuple[int, int, int] = (1, 8, 64)
    length: tuple[int, int, int] = (9, 64, 1024)
    n_features: tuple[int, int, int] = (1, 64, 32768)


def load_tensorrt(name: str | None = None) -> Any:
    """The `tensorrt` or `tensorrt_rtx` module.

    Args:
        name: one of `MODULES`; None takes the first that is installed.

    Raises:
        BackendError: none can be imported; the message says why for each.
    """
    reasons = []
    for each in MODULES if name is None else (name,):
        try:
            return importlib.import_module(each)
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{each}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise BackendError(f"no TensorRT here ({'; '.join(reasons)}); pip install 'lame-export[tensorrt]' or 'lame-export[tensorrt-rtx]'")


def build_engine(onnx_path: Path, plan_path: Path, *, target: str | None = None, profile: Profile | None = None, module: Any = None) -> int:
    """Builds one graph and writes its plan.

    Args:
        onnx_path: an fp32, fp16 or int8 graph, weights beside it.
        plan_path: where the plan goes, written whole or not at all.
        target: compute capability such as "sm86"; None builds for the GPU at hand. TensorRT-RTX only.
        profile: ranges of the dynamic dimensions.
        module: the TensorRT module; None takes what `load_tensorrt` finds.

    Returns:
        Size of the plan in bytes.

    Raises:
        ExportError: the parser or the builder refuses the graph; the message is TensorRT's first error.
        InputError: an unknown target.
    """
    trt = module if module is not None else load_tensorrt()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    # gone from TensorRT 11 and RTX, where every network is strongly typed; value by name, since numbers moved
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        raise ExportError(
            f"{onnx_path}: {trt.__name__} {trt.__version__} cannot parse the graph ({(errors or logger.errors or ['no reason given'])[0]})"
        )
    config = builder.create_builder_config()
    _set_target(trt, config, target)
    _add_profile(builder, config, network, profile or Profile())
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(
            f"{onnx_path}: {trt.__name__} {trt.__version__} cannot build the graph ({(logger.errors or ['no reason given'])[0]})"
        )
    data = bytes(plan)
    with atomic_path(plan_path) as path:
        path.write_bytes(data)
    return len(data)


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):
        """Collects errors, prints nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """TensorRT's callback."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.splitlines()[0])

    return Logger()


def _set_target(trt: Any, config: Any, target: str | None) -> None:
    if target is None:
        return
    if not hasattr(trt, "ComputeCapability"):
        raise InputError(f"--target {target}: {trt.__name__} builds for the GPU at hand only; leave --target out or use TensorRT-RTX")
    capability = getattr(trt.ComputeCapability, target.upper(), None)
    if capability is None:
        known = [name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM")]
        raise InputError(f"unknown target {target!r}: {trt.__name__} knows {', '.join(known)}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    """One optimisation profile over the graph's named dimensions."""
    ranges = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        dims = tuple(tensor.shape)
        if -1 not in dims:
            continue
        names = [tensor.get_dimension_name(axis) for axis in range(len(dims))]
        sizes = [
            [getattr(profile, name)[level] if size == -1 else size for name, size in zip(names, dims, strict=True)] for level in range(3)
        ]
        ranges.set_shape(tensor.name, *sizes)
    config.add_optimization_profile(ranges)
