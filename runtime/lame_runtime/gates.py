"""The gates of parity: one table, used when a bundle is written and again on the device that runs it.

A gate is a set of bounds on named figures. Figures:
    min_cosine, mean_cosine   between two embeddings of the same input
    max_abs                   largest difference between components of two unit vectors
    mismatches                inputs on which something that must be equal is not
    non_finite                values that are NaN or infinite
    recall_drop               hit@1 of PyTorch minus hit@1 of the graph
    top10_overlap             mean share of the ten nearest documents, of all pools together, that both find
    distinct_queries          queries that differ, over which top10_overlap is the mean
    problems                  findings of a checker
    built                     files of a graph (vision, encoder) of which a TensorRT plan was built
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Bounds = dict[str, tuple[str, float]]
"""Figure name → (">=" or "<=", bound)."""

GRAPH_VS_PYTORCH: dict[str, Bounds] = {
    "fp32": {"min_cosine": (">=", 0.99999), "max_abs": ("<=", 1e-4)},
    "fp16": {"min_cosine": (">=", 0.999), "mean_cosine": (">=", 0.9995)},
    "int8": {"mean_cosine": (">=", 0.99), "min_cosine": (">=", 0.97)},
    "int8-cpu": {"mean_cosine": (">=", 0.99), "min_cosine": (">=", 0.97)},
    "w8-cpu": {"mean_cosine": (">=", 0.998), "min_cosine": (">=", 0.995)},
    "w4-cpu": {"mean_cosine": (">=", 0.95), "min_cosine": (">=", 0.9)},
}
"""Per graph, its embeddings against PyTorch's in FP32."""
ALONE_VS_BATCH: dict[str, Bounds] = {
    "fp32": {"min_cosine": (">=", 0.9999)},
    "fp16": {"min_cosine": (">=", 0.9999)},
    "int8": {"min_cosine": (">=", 0.9999)},
    "int8-cpu": {"min_cosine": (">=", 0.9999)},
    "w8-cpu": {"min_cosine": (">=", 0.9999)},
    "w4-cpu": {"min_cosine": (">=", 0.9999)},
}
"""Per graph, an input alone against the same input padded among others."""
GOLDEN_VS_PYTORCH: Bounds = {"max_abs": ("<=", 1e-5)}
"""The embeddings that ship with a bundle against the checkpoint they were made from."""
CONTRACT: Bounds = {"mismatches": ("<=", 0)}
TRACED_VS_TRANSFORMERS: Bounds = {"max_abs": ("<=", 1e-5)}
FINITE: Bounds = {"non_finite": ("<=", 0)}
RETRIEVAL: Bounds = {"recall_drop": ("<=", 0.01), "top10_overlap": (">=", 0.9)}
"""INT8 on a trained model, per modality pair, over at least `RETRIEVAL_QUERIES` queries; reported otherwise."""
RETRIEVAL_QUERIES = 500
CHECKED: Bounds = {"problems": ("<=", 0)}
"""onnx.checker and our lint, over every graph."""
BUILT: Bounds = {"built": (">=", 2)}


@dataclass(frozen=True)
class Result:
    """One row of a certificate. A row without a gate reports a figure and decides nothing (`passed` is None)."""

    comparison: str
    graph: str
    modality: str
    inputs: int
    gate: Bounds | None
    figure: dict[str, float]
    passed: bool | None
    reason: str = ""
    """Why there is no better figure, where something refused to run."""

    def to_json(self) -> dict[str, Any]:
        """As `parity.json` holds it; JSON has no NaN, so a figure that is not finite is null."""
        figure = {name: value if math.isfinite(value) else None for name, value in self.figure.items()}
        return {**asdict(self), "figure": figure}

    def describe(self) -> str:
        """The row's figures beside their bounds, on one line."""
        parts = []
        for name, value in self.figure.items():
            sign, bound = (self.gate or {}).get(name, ("", 0.0))
            shown = f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
            parts.append(f"{name} {shown}" + (f" ({sign} {bound:g})" if sign else ""))
        return ", ".join(parts) + (f"; {self.reason}" if self.reason else "")


def judge(
    comparison: str, graph: str, modality: str, inputs: int, gate: Bounds | None, figure: Mapping[str, float], reason: str = ""
) -> Result:
    """A row; it passes where every bound holds. NaN and a missing figure hold no bound."""
    passed = None if gate is None else all(_holds(figure.get(name, math.nan), sign, bound) for name, (sign, bound) in gate.items())
    return Result(comparison, graph, modality, inputs, gate, dict(figure), passed, reason)


def _holds(value: float, sign: str, bound: float) -> bool:
    return value >= bound if sign == ">=" else value <= bound


def result_from_json(raw: dict[str, Any]) -> Result:
    """Reads a row of `parity.json`."""
    figure = {name: math.nan if value is None else value for name, value in raw["figure"].items()}
    gate = None if raw["gate"] is None else {name: (str(sign), float(bound)) for name, (sign, bound) in raw["gate"].items()}
    return Result(raw["comparison"], raw["graph"], raw["modality"], raw["inputs"], gate, figure, raw["passed"], raw.get("reason", ""))
