"""A graph as a TensorRT network, and a plan from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.backends._tensorrt import make_logger
from lame_runtime.errors import InputError

from lame_export.engine.features import has, require
from lame_export.engine.profiles import Ranges
from lame_export.errors import ExportError


@dataclass(frozen=True)
class Options:
    """How to build."""

    target: str | None = None
    """Compute capability such as "sm86"; None builds for the GPU at hand."""
    optimization_level: int | None = None
    """0 to 5; None leaves TensorRT's default (3)."""
    workspace: int | None = None
    """Bytes a layer may use while it runs; None leaves all of the GPU's memory."""
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False

    @property
    def flags(self) -> list[str]:
        """Those that change what a plan is, as `build.json` holds them."""
        names = ("version_compatible", "hardware_compatible", "strip_weights")
        words = {"strip_weights": "weight-stripped"}
        return [words.get(name, name.replace("_", "-")) for name in names if getattr(self, name)]


def build_plan(
    onnx_path: Path,
    profiles: Sequence[Ranges],
    options: Options,
    trt: Any,
    *,
    edit: Callable[[Any, Any], None] = lambda trt, network: None,
    timing_cache: bytes | None = None,
    monitor: Any = None,
) -> tuple[bytes, bytes]:
    """The plan of one graph.

    Args:
        onnx_path: an fp32, fp16 or int8 graph, weights beside it.
        profiles: ranges of the graph's named dimensions.
        options: how.
        trt: the TensorRT module.
        edit: changes the parsed network; see `ladder`.
        timing_cache: of an earlier build on this device, or empty; None keeps none.
        monitor: an `IProgressMonitor`.

    Returns:
        The plan, and the timing cache with what this build measured, empty without one.

    Raises:
        ExportError: the parser or the builder refuses the graph; the message is TensorRT's first error.
        InputError: an option this version or module does not have.
    """
    capability = _capability(trt, options.target)
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError):  # the bindings' way to say that TensorRT gave nothing
        raise ExportError(f"{trt.__name__} {trt.__version__} does not start ({logger.first()}); it needs a GPU and its driver") from None
    # by name, as numbers moved between versions; where the flag is gone every network is strongly typed
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        reason = errors[0] if errors else logger.first()
        raise ExportError(f"{onnx_path}: {trt.__name__} {trt.__version__} cannot parse the graph ({reason})")
    edit(trt, network)
    config = builder.create_builder_config()
    _configure(trt, config, options, capability)
    cache = None
    if timing_cache is not None:
        cache = config.create_timing_cache(timing_cache)
        if cache is None or not config.set_timing_cache(cache, False):  # damaged, or another device's
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
    if monitor is not None:
        config.progress_monitor = monitor
    for ranges in profiles:
        try:
            _add_profile(builder, config, network, ranges)
        except (RuntimeError, ValueError):
            raise ExportError(f"{onnx_path}: {trt.__name__} does not take the profile {ranges} ({logger.first()})") from None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{onnx_path}: {trt.__name__} {trt.__version__} cannot build the graph ({logger.first()})")
    return bytes(plan), b"" if cache is None else bytes(cache.serialize())


def _capability(trt: Any, target: str | None) -> Any:
    """The module's name of a target."""
    if target is None:
        return None
    if not has(trt, "ComputeCapability"):
        raise InputError(f"--target {target}: {trt.__name__} builds for the GPU at hand only; leave it out or use TensorRT-RTX")
    known = _targets(trt)
    if target not in known:
        raise InputError(f"unknown target {target!r}: {trt.__name__} knows {', '.join(known)}")
    return getattr(trt.ComputeCapability, target.upper())


def _targets(trt: Any) -> list[str]:
    """Compute capabilities that plans can be built for where the GPU is not there."""
    names = [name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM")]  # there are NONE and CURRENT, too
    return sorted(names, key=_number)


def check_gpu(trt: Any, gpu: str, capability: str) -> None:
    """Raises `InputError` where the module's plans do not run on a GPU: TensorRT-RTX builds for any, and refuses to load.

    It runs on those it can target and on all that are newer (seen on an H200, sm90, with 1.7.1).
    """
    if not has(trt, "ComputeCapability"):
        return
    known = _targets(trt)
    if capability not in known and _number(capability) < max(map(_number, known)):
        raise InputError(
            f"{trt.__name__} {trt.__version__} does not run on {gpu} ({capability}), only on {', '.join(known)} and newer; "
            "use TensorRT (--module tensorrt), or ONNX Runtime (--backend onnxruntime-gpu), which needs no plans"
        )


def _number(capability: str) -> int:
    return int(capability.removeprefix("sm"))


def _configure(trt: Any, config: Any, options: Options, capability: Any) -> None:
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and then FP32 products have 10 bits
    if capability is not None:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(capability, 0):
            raise InputError(f"--target {options.target}: {trt.__name__} {trt.__version__} refuses it; choose another")
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.version_compatible:
        require(trt, "--version-compatible", "BuilderFlag.VERSION_COMPATIBLE")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        require(trt, "--hardware-compatible", "HardwareCompatibilityLevel.AMPERE_PLUS")
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.strip_weights:
        require(trt, "--strip-weights", "BuilderFlag.STRIP_PLAN", "BuilderFlag.REFIT_IDENTICAL")
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)


def _add_profile(builder: Any, config: Any, network: Any, ranges: Ranges) -> None:
    """One optimisation profile over the graph's named dimensions."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        dims = tuple(tensor.shape)
        names = [tensor.get_dimension_name(axis) for axis in range(len(dims))]
        low, usual, high = (
            tuple(ranges[name][level] if size == -1 else size for name, size in zip(names, dims, strict=True)) for level in range(3)
        )
        if -1 in dims:
            profile.set_shape(tensor.name, low, usual, high)
    config.add_optimization_profile(profile)
