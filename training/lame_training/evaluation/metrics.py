"""Computes the retrieval metrics of one ranked list, under the names of MMEB's result files.

Definitions follow `src/utils/eval_utils/metrics.py` of VLM2Vec. nDCG has linear or exponential
gains, discounted by log2(rank + 1), and is divided by the best possible order of the query's own
grades. Precision@k divides by k even if the pool is smaller; map@k divides by min(k, relevant).
Linear nDCG is `ndcg_cut` of trec_eval, and tests compare the two.

Ties go against the relevant documents, see `ranking`. trec_eval breaks ties by document name, so on
tied scores these figures are never above its figures; without ties they are equal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from lame_runtime.contract.batch import Integers

from lame_training.evaluation.ranking import best_first

CUTOFFS = (1, 5, 10)
"""The values of k, in the order of MMEB's files."""
METRICS = ("hit", "ndcg_linear", "ndcg_exponential", "precision", "recall", "f1", "map", "mrr")
"""Metric names, in the order of MMEB's files."""
SCORE_DECIMALS = 9
"""Decimals that scores are rounded to before they are compared; see `ranking` for why."""


def ranked_grades(scores_N: npt.NDArray[np.float64], grades_N: Integers) -> Integers:
    """Returns the grades in the order of falling scores, the smaller grade first among ties.

    Args:
        scores_N: float64, cosine of each candidate.
        grades_N: int64, relevance of each candidate; 0 if it is wrong.

    Returns:
        int64 (N,).
    """
    return grades_N[best_first(np.round(scores_N, SCORE_DECIMALS), grades_N)]


def query_metrics(ranked_N: Integers, relevant_R: Integers) -> dict[str, float]:
    """Returns every metric at every cutoff for one query, such as `hit@1` and `ndcg_linear@5`.

    Args:
        ranked_N: int64, grades of the candidates, best score first.
        relevant_R: int64, the positive grades of all relevant documents of the query, at least one;
            more than `ranked_N` holds if the pool lacks some.

    Returns:
        Values in 0..1, in the order of MMEB's files.
    """
    # The order of names is the order of keys in the result files.
    return {
        f"{name}@{k}": _metric_at(name, k, ranked_N, relevant_R)
        for name in METRICS
        for k in CUTOFFS
    }


def mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric over queries; `rows` has at least one element."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _metric_at(name: str, k: int, ranked_N: Integers, relevant_R: Integers) -> float:
    top = ranked_N[:k]
    # Only nDCG looks at the size of grades; for all others any positive grade is a hit.
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
        # Precision at each hit: the i-th hit, counted from 1, over its rank.
        precisions = np.arange(1, len(hits) + 1) / (hits + 1)
        return float(precisions.sum() / min(k, len(relevant_R)))
    if name == "mrr":
        return 1 / (int(hits[0]) + 1) if len(hits) else 0.0
    exponential = name == "ndcg_exponential"
    # The ideal order is that of all relevant documents, so a pool that lacks some cannot reach 1.
    ideal = np.sort(relevant_R)[::-1][:k]
    return _gain(top, exponential=exponential) / _gain(ideal, exponential=exponential)


def _gain(grades: Integers, *, exponential: bool) -> float:
    """Returns the discounted cumulative gain of grades in ranked order."""
    # The first rank is 1, so its discount is log2(2) = 1.
    gains = np.exp2(grades) - 1 if exponential else grades
    return float((gains / np.log2(np.arange(2, len(grades) + 2))).sum())
