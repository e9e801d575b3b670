"""In-batch negatives: which inputs of a batch are queries, candidates, and negatives of a query.

Axes: I inputs (items) of the batch, N rows, M candidates, H hard negatives. Items that come from
different processes may be the same input, which is then one candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Names the queries and candidates of a batch by their items; `losses.info_nce` takes them."""

    query_N: Tensor
    """int64: the item of each row's query."""
    candidate_M: Tensor
    """int64: the item of each candidate; no two are the same input."""
    positive_N: Tensor
    """int64: the index of each row's positive in `candidate_M`."""
    known_false_NM: Tensor
    """bool: candidates that must not be negatives of the row, because they are the positive of
    another row with the same query, or are the query itself."""


def build_candidates(
    key_I: Tensor, query_N: Tensor, positive_N: Tensor, negative_H: Tensor
) -> Candidates:
    """Finds the candidates of a batch and the false negatives among them.

    Every row's positive and every hard negative is a candidate of all rows.

    Args:
        key_I: int64, equal if two items are the same input.
        query_N: int64, the item of each row's query.
        positive_N: int64, the item of each row's positive.
        negative_H: int64, the items of hard negatives.
    """
    # deduplicate: from here on the first item with a key stands for all items with that key
    _, kind_I = torch.unique(key_I, return_inverse=True)
    numbers_I = torch.arange(len(key_I), device=key_I.device)
    first = torch.full_like(key_I, len(key_I)).scatter_reduce(0, kind_I, numbers_I, "amin")
    first_I = first[kind_I]
    queries, positives = first_I[query_N], first_I[positive_N]
    candidates = torch.unique(torch.cat([positives, first_I[negative_H]]))
    # `unique` sorts, so a positive's column can be found by bisection
    column = torch.searchsorted(candidates, positives)
    # A row's positives are those of all rows with the same query. The product counts them: entry
    # (n, m) is the number of rows with the query of row n and the positive m.
    same_query_NN = (queries[:, None] == queries[None, :]).float()
    is_positive_NM = torch.nn.functional.one_hot(column, len(candidates)).float()
    known_false = (same_query_NN @ is_positive_NM > 0) | (candidates[None, :] == queries[:, None])
    # a row's own positive is among them, too
    known_false[torch.arange(len(column), device=column.device), column] = False
    return Candidates(queries, candidates, column, known_false)
