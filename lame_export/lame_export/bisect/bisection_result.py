"""Holds what a bisection found, and the limits it is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lame_runtime.parity.gates import GRAPH_VS_PYTORCH, judge

ERROR_LIMITS = {
    # Sound graphs of the test model stay far below: 1e-6 in FP32, 0.0015 in FP16, 0.045 in INT8.
    "fp32": 1e-4,
    "fp16": 0.02,
    "int8": 0.25,
    "int8-cpu": 0.25,
    "w8-cpu": 0.25,
    "w4-cpu": 0.5,
}
"""Relative error of a value, by graph, above which the graph has left PyTorch."""


@dataclass(frozen=True)
class ModalityResult:
    """The comparison of one modality's inputs; the fields are the keys of `--json`."""

    modality: str
    inputs: int
    """How many golden inputs were run."""
    errors: dict[str, float]
    """Relative error by module, as in "encoder.blocks.3.down", in the order of the graph."""
    figure: dict[str, float]
    """Cosines and largest difference between the embeddings and PyTorch's."""
    passed: bool
    """Whether the embeddings meet the graph's gate."""
    first: str | None
    """The first module whose error exceeds the graph's limit; None if there is none."""
    jump: str
    """The module whose error is the largest multiple of all errors before it."""


@dataclass(frozen=True)
class BisectionResult:
    """The comparison of a graph with PyTorch; the fields are the keys of `--json`."""

    graph: str
    modalities: list[ModalityResult]
    islands: list[str] | None
    """Layers that bring the graph back when computed at higher precision (see `island_search`).

    Empty if the graph meets its gate anyway; None if no layers do, or none were tried.
    """
    on_device: bool = False
    """Whether TensorRT ran the graph; islands are not tried then."""

    def to_json(self) -> dict[str, Any]:
        """Returns the result as `--json` prints it."""
        return asdict(self)


def meets_gate(graph: str, figure: Mapping[str, float]) -> bool:
    """Returns whether embeddings with these figures meet the gate of a graph against PyTorch."""
    return judge("", graph, "", 0, GRAPH_VS_PYTORCH[graph], figure).passed is True
