"""Retrieval metrics of one ranked list, under the names MMEB's result files give them.

Definitions follow VLM2Vec's `src/utils/eval_utils/metrics.py`: nDCG has linear or exponential gains over log2(rank + 1)
and the best possible order of the query's own grades below the line; precision@k divides by k even where the pool
is smaller; map@k divides by min(k, relevant). Linear nDCG is trec_eval's `ndcg_cut`, and tests hold it against it.

Ties go against the right documents: among equal scores the smaller grade comes first, so that an encoder that says
the same about everything scores nothing. trec_eval breaks ties by name instead, so on tied scores our figures are
never above its; without ties they are equal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CUTOFFS = (1, 5, 10)
METRICS = ("hit", "ndcg_linear", "ndcg_exponential", "precision", "recall", "f1", "map", "mrr")
SCORE_DECIMALS = 9
"""Scores closer than this are ties: a matrix product may round equal rows differently."""

Grades = npt.NDArray[np.int64]


def ranked_grades(scores_N: npt.NDArray[np.float64], grades_N: Grades) -> Grades:
    """Grades in the order of falling scores, ties with the smaller grade first.

    Args:
        scores_N: float64, cosine of each candidate.
        grades_N: int64, relevance of each candidate; 0 where it is wrong.

    Returns:
        int64 (N,).
    """
    return grades_N[np.lexsort((grades_N, -np.round(scores_N, SCORE_DECIMALS)))]


def query_metrics(ranked_N: Grades, relevant_R: Grades) -> dict[str, float]:
    """Every metric at every cutoff for one query, such as `hit@1` and `ndcg_linear@5`.

    Args:
        ranked_N: grades of the candidates, best score first.
        relevant_R: the positive grades of all the query's right documents, at least one.

    Returns:
        Values in 0..1 in the order of MMEB's files.
    """
    found = {name: {k: _at(name, k, ranked_N, relevant_R) for k in CUTOFFS} for name in METRICS}
    return {f"{name}@{k}": found[name][k] for name in METRICS for k in CUTOFFS}


def mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over queries; at least one row."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _at(name: str, k: int, ranked_N: Grades, relevant_R: Grades) -> float:
    top = ranked_N[:k]
    hits = np.flatnonzero(top > 0)
    precision, recall = len(hits) / k, len(hits) / len(relevant_R)
    if name == "hit":
        return float(len(hits) > 0)
    if name == "precision":
        return precision
    if name == "recall":
        return recall
    if name == "f1":
        return 2 * precision * recall / (precision + recall) if len(hits) else 0.0
    if name == "map":
        return float((np.arange(1, len(hits) + 1) / (hits + 1)).sum() / min(k, len(relevant_R)))
    if name == "mrr":
        return 1 / (int(hits[0]) + 1) if len(hits) else 0.0
    best = np.sort(relevant_R)[::-1][:k]
    return _gain(top, exponential=name == "ndcg_exponential") / _gain(best, exponential=name == "ndcg_exponential")


def _gain(grades: Grades, *, exponential: bool) -> float:
    """Discounted cumulative gain."""
    gains = np.exp2(grades) - 1 if exponential else grades
    return float((gains / np.log2(np.arange(2, len(grades) + 2))).sum())
