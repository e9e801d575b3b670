"""Orders candidates by score, with ties broken against the relevant candidates.

Both evaluations of this package rank with `best_first`, so that an encoder that returns one vector
for every input scores nothing. (Breaking ties by position would give it hit@1 = 1, because the
right candidate comes first in MMEB's rows.) They differ in what counts as a tie:

- `retrieval.evaluate` compares scores exactly as they are, float32 products of one pool at a time.
  Each pool has one right candidate, and it comes last among candidates of the same score.
- `metrics.ranked_grades` rounds scores, float64, to `metrics.SCORE_DECIMALS` first, since the
  product of two large matrices may give equal rows scores that differ in their last bits. Relevance
  is graded, and the smaller grade comes first among equal scores.

The rounding is not shared: float32 numbers below 1/64 lie closer together than 1e-9, so it would
turn different scores into ties and could change hit@1 figures that are already on record.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lame_runtime.contract.batch import Integers


def best_first(scores_N: npt.NDArray[np.floating[Any]], relevance_N: Integers) -> Integers:
    """Returns the order of candidates by falling score, the less relevant one first among equals.

    Args:
        scores_N: float32 or float64, finite.
        relevance_N: int64; larger is more relevant. Only the order of the values matters.

    Returns:
        int64 (N,): indices into the candidates, best first. Candidates that are equal in score and
        relevance keep their order.
    """
    # `lexsort` takes the last key as the primary one, and is stable. Two keys rather than one score
    # with a small penalty: a penalty would also reorder scores that differ by less than it.
    return np.lexsort((relevance_N, -scores_N))
