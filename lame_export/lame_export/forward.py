"""The forward that is traced: the single pass of LaME over a Qwen2-VL backbone's own weights.

Written for the graph, not for training: no cache, no padding mask, no data-dependent shape, attention as
plain MatMul → Softmax → MatMul. Tests and every export hold it against transformers' own forward.

Axes: N pictures, S patches of one picture, M merged tokens of one picture, C vision width, B batch, L padded
length, D backbone width, H heads, G key/value heads, d head width, P embedding length, F feature rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from lame_training.model import LaMEModel
from torch import Tensor, nn

MASKED = -65504.0
"""Lowest finite half: a masked score that stays finite in every type and vanishes in the softmax."""


class Affine(nn.Module):
    """x W + b with W stored (in, out), the layout ONNX's MatMul and the quantisers want."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.weight_io = nn.Parameter(linear.weight.detach().t(), requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        y = torch.matmul(x, self.weight_io)
        return y if self.bias is None else y + self.bias


class RMSNorm(nn.Module):
    """x / rms(x) · weight."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = float(norm.variance_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class LayerNorm(nn.Module):
    """(x - mean) / deviation · weight + bias."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps = float(norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


class Rotary(nn.Module):
    """Rotates pairs of channels (i, i + half) by an angle: x · cos + rotate_half(x) · sin."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(…, d) with cos and sin broadcastable to it."""
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin


