"""Checks graphs on an emulated CPU: golden vectors, and vectors against those of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lame_runtime.bundle.certificate import Result
from lame_runtime.parity import gates
from lame_runtime.parity.compare import similarity
from lame_runtime.parity.gates import judge

from aarch64.emulator import Ended
from aarch64.installed import Installed

TEXT = "digits that add up to fifteen"


EMBED = "embed"
"""Name of the check of vectors against this machine's, among the names of graphs."""


@dataclass(frozen=True)
class Check:
    """Verdict on one graph, or on `EMBED`, with one ONNX Runtime on one CPU."""

    version: str
    cpu: str
    bundle: str
    graph: str
    rows: int
    """Rows of the certificate that were measured again, or vectors that were compared."""
    min_cosine: float
    """Smallest cosine to PyTorch's vectors, or to this machine's; NaN if nothing ran."""
    faults: tuple[str, ...]
    """Descriptions of all that went wrong."""


def graphs_of(bundle: Path) -> list[str]:
    """Returns the graphs that a bundle holds."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return list(manifest["graphs"])


class Checker:
    """Checks graphs of bundles, and keeps this machine's vectors to compare with."""

    def __init__(self, installed: Installed, inputs: list[Path]) -> None:
        self._installed = installed
        self._inputs = inputs
        self._native: dict[Path, np.ndarray] = {}

    def check(self, version: str, bundle: Path, graphs: list[str]) -> list[Check]:
        """Runs `lame-runtime verify` on graphs of a bundle under QEMU.

        All graphs share a process, because starting one takes QEMU as long as a graph. If it dies,
        each graph gets a process of its own, so that the right one is blamed.
        """
        words = [word for graph in graphs for word in ("--graph", graph)]
        ended = self._run(version, "verify", str(bundle), *words, "--json")
        # exit code 1 means that a row failed, and the report says which
        if ended.code in (0, 1) and ended.stdout.startswith("{"):
            report = json.loads(ended.stdout)
            return [self._judged(version, bundle, graph, report) for graph in graphs]
        if len(graphs) > 1:
            return [check for graph in graphs for check in self.check(version, bundle, [graph])]
        return [self._verdict(version, bundle, graphs[0], faults=[f"verify: {ended.reason}"])]

    def compare(self, version: str, bundle: Path) -> Check:
        """Runs `lame-runtime embed` on all inputs with the default graph, here and under QEMU."""
        output = self._installed.folder / "vectors.npy"
        output.unlink(missing_ok=True)
        words = self._embed(bundle, output)
        ended = self._run(version, *words)
        if ended.code:
            return self._verdict(version, bundle, EMBED, faults=[f"embed: {ended.reason}"])
        vectors = np.load(output)
        if bundle not in self._native:
            output.unlink()
            subprocess.run(
                [sys.executable, "-m", "lame_runtime", *words], capture_output=True, check=True
            )
            self._native[bundle] = np.load(output)
        figure = similarity(vectors, self._native[bundle])
        gate = gates.bounds(gates.GRAPH_VS_PYTORCH, "fp32")
        row = judge("aarch64 vs this machine", "", "mixed", len(vectors), gate, figure)
        faults = [] if row.passed else [f"against this machine: {row.describe()}"]
        return self._verdict(version, bundle, EMBED, len(vectors), row.figure["min_cosine"], faults)

    def _judged(self, version: str, bundle: Path, graph: str, report: dict[str, Any]) -> Check:
        """Returns the verdict of a report's rows on one graph, and on preprocessing."""
        where = f"{report['backend']}, {report['machine']}"
        # rows on preprocessing have no graph
        rows = [_result(row) for row in report["rows"] if row["graph"] in ("", graph)]
        faults = [
            f"{row.comparison}, {row.modality}: {row.describe()}"
            for row in rows
            if row.passed is False
        ]
        if where != f"onnxruntime {version} CPU, Linux aarch64":
            faults.append(f"verify ran on {where}")
        cosines = [
            row.figure["min_cosine"]
            for row in rows
            if row.comparison.startswith("graph vs PyTorch")
        ]
        least = min(cosines, default=float("nan"))
        return self._verdict(version, bundle, graph, len(rows), least, faults)

    def _verdict(
        self,
        version: str,
        bundle: Path,
        graph: str,
        rows: int = 0,
        min_cosine: float = float("nan"),
        faults: Sequence[str] = (),
    ) -> Check:
        cpu = self._installed.emulator.cpu
        return Check(version, cpu, bundle.name, graph, rows, min_cosine, tuple(faults))

    def _embed(self, bundle: Path, output: Path) -> list[str]:
        inputs = [*map(str, self._inputs), "--text", TEXT]
        return ["embed", str(bundle), *inputs, "--output", str(output)]

    def _run(self, version: str, *words: str) -> Ended:
        folder = self._installed.onnxruntime(version)
        python = self._installed.python
        return self._installed.emulator.run(python, "-m", "lame_runtime", *words, path=folder)


def _result(row: dict[str, Any]) -> Result:
    """Returns a row of the report of `lame-runtime verify --json`."""
    # JSON has no NaN
    figure = {key: float("nan") if value is None else value for key, value in row["figure"].items()}
    return Result(**{**row, "figure": figure})
