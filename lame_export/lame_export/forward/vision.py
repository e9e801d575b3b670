"""The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL. What depends on the grid comes in as tables (`contract.tower`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lame_export.forward.layers import Affine, Angles, Interpolation, Rotary, activation, attend, gelu, norm_of

Windows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""cos (N·windows, 1, w, d), sin likewise, visible keys (N·windows, 1, 1, w), index (windows·w), place (S)."""


class MLP(nn.Module):
    """fc2(act(fc1 x)), or down(act(gate x) · up x) where the family gates it."""

    def __init__(self, mlp: Any, act: str) -> None:
        super().__init__()
        self.gated = hasattr(mlp, "gate_proj")
        self.act = activation(act)
        if self.gated:
            self.gate, self.up, self.down = Affine.of(mlp.gate_proj), Affine.of(mlp.up_proj), Affine.of(mlp.down_proj)
        else:
            first, second = (mlp.fc1, mlp.fc2) if hasattr(mlp, "fc1") else (mlp.linear_fc1, mlp.linear_fc2)
            self.fc1, self.fc2 = Affine.of(first), Affine.of(second)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        if self.gated:
            return self.down(self.act(self.gate(x)) * self.up(x))
        return self.fc2(self.act(self.fc1(x)))


class VisionBlock(nn.Module):
    """One block: attention over the whole picture, or inside windows of it."""

    def __init__(self, block: Any, heads: int, act: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_of(block.norm1), norm_of(block.norm2)
        self.qkv, self.proj = Affine.of(block.attn.qkv), Affine.of(block.attn.proj)
        self.mlp = MLP(block.mlp, act)
        self.rotary = Rotary()
        self.heads = heads

    def forward(self, x_NSC: Tensor, cos_Sd: Tensor, sin_Sd: Tensor, windows: Windows | None) -> Tensor:
        """(N, S, C) → the same."""
        n, _, c = x_NSC.shape
        qkv = self.qkv(self.norm1(x_NSC))
        if windows is None:
            out_NSC = self._attend(qkv, cos_Sd, sin_Sd, None)
        else:
            cos, sin, visible, index, place = windows
            cut = qkv.index_select(1, index).reshape(visible.shape[0], visible.shape[-1], 3 * c)
            out_NSC = self._attend(cut, cos, sin, visible).reshape(n, index.shape[0], c).index_select(1, place)
        x_NSC = x_NSC + self.proj(out_NSC)
        return x_NSC + self.mlp(self.norm2(x_NSC))

    def _attend(self, qkv: Tensor, cos: Tensor, sin: Tensor, visible: Tensor | None) -> Tensor:
        """(rows, patches, 3 C) → (rows, patches, C)."""
        rows, patches, width = qkv.shape
        head = width // 3 // self.heads
        q, k, v = qkv.reshape(rows, patches, 3, self.heads, head).permute(2, 0, 3, 1, 4).unbind(0)
        q = self.rotary(q, cos, sin) * head**-0.5
        k = self.rotary(k, cos, sin)
        return attend(q, k, v, visible).permute(0, 2, 1, 3).reshape(rows, patches, width // 3)


class Merger(nn.Module):
    """The patches of a merge block side by side, through two linear layers into the language model's width."""

    def __init__(self, merger: Any, merge: int) -> None:
        super().__init__()
        self.late_norm = bool(getattr(merger, "use_postshuffle_norm", False))
        self.norm = norm_of(merger.ln_q if hasattr(merger, "ln_q") else merger.norm)
        first, second = (merger.mlp[0], merger.mlp[2]) if hasattr(merger, "mlp") else (merger.linear_fc1, merger.linear_fc2)
        self.fc1, self.fc2 = Affine.of(first), Affine.of(second)
        self.merge = merge

    def forward(self, x_NSC: Tensor) -> Tensor:
        """(N, S, C) → (N, M, D)."""
        n, s, c = x_NSC.shape
        if not self.late_norm:
            x_NSC = self.norm(x_NSC)
        merged = x_NSC.reshape(n, s // self.merge, c * self.merge)
        return self.fc2(gelu(self.fc1(self.norm(merged) if self.late_norm else merged)))


class Vision(nn.Module):
    """pixel_patches (N, S, patch_dim) float32 and the grid's tables → features (N, M, W)."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        config = visual.config
        projection = visual.patch_embed.proj
        self.patch_embed = Affine(projection.weight.flatten(1), projection.bias)
        frequencies = visual.rotary_pos_emb.inv_freq
        still = torch.zeros_like(frequencies)
        self.angles = Angles(torch.stack([torch.cat([frequencies, still]), torch.cat([still, frequencies])]))
        self.interpolation = Interpolation(visual.pos_embed) if hasattr(visual, "pos_embed") else None
        self.blocks = nn.ModuleList([VisionBlock(block, config.num_heads, config.hidden_act) for block in visual.blocks])
        full = getattr(config, "fullatt_block_indexes", None)
        self.windowed = [full is not None and index not in full for index in range(len(self.blocks))]
        merge = config.spatial_merge_size**2
        self.merger = Merger(visual.merger, merge)
        self.levels = list(getattr(config, "deepstack_visual_indexes", ()))
        self.deepstack = nn.ModuleList([Merger(each, merge) for each in visual.deepstack_merger_list] if self.levels else [])

    def forward(
        self,
        pixel_patches: Tensor,
        patch_positions: Tensor,
        window_index: Tensor | None = None,
        window_mask: Tensor | None = None,
        window_place: Tensor | None = None,
        interpolation_index: Tensor | None = None,
        interpolation_weight: Tensor | None = None,
    ) -> Tensor:
        """See the class; which tables there are depends on the family."""
        x_NSC = self.patch_embed(pixel_patches)
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
            windows = cut_windows(x_NSC.shape[0], cos_Sd, sin_Sd, window_index, window_mask, window_place)
        collected = []
        for index, block in enumerate(self.blocks):
            x_NSC = block(x_NSC, cos_Sd, sin_Sd, windows if self.windowed[index] else None)
            if index in self.levels:
                collected.append(self.deepstack[self.levels.index(index)](x_NSC))
        return torch.cat([self.merger(x_NSC), *collected], dim=-1) if collected else self.merger(x_NSC)


def cut_windows(pictures: int, cos_Sd: Tensor, sin_Sd: Tensor, index: Tensor, mask: Tensor, place: Tensor) -> Windows:
    """What every windowed block needs, once for all of them.

    Args:
        pictures: N.
        cos_Sd: (S, d).
        sin_Sd: (S, d).
        index: int64 (windows, w), see `contract.tower.window_tables`.
        mask: bool (windows, w).
        place: int64 (S,).
    """
    count, size = index.shape
    flat = index.reshape(-1)

    def of_all(table_Sd: Tensor) -> Tensor:
        width = table_Sd.shape[-1]
        cut = table_Sd.index_select(0, flat).reshape(1, count, 1, size, width)
        return cut.expand(pictures, count, 1, size, width).reshape(pictures * count, 1, size, width)

    visible = mask.reshape(1, count, 1, 1, size).expand(pictures, count, 1, 1, size).reshape(pictures * count, 1, 1, size)
    return of_all(cos_Sd), of_all(sin_Sd), visible, flat, place
