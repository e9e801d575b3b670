"""Turns the embeddings of a task into its figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from lame_runtime.contract.batch import Floats

from lame_training.evaluation.metrics import mean_metrics, query_metrics, ranked_grades
from lame_training.evaluation.suites.suite import Task

QUERY_BLOCK = 64
"""Queries scored against a global pool at a time; bounds the score matrix to 64 rows."""


@dataclass(frozen=True)
class TaskScores:
    """Figures of a task, and of the sub-tasks that count in its place."""

    metrics: dict[str, float]
    """Mean of each metric over all queries, see `metrics.query_metrics`."""
    parts: dict[str, dict[str, float]]
    """Metrics by counted name; a task without sub-tasks has `metrics` under its own name."""
    chance: float
    """hit@1 of a random order."""


def score(task: Task, queries_QP: Floats, documents_NP: Floats) -> TaskScores:
    """Ranks every query's pool by cosine.

    Args:
        task: a task with at least one query.
        queries_QP: float32, unit rows in the order of `task.queries`.
        documents_NP: float32, unit rows in the order of `task.documents`.
    """
    all_names = tuple(task.documents)
    rows: list[dict[str, float]] = []
    chances = []
    for query, scores_N in zip(task.queries, _scores(task, queries_QP, documents_NP), strict=True):
        names = all_names if query.pool is None else query.pool
        # A document without a judgment is taken to be irrelevant, as in trec_eval.
        grades_N = np.array([query.relevance.get(name, 0) for name in names])
        # All relevant documents count for recall and nDCG, even those that a pool does not hold.
        relevant_R = np.array(list(query.relevance.values()))
        rows.append(query_metrics(ranked_grades(scores_N, grades_N), relevant_R))
        chances.append((grades_N > 0).mean())
    return TaskScores(mean_metrics(rows), _part_metrics(task, rows), float(np.mean(chances)))


def _part_metrics(task: Task, rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Returns the mean metrics by counted name, without sub-tasks that have no query left."""
    if not task.spec.parts:
        return {task.spec.name: mean_metrics(rows)}
    # All queries lie in one pool; a sub-task is a subset of the queries, not of the documents.
    parts = {}
    for part in task.spec.parts:
        part_rows = [
            row for row, query in zip(rows, task.queries, strict=True) if query.part == part
        ]
        if part_rows:
            parts[part] = mean_metrics(part_rows)
    return parts


def _scores(
    task: Task, queries_QP: Floats, documents_NP: Floats
) -> Iterator[npt.NDArray[np.float64]]:
    """Yields the cosines of each query's pool, float64 (N,)."""
    # In float32 the products of equal rows may differ by more than `SCORE_DECIMALS` hides.
    if task.spec.pool_scope == "global":
        documents_PN = documents_NP.T.astype(np.float64)
        for start in range(0, len(task.queries), QUERY_BLOCK):
            # Blocks, because all queries against all pages would be gigabytes of float64.
            yield from queries_QP[start : start + QUERY_BLOCK].astype(np.float64) @ documents_PN
        return
    # Local pools are small and differ from query to query, so each has its own product.
    row_of = {name: row for row, name in enumerate(task.documents)}
    for query, query_P in zip(task.queries, queries_QP.astype(np.float64), strict=True):
        rows = [row_of[name] for name in query.pool or ()]
        yield documents_NP[rows].astype(np.float64) @ query_P
