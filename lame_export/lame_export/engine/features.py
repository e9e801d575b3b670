"""Lists the TensorRT names that not every version has, and checks for them in the module at hand.

The code asks the module, never its version number: TensorRT-RTX counts its own versions from 1.
`MISSING_NAMES` tells readers what their version lacks; a test holds it against the real bindings.
"""

from __future__ import annotations

import functools
from typing import Any

from lame_runtime.errors import UsageError

USED_NAMES = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "makes TensorRT 10 take types from the file",
    "ComputeCapability": "`target`: building for a GPU that is not in this machine",
    "BuilderFlag.VERSION_COMPATIBLE": "`version_compatible`: plans for later minor versions, too",
    "BuilderFlag.STRIP_PLAN": "`strip_weights`: plans without weights",
    "BuilderFlag.REFIT_IDENTICAL": "`strip_weights`: the weights come back from the bundle's graph",
    "HardwareCompatibilityLevel.AMPERE_PLUS": "`hardware_compatible`: any GPU from Ampere on",
    "IProgressMonitor": "a progress bar while building",
    "IBuilderConfig.create_timing_cache": "faster second builds on a device",
    "IBuilderConfig.builder_optimization_level": "`optimization_level`",
    "MemoryPoolType.WORKSPACE": "`workspace`",
    "OnnxParserRefitter": "loading plans without weights",
    "ExecutionContextAllocationStrategy.USER_MANAGED": "contexts that share their memory",
    "ICudaEngine.device_memory_size_v2": "contexts that share their memory",
    "BuilderFlag.TF32": "turned off: it would cut the inputs of FP32 products to 10 mantissa bits",
    "IAttention": "the fused attention operator of ONNX opset 23, which our graphs do not need",
    "BuilderFlag.FP16": "weakly typed FP16, which we never use",
}
"""Dotted names of the TensorRT module, and what this package uses or could use each for."""

MISSING_NAMES: dict[str, frozenset[str]] = {
    # 10.3 is what JetPack 6 ships; fused attention came to TensorRT later
    "tensorrt 10.3": frozenset({"ComputeCapability", "IAttention"}),
    # only TensorRT-RTX builds for GPUs that are not there, since it compiles kernels on the device
    "tensorrt 10.16": frozenset({"ComputeCapability"}),
    # TensorRT 11 and TensorRT-RTX removed weak typing, and with it the flags that name a precision
    "tensorrt 11.4": frozenset({"ComputeCapability", "BuilderFlag.FP16"}),
    "tensorrt_rtx 1.7": frozenset({"BuilderFlag.FP16"}),
}
"""Names from `USED_NAMES` that each tested version does not have."""


def has(trt: Any, name: str) -> bool:
    """Returns whether the TensorRT module has a dotted name."""
    try:
        functools.reduce(getattr, name.split("."), trt)
    except AttributeError:
        return False
    return True


def require(trt: Any, option: str, *names: str) -> None:
    """Raises `UsageError` if the module lacks a name that a build option needs.

    Args:
        trt: the TensorRT module.
        option: name of the option, for the message.
        names: dotted names that the option needs.
    """
    missing = [name for name in names if not has(trt, name)]
    if missing:
        raise UsageError(
            f"`{option}` needs {missing[0]}, which {trt.__name__} {trt.__version__} does not have; "
            f"leave it out or use another version"
        )
