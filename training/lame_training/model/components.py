"""The input tensors of a LaME model, the latent connector, and the names of the trainable parts.

Axes are those of `lame`.
"""

from __future__ import annotations

from dataclasses import dataclass

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
