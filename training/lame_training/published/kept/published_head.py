"""The last layer of a model that gives the vectors of a published embedder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lame_training.model.components import DenseHead
from lame_training.model.lame import Head
from lame_training.published.module_folders import Dense


def head_kind(dense: Dense | None) -> Head:
    """Returns the kind of head that has the weights of a dense layer, or of none."""
    return "projection" if dense is None else "dense_tanh" if dense.tanh else "dense"


@torch.no_grad()
def fill_head(head: nn.Module, dense: Dense | None) -> None:
    """Sets a head so that cosines are those of the published vectors, as far as its size allows.

    A head with fewer values than the published vector returns its first ones. A head with more
    values than the state, which has no dense layer, maps the state without changing any cosine.

    Args:
        head: of the kind that `head_kind` names; with a dense layer, of at most as many values.
        dense: the published dense layer, if there is one.
    """
    if dense is not None and isinstance(head, DenseHead):
        size = head.linear.out_features
        head.linear.weight.copy_(dense.weight[:size])
        head.linear.bias.copy_(dense.bias[:size])
    elif isinstance(head, nn.Linear):
        head.weight.copy_(_isometry(head.out_features, head.in_features))


def _isometry(size: int, width: int) -> Tensor:
    """Returns (size, width): the first rows of the unit matrix, or orthonormal columns."""
    if size <= width:
        return torch.eye(size, width)
    # not a unit matrix with rows of zeros: those rows would have no gradient, and never train
    return nn.init.orthogonal_(torch.empty(size, width))
