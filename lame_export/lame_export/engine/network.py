"""Parses an ONNX graph into a strongly typed TensorRT network and builds a plan from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.backends.tensorrt.module import make_logger
from lame_runtime.errors import ExportError, UsageError

from lame_export.engine.features import has, require
from lame_export.engine.profiles import Ranges

# The TensorRT module is an argument everywhere (`trt: Any`): there are two of them, `tensorrt` and
# `tensorrt_rtx`, of which usually one is installed, and neither has type stubs.
NetworkEdit = Callable[[Any, Any], None]
"""Changes a parsed network in place; called with the TensorRT module and the network."""


@dataclass(frozen=True)
class Options:
    """Builder options that decide which devices a plan runs on and how it is optimized."""

    target: str | None = None
    """Compute capability such as "sm86"; None builds for the GPU in this machine."""
    optimization_level: int | None = None
    """0 to 5; None leaves TensorRT's default (3)."""
    workspace: int | None = None
    """Bytes that a layer may use while it runs; None leaves all of the GPU's memory."""
    version_compatible: bool = False
    """Whether later minor versions of TensorRT can run the plan."""
    hardware_compatible: bool = False
    """Whether every GPU from Ampere on can run the plan."""
    strip_weights: bool = False
    """Whether the weights are left out of the plan, to be refitted from the bundle's graph."""

    @property
    def flags(self) -> list[str]:
        """The options that change what a plan needs to run, as `build.json` records them."""
        flags = {
            "version-compatible": self.version_compatible,
            "hardware-compatible": self.hardware_compatible,
            "weight-stripped": self.strip_weights,
        }
        return [flag for flag, is_set in flags.items() if is_set]


def build_plan(
    onnx_path: Path,
    profiles: Sequence[Ranges],
    options: Options,
    trt: Any,
    *,
    edit: NetworkEdit | None = None,
    timing_cache: bytes | None = None,
    monitor: Any = None,
) -> tuple[bytes, bytes]:
    """Builds the plan of one graph.

    Args:
        onnx_path: an fp32, fp16 or int8 graph with its weights beside it.
        profiles: ranges of the graph's named dimensions.
        options: builder options.
        trt: the TensorRT module.
        edit: changes the parsed network before it is built; see `fallback_levels`.
        timing_cache: kernel timings of an earlier build on this device, or empty bytes for a new
            cache; None builds without one.
        monitor: an `IProgressMonitor`.

    Returns:
        The plan, and the timing cache with what this build measured (empty without a cache).

    Raises:
        ExportError: the parser or the builder refuses the graph; the message holds TensorRT's first
            error.
        UsageError: an option that this version or module does not have.
    """
    # Checked first: a wrong target is reported as such on machines without a GPU, too.
    capability = _capability(trt, options.target)
    name = f"{trt.__name__} {trt.__version__}"
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError):
        # The bindings raise one of these if TensorRT's C++ factory returns a null pointer, as it
        # does without a GPU or a driver. Only the log has the reason.
        raise ExportError(
            f"{name} does not start ({logger.first()}); it needs a GPU and its driver"
        ) from None
    network = builder.create_network(_strongly_typed(trt))
    # The parser owns the memory of the weights, so it has to live until the plan is built.
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        reason = errors[0] if errors else logger.first()
        raise ExportError(f"{onnx_path}: {name} cannot parse the graph ({reason})")
    if edit is not None:
        edit(trt, network)
    config = builder.create_builder_config()
    _configure(trt, config, options, capability)
    # The builder writes its timings into this object, so it must be held until it is serialized.
    cache = None if timing_cache is None else _attach_timing_cache(config, timing_cache)
    if monitor is not None:
        config.progress_monitor = monitor
    for ranges in profiles:
        try:
            _add_profile(builder, config, network, ranges)
        except (RuntimeError, ValueError):
            raise ExportError(
                f"{onnx_path}: {name} does not accept the profile {ranges} ({logger.first()})"
            ) from None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{onnx_path}: {name} cannot build the graph ({logger.first()})")
    return bytes(plan), b"" if cache is None else bytes(cache.serialize())