class Angles(nn.Module):
    """Cosines and sines of the rotary embedding.

    Args:
        frequencies: per axis of the positions, the inverse frequencies that axis turns; joined in order.
        axes: which row of the positions each of them reads.
    """

    def __init__(self, frequencies: list[Tensor], axes: list[int]) -> None:
        super().__init__()
        self.frequencies = nn.ParameterList([nn.Parameter(f.detach().float(), requires_grad=False) for f in frequencies])
        self.axes = axes

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (axes, …) → two of (…, d)."""
        turned = positions.to(torch.float32)[..., None]
        half = torch.cat([turned[axis] * f for axis, f in zip(self.axes, self.frequencies, strict=True)], dim=-1)
        angles = torch.cat((half, half), dim=-1)
        return angles.cos(), angles.sin()


def attend(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, visible: Tensor | None) -> Tensor:
    """softmax(q kᵀ) v with q already scaled; `visible` is a bool mask broadcastable to the scores, or None."""
    scores = torch.matmul(q_BHLd, k_BHLd.transpose(-1, -2))
    if visible is not None:
        scores = torch.where(visible, scores, MASKED)
    return torch.matmul(torch.softmax(scores, dim=-1), v_BHLd)


class VisionBlock(nn.Module):
    """One block of the vision tower: full attention inside each picture."""

    def __init__(self, block: Any, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(block.norm1), LayerNorm(block.norm2)
        self.qkv, self.proj = Affine(block.attn.qkv), Affine(block.attn.proj)
        self.fc1, self.fc2 = Affine(block.mlp.fc1), Affine(block.mlp.fc2)
        self.rotary = Rotary()
        self.heads = heads

    def forward(self, x_NSC: Tensor, cos_Sd: Tensor, sin_Sd: Tensor) -> Tensor:
        """(N, S, C) → the same."""
        n, s, c = x_NSC.shape
        qkv = self.qkv(self.norm1(x_NSC)).reshape(n, s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q_NHSd, k_NHSd, v_NHSd = qkv[0], qkv[1], qkv[2]
        q_NHSd = self.rotary(q_NHSd, cos_Sd, sin_Sd) * (c // self.heads) ** -0.5
        k_NHSd = self.rotary(k_NHSd, cos_Sd, sin_Sd)
        out_NSC = attend(q_NHSd, k_NHSd, v_NHSd, None).permute(0, 2, 1, 3).reshape(n, s, c)
        x_NSC = x_NSC + self.proj(out_NSC)
        h = self.fc1(self.norm2(x_NSC))
        return x_NSC + self.fc2(h * torch.sigmoid(1.702 * h))  # quick GELU


class Vision(nn.Module):
    """pixel_patches (N, S, patch_dim) float32, patch_positions (2, S) int64 → features (N, M, D)."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        config = visual.config
        projection = visual.patch_embed.proj
        flat = nn.Linear(projection.weight[0].numel(), config.embed_dim, bias=False, device="meta")
        flat.weight = nn.Parameter(projection.weight.detach().flatten(1), requires_grad=False)
        self.patch_embed = Affine(flat)
        frequencies = visual.rotary_pos_emb.inv_freq
        self.angles = Angles([frequencies, frequencies], [0, 1])
        self.blocks = nn.ModuleList([VisionBlock(block, config.num_heads) for block in visual.blocks])
        self.norm = LayerNorm(visual.merger.ln_q)
        self.fc1, self.fc2 = Affine(visual.merger.mlp[0]), Affine(visual.merger.mlp[2])
        self.merge = config.spatial_merge_size**2

    def forward(self, pixel_patches: Tensor, patch_positions: Tensor) -> Tensor:
        """See the class."""
        x_NSC = self.patch_embed(pixel_patches)
        cos_Sd, sin_Sd = self.angles(patch_positions)
        for block in self.blocks:
            x_NSC = block(x_NSC, cos_Sd, sin_Sd)
        n, s, c = x_NSC.shape
        merged = self.norm(x_NSC).reshape(n, s // self.merge, c * self.merge)
        h = self.fc1(merged)
        return self.fc2(0.5 * h * (1 + torch.erf(h * 2**-0.5)))  # exact GELU


class EncoderBlock(nn.Module):
    """One block of the language model: causal grouped-query attention and a gated MLP."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.norm1, self.norm2 = RMSNorm(layer.input_layernorm), RMSNorm(layer.post_attention_layernorm)
        self.q, self.k, self.v, self.o = (Affine(each) for each in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj))
        self.gate, self.up, self.down = Affine(mlp.gate_proj), Affine(mlp.up_proj), Affine(mlp.down_proj)
        self.rotary = Rotary()
        self.heads: int = attention.num_heads
        self.groups: int = attention.num_key_value_heads
        self.width: int = attention.head_dim

    def forward(self, x_BLD: Tensor, cos_BLd: Tensor, sin_BLd: Tensor, visible: Tensor, only_B11: Tensor | None) -> Tensor:
        """(B, L, D) → (B, L, D), or (B, 1, D): the row `only_B11` names, where nothing else is needed."""
        b, length, _ = x_BLD.shape
        normed_BLD = self.norm1(x_BLD)
        cos, sin = cos_BLd[:, None], sin_BLd[:, None]
        k_BGLd = self.rotary(self.k(normed_BLD).reshape(b, length, self.groups, self.width).transpose(1, 2), cos, sin)
        v_BGLd = self.v(normed_BLD).reshape(b, length, self.groups, self.width).transpose(1, 2)
        if only_B11 is not None:
            x_BLD, normed_BLD = take_row(x_BLD, only_B11), take_row(normed_BLD, only_B11)
            cos, sin = take_row(cos_BLd, only_B11)[:, None], take_row(sin_BLd, only_B11)[:, None]
        rows = x_BLD.shape[1]
        q_BHLd = self.q(normed_BLD).reshape(b, rows, self.heads, self.width).transpose(1, 2)
        q_BHLd = self.rotary(q_BHLd, cos, sin) * self.width**-0.5
        out_BHLd = attend(q_BHLd, self._repeat(k_BGLd), self._repeat(v_BGLd), visible)
        x_BLD = x_BLD + self.o(out_BHLd.transpose(1, 2).reshape(b, rows, self.heads * self.width))
        normed_BLD = self.norm2(x_BLD)
        gate = self.gate(normed_BLD)
        return x_BLD + self.down(gate * torch.sigmoid(gate) * self.up(normed_BLD))

    def _repeat(self, x_BGLd: Tensor) -> Tensor:
        """(B, G, L, d) → (B, H, L, d): each key/value head serves H / G query heads."""
        if self.heads == self.groups:
            return x_BGLd
        b, g, length, d = x_BGLd.shape
        return x_BGLd[:, :, None].expand(b, g, self.heads // g, length, d).reshape(b, self.heads, length, d)


def take_row(x_BLD: Tensor, index_B11: Tensor) -> Tensor:
    """Row `index` of each batch entry: (B, L, D) → (B, 1, D)."""
    return x_BLD.gather(1, index_B11.expand(-1, 1, x_BLD.shape[-1]))


class UnitNorm(nn.Module):
    """x / |x|."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x / torch.sqrt((x * x).sum(-1, keepdim=True))


class SinglePassEncoder(nn.Module):
    """The prompt, K reason rows and [EMBED] in one pass; connector, decoder and LM head are not part of it.

    Inputs: input_ids (B, L) int64 with latent ids in place, features (F, D) float32 with row 0 zeros,
    feature_index (B, L) int64, position_ids (3, B, L) int64, embed_index (B) int64.
    Output: sentence_embedding (B, P) float32, unit rows.
    """

    def __init__(self, model: LaMEModel) -> None:
        super().__init__()
        language = model.backbone.language_model
        table_VD = torch.cat([language.embed_tokens.weight, model.reason_KD, model.embed_1D]).detach()
        self.table_VD = nn.Parameter(table_VD, requires_grad=False)
        section = language.rotary_emb.mrope_section
        self.angles = Angles(list(language.rotary_emb.inv_freq.split(list(section))), [i % 3 for i in range(len(section))])
        self.blocks = nn.ModuleList([EncoderBlock(layer) for layer in language.layers])
        self.norm = RMSNorm(language.norm)
        self.unit = UnitNorm()
        self.head = None if isinstance(model.head, nn.Identity) else Affine(model.head)

    def forward(self, input_ids: Tensor, features: Tensor, feature_index: Tensor, position_ids: Tensor, embed_index: Tensor) -> Tensor:
        """See the class."""
        tokens_BLD = F.embedding(input_ids, self.table_VD)
        vision_BLD = F.embedding(feature_index, features)
        x_BLD = torch.where(feature_index[:, :, None] > 0, vision_BLD, tokens_BLD)
        cos_BLd, sin_BLd = self.angles(position_ids)
        columns_L = torch.arange(input_ids.shape[1], device=input_ids.device)
        causal_LL = columns_L[None, :] <= columns_L[:, None]
        embed_B11 = embed_index[:, None, None]
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, cos_BLd, sin_BLd, causal_LL, None)
        # one vector comes out, so the last block computes one row: exact, and a whole MLP cheaper
        upto_B11L = columns_L[None, None, None, :] <= embed_B11[:, :, None]
        x_B1D = self.blocks[-1](x_BLD, cos_BLd, sin_BLd, upto_B11L, embed_B11)
        h_BD = self.norm(x_B1D)[:, 0]
        e_BP = h_BD if self.head is None else self.head(h_BD)
        return self.unit(e_BP)
