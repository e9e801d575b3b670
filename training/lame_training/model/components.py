"""The input tensors of a LaME model, its connector and head, and the names of the trainable parts.

Axes are those of `lame`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelInputs:
    """The arrays of `lame_runtime.contract.batch.Batch` as tensors.

    Pictures are packed, as transformers takes them: the patches of all pictures in one sequence.
    """

    input_ids_BL: Tensor
    """int64, padded on the right; the ids of latent tokens follow those of the embedding table."""
    feature_index_BL: Tensor
    """int64: the token's row in the feature table, 0 if it is no vision token."""
    position_ids_3BL: Tensor
    embed_index_B: Tensor
    """int64: the column of [EMBED] in each row."""
    pixel_patches: Tensor | None
    """float32 (patches of all pictures, patch_dim); None without pictures."""
    grid_thw: Tensor | None
    """int64 (pictures, 3): each picture's patch grid as time, rows and columns."""


class LatentConnector(nn.Module):
    """C, which maps latent states into the decoder's embedding space.

    LayerNorm → Linear(D, E) → GELU → Linear(E, E).
    """

    def __init__(self, width_D: int, width_E: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width_D)
        self.up = nn.Linear(width_D, width_E)
        self.out = nn.Linear(width_E, width_E)

    def forward(self, states_BKD: Tensor) -> Tensor:
        """Maps (B, K, D) to (B, K, E)."""
        return self.out(F.gelu(self.up(self.norm(states_BKD))))


class DenseHead(nn.Module):
    """The affine layer of Sentence Transformers' `Dense`, with tanh after it or without.

    Args:
        width: number of values that it reads.
        dim: P.
        tanh: whether tanh follows.
        dtype: the type of the weights.
    """

    def __init__(self, width: int, dim: int, *, tanh: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim, dtype=dtype)
        self.tanh = tanh

    def forward(self, pooled: Tensor) -> Tensor:
        """Maps (B, width) to (B, P)."""
        output: Tensor = self.linear(pooled)
        return output.tanh() if self.tanh else output


def make_head(kind: str, width: int, dim: int, dtype: torch.dtype) -> nn.Module:
    """Makes the last layer of a kind that `lame.Head` names, newly initialized."""
    if kind != "projection":
        return DenseHead(width, dim, tanh=kind == "dense_tanh", dtype=dtype)
    return nn.Identity() if dim == width else nn.Linear(width, dim, bias=False, dtype=dtype)


def mean_upto(states_BLD: Tensor, last_B: Tensor) -> Tensor:
    """Returns the mean over the columns 0 to `last_B` of each row: (B, L, D) → (B, D)."""
    columns_L = torch.arange(states_BLD.shape[1], device=states_BLD.device)
    inside_BL = (columns_L <= last_B[:, None]).to(states_BLD.dtype)
    # padding is zeroed, not skipped: 0 · NaN would spread, but states of padding are finite
    return (states_BLD * inside_BL[:, :, None]).sum(1) / inside_BL.sum(1, keepdim=True)


def decodes(n_reason: int, rec_from: str) -> bool:
    """Returns whether there are states that a latent decoder can read."""
    return n_reason > 0 or rec_from == "embed"


# The first prefix that fits decides, so the mergers stand before the vision tower that holds them.
PARTS = {
    "backbone.visual.merger.": "merger",
    "backbone.visual.deepstack_merger_list.": "merger",
    "backbone.visual.": "vision",
    "backbone.language_model.": "language_model",
    "reason_KD": "reason",
    "embed_1D": "embed",
    "head.": "head",
    "connector.": "connector",
    "decoder.": "decoder",
}
"""Names of the trainable parts by the prefix of their parameters, for `stages.Stage.rates`."""


def part_of(parameter: str) -> str:
    """Returns the part that the parameter of this name belongs to."""
    return next(part for prefix, part in PARTS.items() if parameter.startswith(prefix))
