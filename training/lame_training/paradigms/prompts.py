"""Prompts of exactly L positions, the same for every paradigm: text, or a picture with text.

All rows of a batch share their layout, so nothing is padded and one table of positions serves the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from lame_runtime.errors import InputError
from torch import Tensor

from lame_training.model import LaMEModel, ModelInputs

Modality = Literal["text", "image+text"]
BEFORE = 4
"""Text tokens before the picture, as a chat template puts them."""


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts without latent rows."""

    ids_BL: Tensor
    feature_index_BL: Tensor
    """0 where the token is text, else 1 + the row of its feature."""
    position_ids_3L: Tensor
    """M-RoPE positions, the same in every row."""
    pixel_patches: Tensor | None
    grid_thw: Tensor | None

    @property
    def next_position(self) -> int:
        """The position of the first token behind the prompt."""
        return int(self.position_ids_3L.max()) + 1

    def positions(self, extra: int) -> Tensor:
        """M-RoPE positions of the prompt and `extra` tokens behind it: (3, L + extra)."""
        behind = torch.arange(self.next_position, self.next_position + extra, device=self.position_ids_3L.device)
        return torch.cat([self.position_ids_3L, behind.expand(3, -1)], dim=1)

    def with_latents(self, model: LaMEModel) -> ModelInputs:
        """The same prompts as `LaMEModel.forward` takes them, latent ids in place."""
        batch, length = self.ids_BL.shape
        first = len(model.backbone.get_input_embeddings().weight)
        latent = torch.arange(first, first + model.n_reason + 1, device=self.ids_BL.device).expand(batch, -1)
        return ModelInputs(
            torch.cat([self.ids_BL, latent], dim=1),
            torch.cat([self.feature_index_BL, torch.zeros_like(latent)], dim=1),
            self.positions(model.n_reason + 1)[:, None].expand(-1, batch, -1),
            torch.full((batch,), length + model.n_reason, device=self.ids_BL.device),
            self.pixel_patches,
            self.grid_thw,
        )


def picture_side(length: int) -> int:
    """Rows and columns, in merged tokens, of the square picture that fills about half of a prompt."""
    return math.isqrt(length // 2)


def make_prompts(model: LaMEModel, batches: int, batch_size: int, length: int, modality: Modality, seed: int = 0) -> list[Prompts]:
    """Batches of random prompts on the model's device, the same for the same seed.

    Texts differ between all rows; with pictures, each row has its own, and the batches share them.

    Raises:
        InputError: a length that holds no picture beside its text.
    """
    device, vocabulary = model.embed_1D.device, len(model.backbone.get_input_embeddings().weight)
    generator = torch.Generator().manual_seed(seed)
    index_BL = torch.zeros(batch_size, length, dtype=torch.int64)
    positions_3L = torch.arange(length).expand(3, -1)
    patches, grid = None, None
    if modality == "image+text":
        side = picture_side(length)
        tokens = side * side
        if side < 1 or BEFORE + tokens >= length:
            raise InputError(f"length {length}: too short for a picture with text; use 16 or more")
        index_BL[:, BEFORE : BEFORE + tokens] = 1 + torch.arange(batch_size * tokens).view(batch_size, tokens)
        cells = torch.arange(tokens)
        picture_3M = BEFORE + torch.stack([torch.zeros_like(cells), cells // side, cells % side])
        behind = BEFORE + side + torch.arange(length - BEFORE - tokens)
        positions_3L = torch.cat([positions_3L[:, :BEFORE], picture_3M, behind.expand(3, -1)], dim=1)
        vision = model.backbone.config.vision_config
        merge = vision.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        patches = torch.randn(batch_size * tokens * merge**2, width, generator=generator).to(device)
        grid = torch.tensor([[1, side * merge, side * merge]] * batch_size, device=device)
    index_BL, positions_3L = index_BL.to(device), positions_3L.to(device)
    return [
        Prompts(torch.randint(vocabulary, (batch_size, length), generator=generator).to(device), index_BL, positions_3L, patches, grid)
        for _ in range(batches)
    ]
