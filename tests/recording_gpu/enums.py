"""Enumerations of TensorRT, as far as they are used, and its two abstract callbacks.

`make_tensorrt` leaves out what a version lacks.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import Any

import numpy as np


class DataType(enum.Enum):
    """Element type of a tensor."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    INT64 = 4
    BOOL = 5
    UINT8 = 6


NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT64: np.int64,
    DataType.INT32: np.int32,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
}
"""NumPy's type of each element type."""
ONNX = {
    1: DataType.FLOAT,
    10: DataType.HALF,
    7: DataType.INT64,
    6: DataType.INT32,
    9: DataType.BOOL,
    2: DataType.UINT8,
}
"""Element types by the number that ONNX files have for them."""


class TensorIOMode(enum.Enum):
    """Whether a tensor is an input or an output of an engine."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    """Who allocates the memory that an execution context computes in."""

    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class MemoryPoolType(enum.Enum):
    """Memory that the builder may use."""

    WORKSPACE = 0


class HardwareCompatibilityLevel(enum.Enum):
    """Other GPUs that a plan runs on."""

    NONE = 0
    AMPERE_PLUS = 1


class LayerType(enum.Enum):
    """Operation of a layer; ELEMENTWISE stands for all those that no precision fallback changes."""

    SOFTMAX = 0
    MATRIX_MULTIPLY = 1
    REDUCE = 2
    NORMALIZATION = 3
    ELEMENTWISE = 4
    CAST = 5


class ILogger(ABC):
    """Receives TensorRT's messages; abstract, as the real one is."""

    class Severity(enum.Enum):
        """Severity of a message."""

        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    @abstractmethod
    def log(self, severity: Any, msg: str) -> None:
        """Receives a message."""


class IProgressMonitor(ABC):
    """Receives the builder's progress; abstract, as the real one is."""

    @abstractmethod
    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        """Receives the start of a phase."""

    @abstractmethod
    def step_complete(self, phase_name: str, step: int) -> bool:
        """Receives the end of a step; False cancels the build."""

    @abstractmethod
    def phase_finish(self, phase_name: str) -> None:
        """Receives the end of a phase."""
