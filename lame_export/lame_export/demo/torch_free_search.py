"""Embeds with `lame-runtime embed` in processes that cannot import PyTorch, and ranks here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lame_runtime.bundle.golden import as_json
from lame_runtime.contract.batch import Floats
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import ExportError
from lame_training.evaluation.retrieval import TaskResult, embed_rows, evaluate, read_rows, tasks

FORBIDDEN = ("torch", "transformers", "onnx", "lame_training", "lame_export")
"""Packages that embedding must not need."""
# None in `sys.modules` makes every import of that name fail, so a process that succeeds proves that
# it does not need these packages. Inspecting `sys.modules` afterward would cover only this run.
_EMBED = (
    f"import sys; sys.modules.update(dict.fromkeys({FORBIDDEN!r})); "
    "from lame_runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


@dataclass(frozen=True)
class SearchReport:
    """Holds the retrieval results of one graph."""

    ms_per_input: float
    tasks: dict[str, TaskResult]


def search(bundle: Path, data: Path, graph: str) -> SearchReport:
    """Embeds the evaluation rows of a data set with one graph, and ranks every query's candidates.

    Args:
        bundle: the bundle.
        data: the root of an MMEB-style data set.
        graph: graph of the bundle.

    Raises:
        ExportError: a process failed; the message quotes its stderr.
    """
    rows = {task: read_rows(data, task) for task in tasks(data)}
    # one entry per process; loading is not included
    seconds: list[float] = []

    def embed(inputs: list[Input], role: str) -> Floats:
        vectors, spent = _embed(bundle, graph, inputs, role)
        seconds.append(spent)
        return vectors

    vectors = embed_rows(embed, rows)
    results = {result.task: result for result in evaluate(rows, vectors)}
    return SearchReport(1000 * sum(seconds) / len(vectors), results)


def _embed(bundle: Path, graph: str, inputs: list[Input], role: str) -> tuple[Floats, float]:
    """Returns the vectors of some inputs, and the seconds of embedding without loading."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "inputs.jsonl", Path(folder) / "vectors.npy"
        # absolute paths, because relative ones start from the folder of the JSONL file
        lines = [json.dumps(as_json(item, os.path.abspath)) for item in inputs]
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        arguments = ["embed", str(bundle), str(source), "--graph", graph, "--role", role]
        arguments += ["--output", str(output), "--json"]
        process = subprocess.run(
            [sys.executable, "-c", _EMBED, *arguments], capture_output=True, text=True, check=False
        )
        if process.returncode:
            raise ExportError(f"searching with graph {graph} failed: {process.stderr.strip()}")
        return np.load(output), float(json.loads(process.stdout)["seconds"])
