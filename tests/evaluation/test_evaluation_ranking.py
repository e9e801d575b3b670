"""Tests the small evaluation on rows, and the order of candidates that both evaluations share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lame_runtime.contract.batch import Floats
from lame_runtime.contract.prompts import Input
from lame_runtime.errors import InputError, StorageError, UsageError
from lame_training.evaluation.metrics import ranked_grades
from lame_training.evaluation.ranking import best_first
from lame_training.evaluation.retrieval import (
    RankedPool,
    TaskResult,
    embed_rows,
    evaluate,
    read_rows,
    tasks,
)
from lame_training.evaluation.select import find_suite


def ranked(scores: list[float]) -> TaskResult:
    """Evaluates one row whose candidates have the given scores; candidate 0 is the right one."""
    candidates = [Input(f"candidate {number}") for number in range(len(scores))]
    score_of = {item.text: score for item, score in zip(candidates, scores, strict=True)}

    def embed(items: list[Input], role: str) -> Floats:
        # Vectors of one value: the product with the query's 1 is the score itself.
        values = [1.0 if role == "query" else score_of[item.text] for item in items]
        return np.array(values, dtype=np.float32)[:, None]

    rows = {"task": [RankedPool(Input("query"), candidates)]}
    (result,) = evaluate(rows, embed_rows(embed, rows))
    return result


# Four different values, so that most pools have ties.
few_scores = st.lists(st.sampled_from([-0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=12)


@given(scores=few_scores)
def test_a_rank_counts_the_candidates_that_score_at_least_as_high(scores: list[float]) -> None:
    """Candidates of the right one's score rank before it."""
    result = ranked(scores)
    assert result.ranks == [sum(score >= scores[0] for score in scores[1:])]
    assert result.pool_sizes == [len(scores)]
    assert result.hit_at_1 == (result.ranks == [0])


@given(scores=few_scores)
def test_the_best_five_are_listed_in_the_order_of_their_scores(scores: list[float]) -> None:
    """Among equals the last candidate comes first, so the right one comes last."""
    expected = sorted(range(len(scores)), key=lambda index: (-scores[index], -index))
    assert ranked(scores).top == [expected[:5]]


def test_an_encoder_that_returns_one_vector_scores_nothing() -> None:
    """A pool of one is the exception: its only candidate always comes first."""
    # `check_task` refuses suites in which every pool is like this; here the rows are our own.
    assert ranked([0.5] * 4).ranks == [3]
    assert ranked([0.5]).ranks == [0]


def test_scores_that_float32_tells_apart_are_no_ties() -> None:
    """The small evaluation compares scores as they are; the suites round them first."""
    # Neighbors in float32 that differ by less than the suites' nine decimals.
    low = np.float32(0.001)
    high = np.nextafter(low, np.float32(1))
    assert ranked([float(high), float(low)]).ranks == [0]
    scores_N = np.array([high, low], dtype=np.float64)
    assert ranked_grades(scores_N, np.array([1, 0])).tolist() == [0, 1]


@settings(deadline=None)
@given(
    scores_N=arrays.arrays(np.float32, 8, elements=st.integers(0, 3).map(float)),
    relevance_N=arrays.arrays(np.int64, 8, elements=st.integers(0, 2)),
)
def test_the_less_relevant_of_equal_candidates_comes_first(
    scores_N: Floats, relevance_N: np.ndarray
) -> None:
    """The order is by falling score, then by rising relevance, then by position."""
    expected = sorted(range(8), key=lambda index: (-scores_N[index], relevance_N[index], index))
    assert best_first(scores_N, relevance_N).tolist() == expected


def test_a_folder_without_tasks_is_a_storage_error(tmp_path: Path) -> None:
    """Missing files are no fault of the rows, and the message says what is expected."""
    with pytest.raises(StorageError, match=r"holds no TASK\.jsonl; give the root"):
        tasks(tmp_path)
    with pytest.raises(StorageError, match=r"t\.jsonl: cannot be read"):
        read_rows(tmp_path, "t")


def test_a_file_that_is_not_text_is_an_input_error(tmp_path: Path) -> None:
    """The file can be read, but holds no rows."""
    (tmp_path / "eval").mkdir()
    # The bytes that UTF-16 files begin with, as some editors write them.
    (tmp_path / "eval/t.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"t\.jsonl: is not UTF-8"):
        read_rows(tmp_path, "t")


def test_an_unknown_suite_or_convention_is_refused(tmp_path: Path) -> None:
    """The message lists the names that exist."""
    with pytest.raises(UsageError, match="`suite` is 'mmeb': use one of digits, mmeb-v2, mrmr"):
        find_suite("mmeb", tmp_path)
    with pytest.raises(UsageError, match="`convention` is 'fixed': use one of page-fixed"):
        find_suite("mmeb-v2", tmp_path, visdoc="fixed")
