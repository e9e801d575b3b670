"""TensorRT's Python module as a recording stand-in: builds "plans" that ONNX Runtime executes.

Each class offers what the real one of the version offers, as far as it is used here;
`make_tensorrt` leaves out what a version lacks. `tests/export/test_bindings.py` holds every name
and argument here against the real bindings.
"""

from __future__ import annotations

import enum
import types
from typing import Any

from recording_gpu.builder import Builder, IBuilderConfig, IHostMemory, ITimingCache
from recording_gpu.cudart import RecordingCudart
from recording_gpu.enums import (
    DataType,
    ExecutionContextAllocationStrategy,
    HardwareCompatibilityLevel,
    ILogger,
    IProgressMonitor,
    LayerType,
    MemoryPoolType,
    TensorIOMode,
)
from recording_gpu.execution import (
    ICudaEngine,
    IExecutionContext,
    OnnxParserRefitter,
    Refitter,
    Runtime,
)
from recording_gpu.network import (
    ILayer,
    INetworkDefinition,
    IOptimizationProfile,
    IParserError,
    ITensor,
    OnnxParser,
)

__all__ = [
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IParserError",
    "ITensor",
    "ITimingCache",
    "make_tensorrt",
]

SAME_IN_ALL_VERSIONS = (
    LayerType,
    DataType,
    TensorIOMode,
    ExecutionContextAllocationStrategy,
    MemoryPoolType,
    HardwareCompatibilityLevel,
    ILogger,
    IProgressMonitor,
    OnnxParser,
    Refitter,
    OnnxParserRefitter,
)
FLAGS_10 = ("FP16", "INT8", "TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL")
FLAGS_11 = ("TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL")
"""Builder flags; TensorRT 11 and TensorRT-RTX have strongly typed networks only."""


def make_tensorrt(cudart: RecordingCudart, version: str = "10.3.0", name: str = "tensorrt") -> Any:
    """Returns the module of a version of TensorRT, on a GPU.

    Args:
        cudart: the GPU.
        version: the module's `__version__`; from 11 on, what only 10 had is left out.
        name: "tensorrt" or "tensorrt_rtx".
    """
    modern = name == "tensorrt_rtx" or int(version.split(".")[0]) >= 11
    module = types.ModuleType(name)
    module.__version__ = version
    for kind in SAME_IN_ALL_VERSIONS:
        setattr(module, kind.__name__, kind)
    on_device = {
        "_version": version,
        "_cudart": cudart,
        "_gpu": lambda self: f"{cudart.name} {cudart.capability}",
    }
    config: Any = IBuilderConfig
    if name == "tensorrt_rtx":
        # TensorRT-RTX alone builds for GPUs that are not there.
        config = type(
            "IBuilderConfig",
            (IBuilderConfig,),
            {"num_compute_capabilities": 0, "set_compute_capability": _set_capability},
        )
        module.ComputeCapability = enum.Enum("ComputeCapability", ["SM86", "SM89", "SM120"])
    module.IBuilderConfig = config
    module.Runtime = type("Runtime", (Runtime,), on_device)
    module.BuilderFlag = enum.Enum("BuilderFlag", list(FLAGS_11 if modern else FLAGS_10))
    # Networks of 10 are strongly typed only if this flag is set; there is no other kind later.
    typed = {
        "_config": lambda self: config({module.BuilderFlag.TF32}),
        "_typed": 0 if modern else 1 << 1,
    }
    module.Builder = type("Builder", (Builder,), {**on_device, **typed})
    creation = {"STRONGLY_TYPED": 0} if modern else {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
    module.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", creation)
    return module


def _set_capability(self: Any, compute_capability: Any, index: int) -> bool:
    self.target = compute_capability
    return index < self.num_compute_capabilities
