"""Runs a notebook's cells in order, without Jupyter, and stores or compares what they show.

python tests/notebook.py examples/quickstart.ipynb     # runs the cells and stores their outputs
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any]:
    """Returns a notebook's JSON."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the cells that run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Runs the cells in one namespace and returns the outputs of each, in the notebook's format."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    return [
        _run_cell("".join(cell["source"]), number, namespace)
        for number, cell in enumerate(code_cells(notebook), 1)
    ]


def texts(outputs: list[dict[str, Any]]) -> list[str]:
    """Returns what a cell printed and the text of its result; pictures are left out."""
    parts = []
    for output in outputs:
        text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
        parts.append("".join(text))
    return parts


def store(path: Path) -> None:
    """Runs a notebook in its folder and writes it back with its outputs."""
    notebook = read(path)
    with contextlib.chdir(path.parent):
        outcomes = run(notebook)
    for number, (cell, outputs) in enumerate(zip(code_cells(notebook), outcomes, strict=True), 1):
        cell["execution_count"], cell["outputs"] = number, outputs
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _run_cell(source: str, number: int, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    if value is not None:
        outputs.append(_result(value, number))
    return outputs


def _result(value: Any, number: int) -> dict[str, Any]:
    """Returns the output of a cell's last expression, as a picture too if it is one."""
    data: dict[str, Any] = {}
    if hasattr(value, "_repr_png_"):
        data["image/png"] = base64.b64encode(value._repr_png_()).decode() + "\n"
        # the address in a picture's repr changes from run to run
        data["text/plain"] = [f"<{type(value).__name__} {value.width}×{value.height}>"]
    else:
        data["text/plain"] = repr(value).splitlines(keepends=True)
    return {
        "data": data,
        "execution_count": number,
        "metadata": {},
        "output_type": "execute_result",
    }


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    store(Path(sys.argv[1]))
