"""Defines the certificate of a bundle, `parity.json`: one row per comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from lame_runtime.bundle.manifest import FileName
from lame_runtime.bundle.members import COPY_AGAIN, read_member
from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError, printable, shown
from lame_runtime.files.constraints import Count, Figure, Length, Line, Name, Sha256, Text
from lame_runtime.files.json_file import parse_json

MAX_CERTIFICATE_BYTES = 64 << 20
"""Largest `parity.json` that is read; a bundle with six graphs has about 100 kB."""

Sign = Annotated[str, Text(2, pattern="[<>]=")]
Bounds = Annotated[dict[Name, tuple[Sign, Figure]], Length(100, 1)]
"""A gate: figure name → (">=" or "<=", bound). Without a bound it would always be met."""
Figures = Annotated[dict[Name, Figure], Length(100)]


@dataclass(frozen=True)
class Result:
    """Represents one row of a certificate.

    A row without a gate only reports its figures; its `passed` is None.
    """

    comparison: Line
    """Name of the comparison, such as "graph vs PyTorch"."""
    graph: Annotated[str, Text(50, printable=True)]
    """The graph, or an empty string for rows that concern all graphs."""
    modality: Name
    inputs: Count
    """Number of inputs that the figures were measured on."""
    gate: Bounds | None
    figure: Figures
    """The figures by name, NaN if the graph did not run. `parity.gates` explains the names."""
    passed: bool | None
    reason: Annotated[str, Text(100_000)] = ""
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
        return ", ".join(parts) + (f"; {printable(self.reason)}" if self.reason else "")


@dataclass(frozen=True)
class Island:
    """Represents a tensor of a half-precision graph that is computed in FP32."""

    graph: Name
    part: Name
    node: Line
    value: Line
    amax: Figure
    """Largest absolute value during calibration."""


@dataclass(frozen=True)
class Int8Choice:
    """Records the configuration of each INT8 graph, and every configuration that was tried."""

    chosen: dict[Name, dict[Name, Any]] = field(default_factory=dict)
    tried: Annotated[list[dict[Name, Any]], Length(10_000)] = field(default_factory=list)


@dataclass(frozen=True)
class PassCost:
    """Records what one pass of the export took."""

    name: Name
    seconds: Figure
    peak_memory: Count | None
    """Most bytes that were resident at once, mapped files included; None if the system does not
    tell."""

    def describe(self) -> str:
        """Returns the figures in words, such as "12 s, peak memory 3.4 GB"."""
        memory = (
            "" if self.peak_memory is None else f", peak memory {self.peak_memory / 1e9:.1f} GB"
        )
        return f"{self.seconds:.0f} s{memory}"


@dataclass(frozen=True)
class Certificate:
    """Holds the contents of `parity.json`."""

    passed: bool
    """Whether every gated row passed."""
    rows: Annotated[list[Result], Length(100_000, 1)]
    environment: Annotated[dict[Name, Line], Length(1000)]
    """Versions, machine and date of the export, and whether its data was built-in or given."""
    fp16_islands: Annotated[list[Island], Length(1_000_000)] = field(default_factory=list)
    int8: Int8Choice = field(default_factory=Int8Choice)
    golden_spread: Figures = field(default_factory=dict)
    """Mean and largest cosine between two golden embeddings."""
    hashes: Annotated[dict[FileName, Sha256], Length(100_000)] = field(default_factory=dict)
    """sha256 of the graphs and golden files that the rows were measured on."""
    passes: Annotated[list[PassCost], Length(1000)] = field(default_factory=list)
    """Time and memory of the passes, in their order; of the last one, which writes this, none."""

    def to_json(self) -> str:
        """Returns the text of `parity.json`."""
        # the rows' own `to_json`, because `asdict` keeps NaN, which JSON does not have
        body = {**asdict(self), "rows": [row.to_json() for row in self.rows]}
        return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def holds(figure: Mapping[str, float], gate: Bounds) -> bool:
    """Returns whether figures are within their bounds; one that is NaN or missing is not."""
    for name, (sign, bound) in gate.items():
        value = figure.get(name, math.nan)
        # comparisons with NaN are false, so a figure that could not be measured never passes
        if not (value >= bound if sign == ">=" else value <= bound):
            return False
    return True


def read_certificate(folder: Path) -> Certificate:
    """Reads `FOLDER/parity.json`.

    Raises:
        BundleError: the file is missing, not JSON, or lacks a field, a figure is not a number, a
            gate is empty, a row occurs twice, or it claims to have passed with figures that do not.
    """
    path = folder / "parity.json"
    try:
        raw = parse_json(read_member(folder, "parity.json", MAX_CERTIFICATE_BYTES), strict=True)
        # null stands for NaN, the figure of a graph that did not run
        figures = [row["figure"] for row in raw["rows"]]
        for row, figure in zip(raw["rows"], figures, strict=True):
            if any(_is_nan(value) for value in figure.values()):
                raise ValueError("a figure is NaN, which JSON does not have")
            row["figure"] = {
                name: math.nan if value is None else value for name, value in figure.items()
            }
    # a damaged file may hold any JSON value in any place
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{shown(path)}: cannot be read ({error}); {COPY_AGAIN}") from None
    certificate: Certificate = from_json_object(
        Certificate, raw, str(path), remedy=COPY_AGAIN, defaults=True
    )
    for problem in _contradictions(certificate):
        raise BundleError(f"{shown(path)}: {problem}; {COPY_AGAIN}")
    return certificate


def _contradictions(certificate: Certificate) -> Iterator[str]:
    """Yields why a certificate cannot be the outcome of its own figures."""
    numbers: dict[tuple[str, str, str], int] = {}
    for number, row in enumerate(certificate.rows):
        # a row that stands there twice would count twice
        first = numbers.setdefault((row.comparison, row.graph, row.modality), number)
        if first != number:
            yield f"rows[{number}] repeats the comparison of rows[{first}]"
        passed = None if row.gate is None else holds(row.figure, row.gate)
        if row.passed is not passed:
            yield f"rows[{number}].passed is {row.passed}, by its figures it is {passed}"
    passed = all(row.passed is not False for row in certificate.rows)
    if certificate.passed is not passed:
        yield f"passed is {certificate.passed}, by its rows it is {passed}"


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
