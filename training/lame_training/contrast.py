"""The contrastive problem of a batch: which inputs are queries, which candidates, and what is no negative of what.

Axes: I inputs (items) of the batch, N rows, M candidates, H hard negatives. Items of several processes may be the
same input; a candidate counts once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Items of queries and candidates, and the masks of `losses.info_nce`."""

    query_N: Tensor
    candidate_M: Tensor
    positive_N: Tensor
    """Each row's positive, as an index into `candidate_M`."""
    known_false_NM: Tensor
    """Candidates that are no negatives of the row: a positive of another row with the same query, and the query itself."""


def pose(key_I: Tensor, query_N: Tensor, positive_N: Tensor, negative_H: Tensor) -> Problem:
    """Poses the problem.

    Hard negatives are candidates of every row, as other rows' positives are.

    Args:
        key_I: int64, equal where two items are the same input.
        query_N: item of each row's query.
        positive_N: item of each row's positive.
        negative_H: items of hard negatives.
    """
    # every item is spoken of as the first of its kind
    _, kind_I = torch.unique(key_I, return_inverse=True)
    first = torch.full_like(key_I, len(key_I)).scatter_reduce(0, kind_I, torch.arange(len(key_I), device=key_I.device), "amin")
    first_I = first[kind_I]
    queries, positives = first_I[query_N], first_I[positive_N]
    candidates = torch.unique(torch.cat([positives, first_I[negative_H]]))
    column = torch.searchsorted(candidates, positives)
    same_query_NN = (queries[:, None] == queries[None, :]).float()
    is_positive_NM = torch.nn.functional.one_hot(column, len(candidates)).float()
    known_false = (same_query_NN @ is_positive_NM > 0) | (candidates[None, :] == queries[:, None])
    known_false[torch.arange(len(column), device=column.device), column] = False
    return Problem(queries, candidates, column, known_false)
