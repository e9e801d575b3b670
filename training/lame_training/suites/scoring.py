"""A task's embeddings → its figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lame_training.metrics import mean_metrics, query_metrics, ranked_grades
from lame_training.suites.base import Task

Floats = npt.NDArray[np.float32]
QUERY_BLOCK = 64


@dataclass(frozen=True)
class Scored:
    """Figures of a task and of the sub-tasks that count in its place."""

    metrics: dict[str, float]
    parts: dict[str, dict[str, float]]
    """By counted name; equal to `metrics` under the task's own name where it has no sub-tasks."""
    chance: float
    """hit@1 of a random order."""


def score(task: Task, queries_QP: Floats, documents_NP: Floats) -> Scored:
    """Ranks every query's pool by cosine.

    Args:
        task: at least one query.
        queries_QP: float32, unit rows in the order of `task.queries`.
        documents_NP: float32, unit rows in the order of `task.documents`.
    """
    names = tuple(task.documents)
    figures: list[dict[str, float]] = []
    chances = []
    for query, scores_N in zip(task.queries, _scores(task, queries_QP, documents_NP), strict=True):
        grades_N = np.array([query.relevance.get(name, 0) for name in (names if query.pool is None else query.pool)])
        figures.append(query_metrics(ranked_grades(scores_N, grades_N), np.array(list(query.relevance.values()))))
        chances.append((grades_N > 0).mean())
    parts = {
        part: mean_metrics(chosen)
        for part in task.spec.counted
        if (chosen := [row for row, query in zip(figures, task.queries, strict=True) if not task.spec.parts or query.part == part])
    }
    return Scored(mean_metrics(figures), parts, float(np.mean(chances)))


def _scores(task: Task, queries_QP: Floats, documents_NP: Floats) -> Iterator[npt.NDArray[np.float64]]:
    """The cosines of each query's pool, in float64 since in float32 equal rows may get scores that differ."""
    if task.spec.pool == "global":
        documents_PN = documents_NP.T.astype(np.float64)
        for start in range(0, len(task.queries), QUERY_BLOCK):
            yield from queries_QP[start : start + QUERY_BLOCK].astype(np.float64) @ documents_PN
        return
    row_of = {name: row for row, name in enumerate(task.documents)}
    for query, query_P in zip(task.queries, queries_QP.astype(np.float64), strict=True):
        rows = [row_of[name] for name in query.pool or ()]
        yield documents_NP[rows].astype(np.float64) @ query_P
