"""The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

Tables that depend on the patch grid are inputs (`contract.tower`), since loops over grids do not
export. All pictures of a run have the same grid, so that full attention needs no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lame_runtime.contract.rules import ImageRules
from torch import Tensor, nn

from lame_export.forward.layers import (
    Affine,
    Angles,
    Interpolation,
    Rotary,
    activation,
    attend,
    gelu,
    norm_of,
)
from lame_export.forward.patches import Pixels, by_bytes


@dataclass(frozen=True)
class Windows:
    """Tables of Qwen2.5-VL's windowed attention, the same for every windowed block."""

    cos: Tensor
    """Cosines of the rotary angles, patches in the order of windows: (N windows, 1, w, d)."""
    sin: Tensor
    """Sines, in the same shape."""
    visible: Tensor
    """Bool (N windows, 1, 1, w), False for the padding of windows at the edge."""
    index: Tensor
    """int64 (windows w), the patch at each place of the windows."""
    place: Tensor
    """int64 (S,), the place of each patch in the windows."""


class MLP(nn.Module):
    """The MLP of a block: fc2(act(fc1 x)), or down(act(gate x) · up x) in Qwen2.5-VL."""

    def __init__(self, mlp: Any, act: str) -> None:
        super().__init__()
        self.gated = hasattr(mlp, "gate_proj")
        self.act = activation(act)
        if self.gated:
            self.gate = Affine.of(mlp.gate_proj)
            self.up = Affine.of(mlp.up_proj)
            self.down = Affine.of(mlp.down_proj)
        elif hasattr(mlp, "fc1"):  # Qwen2-VL
            self.fc1, self.fc2 = Affine.of(mlp.fc1), Affine.of(mlp.fc2)
        else:  # Qwen3-VL
            self.fc1, self.fc2 = Affine.of(mlp.linear_fc1), Affine.of(mlp.linear_fc2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps each row by itself; the shape stays."""
        if self.gated:
            return self.down(self.act(self.gate(x)) * self.up(x))
        return self.fc2(self.act(self.fc1(x)))


class VisionBlock(nn.Module):
    """One block of the tower: attention over the whole picture, or inside windows of it."""

    def __init__(self, block: Any, heads: int, act: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_of(block.norm1), norm_of(block.norm2)
        self.qkv, self.proj = Affine.of(block.attn.qkv), Affine.of(block.attn.proj)
        self.mlp = MLP(block.mlp, act)
        self.rotary = Rotary()
        self.heads = heads

    def forward(
        self, x_NSC: Tensor, cos_Sd: Tensor, sin_Sd: Tensor, windows: Windows | None
    ) -> Tensor:
        """Computes the block, (N, S, C) → (N, S, C); `windows` is None for full attention."""
        n, _, c = x_NSC.shape
        qkv = self.qkv(self.norm1(x_NSC))
        if windows is None:
            out_NSC = self._attend(qkv, cos_Sd, sin_Sd, None)
        else:
            # windows become a batch: a dense mask over all pairs of 16k patches would take 512 MB
            count, size = windows.visible.shape[0], windows.visible.shape[-1]
            cut = qkv.index_select(1, windows.index).reshape(count, size, 3 * c)
            attended = self._attend(cut, windows.cos, windows.sin, windows.visible)
            in_windows = attended.reshape(n, windows.index.shape[0], c)
            out_NSC = in_windows.index_select(1, windows.place)
        x_NSC = x_NSC + self.proj(out_NSC)
        return x_NSC + self.mlp(self.norm2(x_NSC))

    def _attend(self, qkv: Tensor, cos: Tensor, sin: Tensor, visible: Tensor | None) -> Tensor:
        """Attends within each row of a batch: (rows, patches, 3 C) → (rows, patches, C)."""
        rows, patches, width = qkv.shape
        head = width // 3 // self.heads
        # one product makes q, k and v: first all heads of q, then those of k, then those of v
        q, k, v = qkv.reshape(rows, patches, 3, self.heads, head).permute(2, 0, 3, 1, 4).unbind(0)
        q = self.rotary(q, cos, sin) * head**-0.5
        k = self.rotary(k, cos, sin)
        return attend(q, k, v, visible).permute(0, 2, 1, 3).reshape(rows, patches, width // 3)


class Merger(nn.Module):
    """Maps the patches of a merge block, side by side, to one row of the language model's width."""

    def __init__(self, merger: Any, merge: int) -> None:
        super().__init__()
        # the deepstack mergers of Qwen3-VL norm merged rows, all others norm the patches
        self.late_norm = bool(getattr(merger, "use_postshuffle_norm", False))
        self.norm = norm_of(merger.ln_q if hasattr(merger, "ln_q") else merger.norm)
        if hasattr(merger, "mlp"):  # Qwen2-VL and Qwen2.5-VL
            first, second = merger.mlp[0], merger.mlp[2]
        else:  # Qwen3-VL
            first, second = merger.linear_fc1, merger.linear_fc2
        self.fc1, self.fc2 = Affine.of(first), Affine.of(second)
        self.merge = merge

    def forward(self, x_NSC: Tensor) -> Tensor:
        """Maps (N, S, C) → (N, M, D). The patches of a merge block are adjacent in S."""
        n, s, c = x_NSC.shape
        if not self.late_norm:
            x_NSC = self.norm(x_NSC)
        # the exact GELU in every family, whatever `hidden_act` says of the blocks
        merged = x_NSC.reshape(n, s // self.merge, c * self.merge)
        return self.fc2(gelu(self.fc1(self.norm(merged) if self.late_norm else merged)))


class Vision(nn.Module):
    """A vision tower: frames of pictures and the tables of their grid → features (N, M, W)."""

    def __init__(self, visual: Any, images: ImageRules) -> None:
        super().__init__()
        config = visual.config
        self.pixels = Pixels(images)
        # the convolution's stride is its kernel, so it is a product with each flattened patch
        projection = visual.patch_embed.proj
        self.patch_embed = Affine(by_bytes(projection.weight), projection.bias)
        # the first half of a head's channel pairs turns along rows, the second along columns
        frequencies = visual.rotary_pos_emb.inv_freq
        still = torch.zeros_like(frequencies)
        self.angles = Angles(
            torch.stack([torch.cat([frequencies, still]), torch.cat([still, frequencies])])
        )
        self.interpolation = (
            Interpolation(visual.pos_embed) if hasattr(visual, "pos_embed") else None
        )
        self.blocks = nn.ModuleList(
            [VisionBlock(block, config.num_heads, config.hidden_act) for block in visual.blocks]
        )
        full = getattr(config, "fullatt_block_indexes", None)  # None but for Qwen2.5-VL
        self.windowed = [
            full is not None and index not in full for index in range(len(self.blocks))
        ]
        merge = config.spatial_merge_size**2
        self.merger = Merger(visual.merger, merge)
        self.levels = list(getattr(config, "deepstack_visual_indexes", ()))
        mergers = visual.deepstack_merger_list if self.levels else []
        self.deepstack = nn.ModuleList([Merger(merger, merge) for merger in mergers])

    def forward(
        self,
        frames: Tensor,
        strip_index: Tensor,
        patch_positions: Tensor,
        window_index: Tensor | None = None,
        window_mask: Tensor | None = None,
        window_place: Tensor | None = None,
        interpolation_index: Tensor | None = None,
        interpolation_weight: Tensor | None = None,
    ) -> Tensor:
        """Computes the features; shapes as in `PictureGroup.vision_feeds` and `contract.tower`.

        The windows' tables are given for Qwen2.5-VL only, the interpolation's for Qwen3-VL only.
        """
        x_NSC = self.patch_embed(self.pixels(frames, strip_index))
        if self.interpolation is not None:
            assert interpolation_index is not None
            assert interpolation_weight is not None
            x_NSC = x_NSC + self.interpolation(interpolation_index, interpolation_weight)
        cos_Sd, sin_Sd = self.angles(patch_positions)
        windows = None
        if any(self.windowed):
            assert window_index is not None
            assert window_mask is not None
            assert window_place is not None
            windows = cut_windows(
                x_NSC.shape[0], cos_Sd, sin_Sd, window_index, window_mask, window_place
            )
        collected = []
        for index, block in enumerate(self.blocks):
            x_NSC = block(x_NSC, cos_Sd, sin_Sd, windows if self.windowed[index] else None)
            if index in self.levels:
                collected.append(self.deepstack[self.levels.index(index)](x_NSC))
        features_NMD = self.merger(x_NSC)
        # deepstack's levels lie side by side with the features: one tensor carries them all to the
        # encoder, which splits it again
        return torch.cat([features_NMD, *collected], dim=-1) if collected else features_NMD


def cut_windows(
    pictures: int, cos_Sd: Tensor, sin_Sd: Tensor, index: Tensor, mask: Tensor, place: Tensor
) -> Windows:
    """Arranges the tables by windows, once for all windowed blocks.

    Args:
        pictures: N.
        cos_Sd: cosines of the rotary angles, (S, d).
        sin_Sd: sines, (S, d).
        index: int64 (windows, w), see `contract.tower.window_tables`.
        mask: bool (windows, w).
        place: int64 (S,).
    """
    # pictures of a run share a grid, so their windows are the same, repeated
    count, size = index.shape
    flat = index.reshape(-1)

    def for_all_windows(table_Sd: Tensor) -> Tensor:
        width = table_Sd.shape[-1]
        cut = table_Sd.index_select(0, flat).reshape(1, count, 1, size, width)
        return cut.expand(pictures, count, 1, size, width).reshape(pictures * count, 1, size, width)

    visible = mask.reshape(1, count, 1, 1, size).expand(pictures, count, 1, 1, size)
    visible = visible.reshape(pictures * count, 1, 1, size)
    return Windows(for_all_windows(cos_Sd), for_all_windows(sin_Sd), visible, flat, place)
