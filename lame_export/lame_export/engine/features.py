"""What each version of TensorRT lacks of what we could use, found out by asking the module, never by its version.

The table is for people who wonder what they get, and for the tests, which hold it against the real bindings.
"""

from __future__ import annotations

import functools
from typing import Any

from lame_runtime.errors import InputError

WANTED = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "networks typed by flag; where there is none, they are always typed",
    "ComputeCapability": "--target: building for a GPU that is not there",
    "BuilderFlag.VERSION_COMPATIBLE": "--version-compatible: plans that later versions of the same major one run",
    "BuilderFlag.STRIP_PLAN": "--strip-weights: plans without weights, which come from the bundle's graph",
    "BuilderFlag.REFIT_IDENTICAL": "--strip-weights",
    "HardwareCompatibilityLevel.AMPERE_PLUS": "--hardware-compatible: plans for every GPU from Ampere on",
    "IProgressMonitor": "a progress bar while building",
    "IBuilderConfig.create_timing_cache": "faster second builds on a device",
    "IBuilderConfig.builder_optimization_level": "--optimization-level",
    "MemoryPoolType.WORKSPACE": "--workspace",
    "OnnxParserRefitter": "loading plans without weights",
    "ExecutionContextAllocationStrategy.USER_MANAGED": "contexts that share their memory",
    "ICudaEngine.device_memory_size_v2": "contexts that share their memory",
    "BuilderFlag.TF32": "turned off: FP32 products of 10 bits",
    "IAttention": "the fused attention operator of ONNX opset 23, which our graphs do not need",
    "BuilderFlag.FP16": "weakly typed FP16, which we never use",
}
"""Names of the module, and what we use or would use them for."""

LACKS: dict[str, frozenset[str]] = {
    "tensorrt 10.3": frozenset({"ComputeCapability", "IAttention"}),
    "tensorrt 10.16": frozenset({"ComputeCapability"}),
    "tensorrt 11.4": frozenset({"ComputeCapability", "BuilderFlag.FP16"}),
    "tensorrt_rtx 1.7": frozenset({"BuilderFlag.FP16"}),
}
"""Of `WANTED`, what these versions do not have."""


def has(trt: Any, name: str) -> bool:
    """Whether the module has a dotted name."""
    try:
        functools.reduce(getattr, name.split("."), trt)
    except AttributeError:
        return False
    return True


def require(trt: Any, option: str, *names: str) -> None:
    """Raises `InputError` naming the option where the module lacks what it needs."""
    if missing := [name for name in names if not has(trt, name)]:
        raise InputError(f"{option}: {trt.__name__} {trt.__version__} has no {missing[0]}; leave {option} out or use another version")
