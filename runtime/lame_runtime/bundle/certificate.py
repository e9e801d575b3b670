"""Defines the certificate of a bundle, `parity.json`: one row per comparison."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lame_runtime.bundle.manifest import COPY_AGAIN
from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError

Bounds = dict[str, tuple[str, float]]
"""A gate: figure name → (">=" or "<=", bound)."""


@dataclass(frozen=True)
class Result:
    """Represents one row of a certificate.

    A row without a gate only reports its figures; its `passed` is None.
    """

    comparison: str
    """Name of the comparison, such as "graph vs PyTorch"."""
    graph: str
    """The graph, or an empty string for rows that concern all graphs."""
    modality: str
    inputs: int
    """Number of inputs that the figures were measured on."""
    gate: Bounds | None
    figure: dict[str, float]
    """The figures by name, NaN if the graph did not run. `parity.gates` explains the names."""
    passed: bool | None
    reason: str = ""
    """Reason why the graph did not run; empty otherwise."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies the same comparison on the exporting machine and on a device.

        The exporting machine evaluates FP16 and INT8 on an emulation, a device on real kernels.
        The names of their comparisons differ only in the suffix ", emulated".
        """
        return self.comparison.removesuffix(", emulated"), self.graph, self.modality

    def to_json(self) -> dict[str, Any]:
        """Returns the row in the format of `parity.json`, which stores NaN as null."""
        figure = {
            name: value if math.isfinite(value) else None for name, value in self.figure.items()
        }
        return {**asdict(self), "figure": figure}

    def describe(self) -> str:
        """Returns the figures and their bounds on one line."""
        parts = []
        for name, value in self.figure.items():
            sign, bound = (self.gate or {}).get(name, ("", 0.0))
            # counts are integers and must not be shown in scientific notation
            number = f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
            parts.append(f"{name} {number}" + (f" ({sign} {bound:g})" if sign else ""))
        return ", ".join(parts) + (f"; {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Island:
    """Represents a tensor of a half-precision graph that is computed in FP32."""

    graph: str
    part: str
    node: str
    value: str
    amax: float
    """Largest absolute value during calibration."""


@dataclass(frozen=True)
class Int8Choice:
    """Records the configuration of each INT8 graph, and every configuration that was tried."""

    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Certificate:
    """Holds the contents of `parity.json`."""

    passed: bool
    """Whether every gated row passed."""
    rows: list[Result]
    environment: dict[str, str]
    """Versions, machine and date of the export."""
    fp16_islands: list[Island] = field(default_factory=list)
    int8: Int8Choice = field(default_factory=Int8Choice)
    golden_spread: dict[str, float] = field(default_factory=dict)
    """Mean and largest cosine between two golden embeddings."""
    hashes: dict[str, str] = field(default_factory=dict)
    """sha256 of the graphs and golden files that the rows were measured on."""

    def to_json(self) -> str:
        """Returns the text of `parity.json`."""
        # the rows' own `to_json`, because `asdict` keeps NaN, which JSON does not have
        body = {**asdict(self), "rows": [row.to_json() for row in self.rows]}
        return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_certificate(folder: Path) -> Certificate:
    """Reads `FOLDER/parity.json`.

    Raises:
        BundleError: the file is missing, not JSON, or lacks a field.
    """
    path = folder / "parity.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        for row in raw["rows"]:
            # null stands for NaN, the figure of a graph that did not run
            row["figure"] = {
                name: math.nan if value is None else value for name, value in row["figure"].items()
            }
    # a damaged file may hold any JSON value in any place
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); {COPY_AGAIN}") from None
    certificate: Certificate = from_json_object(
        Certificate, raw, str(path), remedy=COPY_AGAIN, defaults=True
    )
    return certificate
