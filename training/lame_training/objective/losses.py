"""The two losses: InfoNCE over embeddings, and reconstruction of a text from the reason states.

Axes as in `model.lame`; N rows of the batch (one query each), M candidates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

IGNORE = -100
"""Label of padding, which the reconstruction loss leaves out."""


def info_nce(
    queries_NP: Tensor,
    candidates_MP: Tensor,
    positive_N: Tensor,
    known_false_NM: Tensor,
    *,
    temperature: float,
    margin: float | None = 0.1,
) -> Tensor:
    """Returns L_nce, the InfoNCE loss (arXiv 1807.03748) with in-batch negatives.

    It is the cross-entropy of each query's positive among all candidates of the batch. A candidate
    is left out as a false negative of a query if it is known to be right for it as well (the same
    target text or picture), if it is the query itself, or if it is more similar to the query than
    the positive is by more than `margin`. A candidate that is right for another reason, such as
    another picture with the same sum, can only be recognized by the margin.

    Args:
        queries_NP: unit rows.
        candidates_MP: unit rows.
        positive_N: the index of each query's positive among the candidates.
        known_false_NM: True if the candidate must not count as a negative of the query.
        temperature: divides the cosines.
        margin: None leaves out the candidates in `known_false_NM` alone.

    Returns:
        A scalar, the mean over the queries.
    """
    similarity_NM = queries_NP @ candidates_MP.T
    rows_N = torch.arange(len(positive_N), device=positive_N.device)
    masked_NM = known_false_NM
    if margin is not None:
        # the mask is a decision, not a function to differentiate, hence `detach`
        fixed_NM = similarity_NM.detach()
        masked_NM = masked_NM | (fixed_NM > fixed_NM[rows_N, positive_N][:, None] + margin)
    # cloned, because without a margin this is still the caller's tensor
    masked_NM = masked_NM.clone()
    # without its positive the cross-entropy of a row would be infinite
    masked_NM[rows_N, positive_N] = False
    logits_NM = (similarity_NM / temperature).masked_fill(masked_NM, -torch.inf)
    return F.cross_entropy(logits_NM, positive_N)


def reconstruction(logits_BTV: Tensor, target_ids_BT: Tensor) -> Tensor:
    """Returns L_rec: the mean over samples of the mean negative log-likelihood of a target token.

    A short target therefore weighs as much as a long one.

    Args:
        logits_BTV: (B, T + 1, V) from `LaMEModel.reconstruction_logits`.
        target_ids_BT: (B, T + 1), the target with its end token, then `IGNORE`.

    Returns:
        A scalar.
    """
    loss_BT = F.cross_entropy(
        # the logits may be BF16, which is too coarse for a sum over the vocabulary
        logits_BTV.flatten(0, 1).float(),
        target_ids_BT.flatten(),
        ignore_index=IGNORE,
        reduction="none",
    )
    loss_BT = loss_BT.view_as(target_ids_BT)
    tokens_B = (target_ids_BT != IGNORE).sum(dim=1)
    return (loss_BT.sum(dim=1) / tokens_B).mean()
