"""A task's embeddings → its figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lame_training.metrics import mean_metrics, query_metrics, ranked_grades
from lame_training.suites.base import Task

QUERY_BLOCK = 64


@dataclass(frozen=True)
class Scored:
    """Figures of a task and of the sub-tasks that count in its place."""

    metrics: dict[str, float]
    parts: dict[str, dict[str, float]]
    """By counted name; equal to `metrics` under the task's own name where it has no sub-tasks."""
    chance: float
    """hit@1 of a random order."""


def score(task: Task, queries_QP: npt.NDArray[np.float32], documents_NP: npt.NDArray[np.float32]) -> Scored:
    """Ranks every query's pool by cosine.

    Args:
        task: at least one query.
        queries_QP: float32, unit rows in the order of `task.queries`.
        documents_NP: float32, unit rows in the order of `task.documents`.
    """
    row_of = {name: row for row, name in enumerate(task.documents)}
    right = documents_NP.astype(np.float64)  # in float32 equal rows may get scores that differ
    figures: list[dict[str, float]] = []
    chances = []
    for start in range(0, len(task.queries), QUERY_BLOCK):
        block = task.queries[start : start + QUERY_BLOCK]
        scores_BN = queries_QP[start : start + QUERY_BLOCK].astype(np.float64) @ right.T
        for query, scores_N in zip(block, scores_BN, strict=True):
            grades_N = np.zeros(len(right), dtype=np.int64)
            grades_N[[row_of[name] for name in query.relevance]] = list(query.relevance.values())
            if query.pool is not None:
                rows = [row_of[name] for name in query.pool]
                scores_N, grades_N = scores_N[rows], grades_N[rows]
            figures.append(query_metrics(ranked_grades(scores_N, grades_N), np.array(list(query.relevance.values()))))
            chances.append((grades_N > 0).mean())
    parts = {
        part: mean_metrics(chosen)
        for part in task.spec.counted
        if (chosen := [row for row, query in zip(figures, task.queries, strict=True) if not task.spec.parts or query.part == part])
    }
    return Scored(mean_metrics(figures), parts, float(np.mean(chances)))
