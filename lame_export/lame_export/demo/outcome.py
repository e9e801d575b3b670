"""Holds the results that the demo's table and page show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lame_runtime.bundle.certificate import Result
from lame_training.evaluation.retrieval import TaskResult

from lame_export.demo.torch_free_search import SearchReport


@dataclass(frozen=True)
class DemoOutcome:
    """Holds everything that the demo measured."""

    folder: Path
    pytorch: list[TaskResult]
    """Retrieval with the PyTorch checkpoint, for comparison."""
    pytorch_ms: float
    """Milliseconds per input with the PyTorch checkpoint."""
    reports: dict[str, SearchReport]
    """Retrieval with each graph of the bundle."""
    rows: list[Result]
    """Rows of the certificate."""
    sizes: dict[str, int]
    """Bytes of each graph."""


def cosines(rows: list[Result], graph: str) -> tuple[float, float]:
    """Returns the mean and the smallest cosine between a graph and PyTorch over golden inputs."""
    # by prefix: the rows of emulated graphs end in ", emulated"
    compared = [
        row for row in rows if row.graph == graph and row.comparison.startswith("graph vs PyTorch")
    ]
    total = sum(row.inputs for row in compared)
    # weighted by number of inputs, because two of the modalities have only one
    mean = sum(row.inputs * row.figure["mean_cosine"] for row in compared) / total
    return mean, min(row.figure["min_cosine"] for row in compared)
