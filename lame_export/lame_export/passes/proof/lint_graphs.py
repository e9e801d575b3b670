"""Checks every ONNX file with `onnx.checker` and with the project's own rules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from lame_runtime.bundle.bundle import PARTS

from lame_export.lint import linter
from lame_export.parity.check_rows import check_rows
from lame_export.passes.base import Pass, graph_files
from lame_export.state import ExportState


class LintGraphs(Pass):
    """Adds one certificate row per graph and checker."""

    name = "lint"
    reads = ("reference",)
    writes = ("rows",)

    def input_files(self, state: ExportState) -> Iterable[Path]:
        """Returns the paths of every graph."""
        return graph_files(state, state.graphs)

    def run(self, state: ExportState) -> None:
        """Checks every graph; raises `ExportError` if a checker finds a problem."""
        contract = state.reference.preparer.contract
        for graph in state.graphs:
            findings: dict[str, list[str]] = {"onnx.checker": [], "lint": []}
            for part in PARTS:
                path = state.path(part, graph)
                findings["onnx.checker"] += _check_model(path)
                problems = linter.lint(path, part, graph, contract)
                findings["lint"] += [f"{path.name}: {problem}" for problem in problems]
            state.add(check_rows(graph, findings))


def _check_model(path: Path) -> list[str]:
    try:
        # by path, so that weights beside the file are found and models over 2 GB can be checked
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        # a row of the certificate is printed on one line
        return [f"{path.name}: {str(error).splitlines()[0]}"]
    return []