def _strongly_typed(trt: Any) -> int:
    """Returns the flags of a network whose tensors have the types that the ONNX file gives them.

    TensorRT 10 chooses precisions by itself unless the flag is set. TensorRT 11 and TensorRT-RTX
    have only strongly typed networks; they still offer the flag but deprecate it, and it may go.
    """
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # The flag is looked up by name because its bit moved: 1 in TensorRT 10, 0 in 11 and RTX 1.7.
    return 0 if flag is None else 1 << int(flag)


def _attach_timing_cache(config: Any, content: bytes) -> Any:
    """Gives the builder a timing cache and returns it; a new one if `content` cannot be used."""
    cache = config.create_timing_cache(content)
    # TensorRT refuses a damaged cache and, because of `False`, one measured on another device.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _capability(trt: Any, target: str | None) -> Any:
    """Returns the module's constant for a target such as "sm86"; None for the GPU present."""
    if target is None:
        return None
    # Only TensorRT-RTX (from its first version on) builds for GPUs that are not in the machine.
    if not has(trt, "ComputeCapability"):
        raise UsageError(
            f"`target` is {target!r}, but {trt.__name__} builds only for the GPU in this machine; "
            f"leave it out or use TensorRT-RTX"
        )
    known = _targets(trt)
    if target not in known:
        raise UsageError(f"unknown `target` {target!r}: {trt.__name__} knows {', '.join(known)}")
    return getattr(trt.ComputeCapability, target.upper())


def _targets(trt: Any) -> list[str]:
    """Returns the compute capabilities that plans can be built for without the GPU, ascending."""
    # The enumeration of TensorRT-RTX 1.7 also has NONE and CURRENT, which name no GPU.
    names = [name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    return sorted(names, key=_capability_number)


def check_gpu(trt: Any, gpu: str, capability: str) -> None:
    """Raises `UsageError` if the module's plans cannot run on a GPU.

    Checked before the build, because TensorRT-RTX builds for any GPU and then refuses to load the
    plan. It runs on the GPUs it can target and on all newer ones (an H200, sm90, was refused by
    version 1.7.1).
    """
    if not has(trt, "ComputeCapability"):
        return
    known = _targets(trt)
    newest = _capability_number(known[-1])
    if capability not in known and _capability_number(capability) < newest:
        raise UsageError(
            f"{trt.__name__} {trt.__version__} does not run on {gpu} ({capability}), only on "
            f"{', '.join(known)} and newer; use TensorRT (`module` tensorrt), or ONNX Runtime "
            f"(`backend` onnxruntime-gpu), which needs no plans"
        )


def _capability_number(capability: str) -> int:
    return int(capability.removeprefix("sm"))


def _configure(trt: Any, config: Any, options: Options, capability: Any) -> None:
    """Sets the builder options; raises `UsageError` for one that this version lacks."""
    # TF32 is on by default in every version and would leave FP32 products 10 mantissa bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if capability is not None:
        # TensorRT-RTX 1.7 takes a list of capabilities and wants its length first.
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(capability, 0):
            raise UsageError(
                f"`target` is {options.target!r}, which {trt.__name__} {trt.__version__} refuses; "
                f"choose another"
            )
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.version_compatible:
        require(trt, "version_compatible", "BuilderFlag.VERSION_COMPATIBLE")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        require(trt, "hardware_compatible", "HardwareCompatibilityLevel.AMPERE_PLUS")
        # A level of its own in all versions, not a builder flag.
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.strip_weights:
        require(trt, "strip_weights", "BuilderFlag.STRIP_PLAN", "BuilderFlag.REFIT_IDENTICAL")
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        # Promises that the same weights come back, so that TensorRT optimizes as for a full plan.
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)


def _add_profile(builder: Any, config: Any, network: Any, ranges: Ranges) -> None:
    """Adds one optimization profile, given by the ranges of the graph's named dimensions."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = tuple(tensor.shape)
        # Only inputs with a dynamic dimension (-1) need a range.
        if -1 not in sizes:
            continue
        names = [tensor.get_dimension_name(axis) for axis in range(len(sizes))]
        minimum, optimum, maximum = (
            tuple(
                ranges[name][bound] if size == -1 else size
                for name, size in zip(names, sizes, strict=True)
            )
            for bound in range(3)
        )
        profile.set_shape(tensor.name, minimum, optimum, maximum)
    config.add_optimization_profile(profile)
