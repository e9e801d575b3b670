"""The two losses: InfoNCE over embeddings, reconstruction of a target text from the reason states.

Axes as in `model`; N rows of the batch, M candidates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

IGNORE = -100


def info_nce(
    queries_NP: Tensor,
    candidates_MP: Tensor,
    positive_N: Tensor,
    known_false_NM: Tensor,
    *,
    temperature: float,
    margin: float | None = 0.1,
) -> Tensor:
    """L_nce: cross-entropy of each query's positive among all candidates of the batch.

    A candidate is no negative of a query where it is known to be right for it as well (same target text or
    picture), is the query itself, or is more similar than the positive by more than `margin`. What is right for
    another reason, such as another picture with the same sum, is known to nobody and only the margin spares it.

    Args:
        queries_NP: unit rows.
        candidates_MP: unit rows.
        positive_N: index of each query's positive among the candidates.
        known_false_NM: True where a candidate must not count as a negative.
        temperature: divides the cosine.
        margin: None masks by `known_false_NM` alone.

    Returns:
        A scalar, the mean over the queries.
    """
    similarity_NM = queries_NP @ candidates_MP.T
    rows_N = torch.arange(len(positive_N), device=positive_N.device)
    masked_NM = known_false_NM
    if margin is not None:
        masked_NM = masked_NM | (similarity_NM.detach() > similarity_NM.detach()[rows_N, positive_N][:, None] + margin)
    masked_NM = masked_NM.clone()
    masked_NM[rows_N, positive_N] = False
    logits_NM = (similarity_NM / temperature).masked_fill(masked_NM, -torch.inf)
    return F.cross_entropy(logits_NM, positive_N)


def reconstruction(logits_BTV: Tensor, target_ids_BT: Tensor) -> Tensor:
    """L_rec: mean over samples of the mean token negative log-likelihood of the target.

    Args:
        logits_BTV: (B, T + 1, V) from `LaMEModel.reconstruction_logits`.
        target_ids_BT: (B, T + 1) the target with its end token, `IGNORE` where padded.

    Returns:
        A scalar.
    """
    loss_BT = F.cross_entropy(logits_BTV.flatten(0, 1).float(), target_ids_BT.flatten(), ignore_index=IGNORE, reduction="none")
    loss_BT = loss_BT.view_as(target_ids_BT)
    tokens_B = (target_ids_BT != IGNORE).sum(dim=1)
    return (loss_BT.sum(dim=1) / tokens_B).mean()
