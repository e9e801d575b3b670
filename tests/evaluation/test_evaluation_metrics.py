"""Compares our metrics with those of pytrec_eval and mteb, and with sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from lame_training.evaluation.metrics import (
    CUTOFFS,
    METRICS,
    mean_metrics,
    query_metrics,
    ranked_grades,
)

# One candidate at least is relevant: without any, nDCG would divide by zero.
runs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=30).filter(
    lambda run: any(grade for grade, _ in run)
)
"""Grades and scores of a query's candidates."""


def ours(grades: list[int], scores: list[float]) -> dict[str, float]:
    graded = np.array(grades)
    return query_metrics(
        ranked_grades(np.array(scores, dtype=np.float64), graded), graded[graded > 0]
    )


def trec(grades: list[int], scores: list[float]) -> dict[str, float]:
    measures = {f"{name}.1,5,10" for name in ("ndcg_cut", "P", "recall", "success")} | {
        "recip_rank"
    }
    # With leading zeros, so that names are in the order of positions for trec_eval's tie rule.
    names = [f"d{number:03}" for number in range(len(grades))]
    evaluator = pytrec_eval.RelevanceEvaluator(
        {"q": dict(zip(names, grades, strict=True))}, measures
    )
    run = {"q": dict(zip(names, scores, strict=True))}
    figures: dict[str, float] = evaluator.evaluate(run)["q"]
    return figures


@settings(max_examples=200, deadline=None)
@given(run=runs, seed=st.integers(0, 1000))
def test_without_ties_every_figure_is_that_of_trec_eval(
    run: list[tuple[int, int]], seed: int
) -> None:
    """Linear nDCG, precision, recall, hit and reciprocal rank agree on graded relevance."""
    # The scores of `run` may be tied; a permutation never is.
    grades = [grade for grade, _ in run]
    scores = [float(score) for score in np.random.default_rng(seed).permutation(len(run))]
    mine, theirs = ours(grades, scores), trec(grades, scores)
    for k in CUTOFFS:
        for name, measure in (
            ("ndcg_linear", "ndcg_cut"),
            ("precision", "P"),
            ("recall", "recall"),
            ("hit", "success"),
        ):
            assert mine[f"{name}@{k}"] == pytest.approx(theirs[f"{measure}_{k}"], abs=1e-6), (
                name,
                k,
            )
    # trec_eval has no cutoff for the reciprocal rank; ours ends at 10.
    if theirs["recip_rank"] >= 0.1:
        assert mine["mrr@10"] == pytest.approx(theirs["recip_rank"])


@settings(max_examples=100, deadline=None)
@given(run=runs)
def test_on_ties_no_figure_is_above_that_of_trec_eval(run: list[tuple[int, int]]) -> None:
    """trec_eval breaks ties by name, which is sometimes in favor of a relevant document."""
    # Division by 8 leaves six different scores, so most runs have ties.
    grades, scores = [grade for grade, _ in run], [float(score // 8) for _, score in run]
    mine, theirs = ours(grades, scores), trec(grades, scores)
    for k in CUTOFFS:
        assert mine[f"ndcg_linear@{k}"] <= theirs[f"ndcg_cut_{k}"] + 1e-6
        assert mine[f"hit@{k}"] <= theirs[f"success_{k}"]


@pytest.mark.filterwarnings("ignore")
def test_hit_and_ndcg_are_those_of_mteb() -> None:
    """On forty queries the figures are those of mteb, up to its rounding."""
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    rng = np.random.default_rng(0)
    qrels, results, mine = {}, {}, []
    for query in range(40):
        grades, scores = rng.integers(0, 3, 20), rng.standard_normal(20)
        # nDCG is undefined for a query without a relevant document.
        grades[0] = 1
        qrels[f"q{query}"] = {
            f"d{number}": int(grade) for number, grade in enumerate(grades) if grade
        }
        results[f"q{query}"] = {f"d{number}": float(score) for number, score in enumerate(scores)}
        mine.append(ours(grades.tolist(), scores.tolist()))
    theirs = calculate_retrieval_scores(results, qrels, [1, 5, 10])
    means = mean_metrics(mine)
    for k in (5, 10):
        assert means[f"ndcg_linear@{k}"] == pytest.approx(theirs.ndcg[f"NDCG@{k}"], abs=1e-5)
    assert means["precision@1"] == pytest.approx(theirs.precision["P@1"], abs=1e-5)
    assert means["hit@1"] == means["precision@1"]


def test_a_constant_encoder_scores_nothing() -> None:
    """Every figure is 0 if there are at least as many wrong candidates as ranks."""
    assert all(value == 0 for value in ours([1, 2] + [0] * 10, [0.5] * 12).values())
    # The control: a difference above the ninth decimal is no tie.
    assert ours([1, 0, 0], [0.5 + 1e-7, 0.5, 0.5])["hit@1"] == 1


def test_figures_by_hand() -> None:
    """The order is wrong, grade 2, wrong, grade 1, wrong; another of grade 2 is not in the pool."""
    metrics = query_metrics(np.array([0, 2, 0, 1, 0]), np.array([1, 2, 2]))
    # The best order of the query's own grades is 2, 2, 1.
    ideal = 2 + 2 / np.log2(3) + 1 / 2
    assert metrics["ndcg_linear@5"] == pytest.approx((2 / np.log2(3) + 1 / np.log2(5)) / ideal)
    assert metrics["ndcg_exponential@5"] == pytest.approx(
        (3 / np.log2(3) + 1 / np.log2(5)) / (3 + 3 / np.log2(3) + 1 / 2)
    )
    assert (metrics["hit@1"], metrics["hit@5"], metrics["mrr@5"]) == (0, 1, 0.5)
    assert (metrics["precision@5"], metrics["recall@5"]) == (
        pytest.approx(0.4),
        pytest.approx(2 / 3),
    )
    assert metrics["f1@5"] == pytest.approx(0.5)
    assert metrics["map@5"] == pytest.approx((1 / 2 + 2 / 4) / 3)


def test_the_names_and_their_order_are_those_of_the_leaderboard() -> None:
    """There are 24 names, from hit@1 to mrr@10."""
    # Scripts that read MMEB's files by position would break if the order changed.
    names = list(query_metrics(np.array([1]), np.array([1])))
    assert len(names) == len(METRICS) * len(CUTOFFS) == 24
    assert names[:4] == ["hit@1", "hit@5", "hit@10", "ndcg_linear@1"]
    assert names[-1] == "mrr@10"
