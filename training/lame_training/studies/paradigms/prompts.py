"""Random prompts of exactly L positions, the same for every paradigm: text, or a picture with text.

All rows of a batch share their layout. So nothing is padded, and one table of positions serves the
whole batch. Axes are those of the package's docstring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from lame_runtime.errors import UsageError
from torch import Tensor

from lame_training.model.components import ModelInputs
from lame_training.model.lame import LaMEModel

Modality = Literal["text", "image+text"]
BEFORE = 4
"""Number of text tokens before the picture, where a chat template puts some as well."""


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts without latent tokens."""

    ids_BL: Tensor
    """int64."""
    feature_index_BL: Tensor
    """int64: the token's row in the feature table, 0 if it is no vision token."""
    position_ids_3L: Tensor
    """int64: M-RoPE positions, the same in every row."""
    pixel_patches: Tensor | None
    """float32 (patches of all pictures, patch_dim); None without pictures."""
    grid_thw: Tensor | None
    """int64 (pictures, 3): each picture's patch grid as time, rows and columns."""

    @property
    def next_position(self) -> int:
        """M-RoPE position of the first token after the prompt."""
        # not L: a picture advances the positions by its side only, not by its number of tokens
        return int(self.position_ids_3L.max()) + 1

    def positions(self, extra: int) -> Tensor:
        """Returns M-RoPE positions of the prompt and `extra` tokens after it: (3, L + extra)."""
        start = self.next_position
        extra_positions = torch.arange(start, start + extra, device=self.position_ids_3L.device)
        return torch.cat([self.position_ids_3L, extra_positions.expand(3, -1)], dim=1)

    def with_latents(self, model: LaMEModel) -> ModelInputs:
        """Returns the prompts as `LaMEModel.forward` takes them, latent ids in place."""
        batch, length = self.ids_BL.shape
        device = self.ids_BL.device
        # the ids of latent tokens follow those of the embedding table
        first_id = len(model.backbone.get_input_embeddings().weight)
        latent_ids = torch.arange(first_id, first_id + model.n_reason + 1, device=device)
        latent_BN = latent_ids.expand(batch, -1)
        return ModelInputs(
            input_ids_BL=torch.cat([self.ids_BL, latent_BN], dim=1),
            feature_index_BL=torch.cat([self.feature_index_BL, torch.zeros_like(latent_BN)], dim=1),
            position_ids_3BL=self.positions(model.n_reason + 1)[:, None].expand(-1, batch, -1),
            embed_index_B=torch.full((batch,), length + model.n_reason, device=device),
            pixel_patches=self.pixel_patches,
            grid_thw=self.grid_thw,
        )


def picture_side(length: int) -> int:
    """Returns rows (= columns), in vision tokens, of the square that fills half of a prompt."""
    return math.isqrt(length // 2)


def make_prompts(
    model: LaMEModel, batches: int, batch_size: int, length: int, modality: Modality, seed: int = 0
) -> list[Prompts]:
    """Makes batches of random prompts on the model's device; the same seed gives the same prompts.

    All rows differ in their texts. With pictures, the rows of a batch differ in their pictures as
    well, and all batches share them.

    Args:
        model: gives the vocabulary, the picture format and the device.
        batches: number of batches.
        batch_size: B.
        length: L.
        modality: "text" or "image+text".
        seed: seeds ids and pixels.

    Raises:
        UsageError: `length` has no room for a picture and text.
    """
    device, vocabulary = model.embed_1D.device, len(model.backbone.get_input_embeddings().weight)
    # a generator on the CPU, so that prompts do not depend on the device
    generator = torch.Generator().manual_seed(seed)
    index_BL = torch.zeros(batch_size, length, dtype=torch.int64)
    positions_3L = torch.arange(length).expand(3, -1)
    patches, grid = None, None
    if modality == "image+text":
        side = picture_side(length)
        tokens = side * side
        if side < 1 or BEFORE + tokens >= length:
            raise UsageError(
                f"`lengths` has {length}: too short for a picture with text; use 16 or more"
            )
        # row 0 of the feature table stands for text
        rows = 1 + torch.arange(batch_size * tokens).view(batch_size, tokens)
        index_BL[:, BEFORE : BEFORE + tokens] = rows
        positions_3L = _positions_around_picture(length, side)
        vision = model.backbone.config.vision_config
        # the tower's merger makes one vision token of merge × merge patches
        merge = vision.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        # drawn before the ids: the order of draws is part of what a seed gives
        patches = torch.randn(batch_size * tokens * merge**2, width, generator=generator).to(device)
        grid = torch.tensor([[1, side * merge, side * merge]] * batch_size, device=device)
    index_BL, positions_3L = index_BL.to(device), positions_3L.to(device)
    return [
        Prompts(
            torch.randint(vocabulary, (batch_size, length), generator=generator).to(device),
            index_BL,
            positions_3L,
            patches,
            grid,
        )
        for _ in range(batches)
    ]


def _positions_around_picture(length: int, side: int) -> Tensor:
    """Returns M-RoPE positions (3, L) of text, a picture of side × side tokens, and text.

    Within the picture time stands still, and rows and columns count from the picture's start; text
    continues after the largest of them (Qwen2-VL, arXiv 2409.12191, section 2.1).
    """
    tokens = side * side
    before_3N = torch.arange(BEFORE).expand(3, -1)
    cells = torch.arange(tokens)
    picture_3M = BEFORE + torch.stack([torch.zeros_like(cells), cells // side, cells % side])
    after = BEFORE + side + torch.arange(length - BEFORE - tokens)
    return torch.cat([before_3N, picture_3M, after.expand(3, -1)], dim=1)
