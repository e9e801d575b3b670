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
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

Bounds = dict[str, tuple[str, float]]
"""Figure name → (">=" or "<=", bound)."""

GRAPH_VS_PYTORCH: dict[str, Bounds] = {
    "fp32": {"min_cosine": (">=", 0.99999), "max_abs": ("<=", 1e-4)},
    "fp16": {"min_cosine": (">=", 0.999), "mean_cosine": (">=", 0.9995)},
    "int8": {"mean_cosine": (">=", 0.99), "min_cosine": (">=", 0.97)},
    "int8-cpu": {"mean_cosine": (">=", 0.99), "min_cosine": (">=", 0.97)},
}
"""Per graph, its embeddings against PyTorch's in FP32."""
ALONE_VS_BATCH: dict[str, Bounds] = {
    "fp32": {"min_cosine": (">=", 0.9999)},
    "fp16": {"min_cosine": (">=", 0.9999)},
    "int8": {"min_cosine": (">=", 0.9999)},
    "int8-cpu": {"min_cosine": (">=", 0.998)},
}
"""Per graph, an input alone against the same input padded among others."""
CONTRACT: Bounds = {"mismatches": ("<=", 0)}
TRACED_VS_TRANSFORMERS: Bounds = {"max_abs": ("<=", 1e-5)}
FINITE: Bounds = {"non_finite": ("<=", 0)}
RETRIEVAL: Bounds = {"recall_drop": ("<=", 0.01), "top10_overlap": (">=", 0.9)}
"""INT8 on a trained model, per modality pair, over at least `RETRIEVAL_QUERIES` queries; reported otherwise."""
RETRIEVAL_QUERIES = 500
CHECKED: Bounds = {"problems": ("<=", 0)}


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

    def to_json(self) -> dict[str, Any]:
        """As `parity.json` holds it."""
        return asdict(self)

    def describe(self) -> str:
        """The row's figures beside their bounds, on one line."""
        parts = []
        for name, value in self.figure.items():
            sign, bound = (self.gate or {}).get(name, ("", 0.0))
            parts.append(f"{name} {value:.6g}" + (f" ({sign} {bound:g})" if sign else ""))
        return ", ".join(parts)


def judge(comparison: str, graph: str, modality: str, inputs: int, gate: Bounds | None, figure: dict[str, float]) -> Result:
    """A row; it passes where every bound holds. NaN and a missing figure hold no bound."""
    passed = None if gate is None else all(_holds(figure.get(name, math.nan), sign, bound) for name, (sign, bound) in gate.items())
    return Result(comparison, graph, modality, inputs, gate, figure, passed)


def _holds(value: float, sign: str, bound: float) -> bool:
    return value >= bound if sign == ">=" else value <= bound


def result_from_json(raw: dict[str, Any]) -> Result:
    """Reads a row of `parity.json`."""
    gate = None if raw["gate"] is None else {name: (str(sign), float(bound)) for name, (sign, bound) in raw["gate"].items()}
    return Result(raw["comparison"], raw["graph"], raw["modality"], raw["inputs"], gate, raw["figure"], raw["passed"])
