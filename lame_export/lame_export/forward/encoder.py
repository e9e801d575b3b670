"""The language model over the prompt, K reason rows and [EMBED], in one pass, to one vector."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name PyTorch's own documentation uses)
from lame_training.model.components import DenseHead
from lame_training.model.lame import LaMEModel
from torch import Tensor, nn

from lame_export.forward.experts import Experts
from lame_export.forward.layers import (
    Affine,
    Angles,
    RMSNorm,
    Rotary,
    UnitNorm,
    activation,
    attend,
    frozen,
)


class EncoderBlock(nn.Module):
    """A block of the language model: causal grouped-query attention; a gated MLP or experts."""

    def __init__(self, layer: Any, config: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.norm1 = RMSNorm(layer.input_layernorm)
        self.norm2 = RMSNorm(layer.post_attention_layernorm)
        self.q = Affine.of(attention.q_proj)
        self.k = Affine.of(attention.k_proj)
        self.v = Affine.of(attention.v_proj)
        self.o = Affine.of(attention.o_proj)
        has_norms = hasattr(attention, "q_norm")  # Qwen3-VL
        self.q_norm: nn.Module = RMSNorm(attention.q_norm) if has_norms else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(attention.k_norm) if has_norms else nn.Identity()
        self.experts = Experts(mlp, config) if hasattr(mlp, "experts") else None
        if self.experts is None:
            self.gate = Affine.of(mlp.gate_proj)
            self.up = Affine.of(mlp.up_proj)
            self.down = Affine.of(mlp.down_proj)
        self.act = activation(config.hidden_act)
        self.rotary = Rotary()
        self.heads: int = config.num_attention_heads
        self.groups: int = config.num_key_value_heads
        self.width: int = attention.head_dim

    def forward(
        self,
        x_BLD: Tensor,
        cos_BLd: Tensor,
        sin_BLd: Tensor,
        visible: Tensor,
        only_BR1: Tensor | None,
    ) -> Tensor:
        """Computes all rows, (B, L, D) → (B, L, D), or some of them, → (B, R, D).

        Args:
            x_BLD: the residual stream.
            cos_BLd: cosines of the rotary angles.
            sin_BLd: sines.
            visible: bool mask that broadcasts to the scores, (B, H, L, L) or (B, H, R, L).
            only_BR1: int64 indices of the rows to compute; None computes all. Keys and values are
                computed of all rows in either case.
        """
        b, length, _ = x_BLD.shape
        # of all rows, even if only some are to be computed: keys and values are of all
        normed_BLD = self.norm1(x_BLD)
        cos, sin = cos_BLd[:, None], sin_BLd[:, None]
        k_BLGd = self.k_norm(self.k(normed_BLD).reshape(b, length, self.groups, self.width))
        k_BGLd = self.rotary(k_BLGd.transpose(1, 2), cos, sin)
        v_BGLd = self.v(normed_BLD).reshape(b, length, self.groups, self.width).transpose(1, 2)
        if only_BR1 is not None:
            x_BLD, normed_BLD = take_rows(x_BLD, only_BR1), take_rows(normed_BLD, only_BR1)
            cos, sin = take_rows(cos_BLd, only_BR1)[:, None], take_rows(sin_BLd, only_BR1)[:, None]
        rows = x_BLD.shape[1]
        q_BLHd = self.q_norm(self.q(normed_BLD).reshape(b, rows, self.heads, self.width))
        q_BHLd = self.rotary(q_BLHd.transpose(1, 2), cos, sin) * self.width**-0.5
        out_BHLd = attend(q_BHLd, self._repeat(k_BGLd), self._repeat(v_BGLd), visible)
        x_BLD = x_BLD + self.o(out_BHLd.transpose(1, 2).reshape(b, rows, self.heads * self.width))
        normed_BLD = self.norm2(x_BLD)
        if self.experts is not None:
            mixed_BLD: Tensor = self.experts(normed_BLD)
            return x_BLD + mixed_BLD
        return x_BLD + self.down(self.act(self.gate(normed_BLD)) * self.up(normed_BLD))

    def _repeat(self, x_BGLd: Tensor) -> Tensor:
        """Repeats each key/value head for the H / G query heads it serves: → (B, H, L, d)."""
        if self.heads == self.groups:
            return x_BGLd
        b, g, length, d = x_BGLd.shape
        repeated_BGRLd = x_BGLd[:, :, None].expand(b, g, self.heads // g, length, d)
        return repeated_BGRLd.reshape(b, self.heads, length, d)


def mean_upto(x_BLD: Tensor, last_B: Tensor) -> Tensor:
    """Takes the mean over the rows 0 to `last_B` of each batch entry: (B, L, D) → (B, D)."""
    columns_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
    # weights that add up to one: the sum of thousands of rows would exceed the range of FP16
    inside_BL = (columns_L[None] <= last_B[:, None]).float()
    share_BL = inside_BL / inside_BL.sum(1, keepdim=True)
    return torch.matmul(share_BL[:, None], x_BLD).flatten(1)


def last_layer(model: LaMEModel) -> Any:
    """Returns the head's linear layer."""
    return model.head.linear if isinstance(model.head, DenseHead) else model.head


def take_rows(x_BLD: Tensor, index_BR1: Tensor) -> Tensor:
    """Takes rows of each batch entry: (B, L, D) → (B, R, D)."""
    return x_BLD.gather(1, index_BR1.expand(-1, -1, x_BLD.shape[-1]))


class SinglePassEncoder(nn.Module):
    """The prompt, K reason rows and [EMBED] in one pass, without connector, decoder and LM head.

    Inputs: input_ids (B, L) int64 with latent ids in place, features (F, W) float32 with row 0
    zeros, feature_index (B, L) int64, position_ids (3, B, L) int64, embed_index (B) int64.
    Output: sentence_embedding (B, P) float32, unit rows.

    Args:
        model: the model whose weights are used, without a copy.
        table_VD: the token table, to take the place of `token_table(model)`, which is a copy.
    """

    def __init__(self, model: LaMEModel, table_VD: Tensor | None = None) -> None:
        super().__init__()
        language = model.backbone.language_model
        config = language.config
        self.table_VD = frozen(token_table(model) if table_VD is None else table_VD)
        self.angles = Angles(axis_frequencies(language.rotary_emb, config))
        self.blocks = nn.ModuleList([EncoderBlock(layer, config) for layer in language.layers])
        self.norm = RMSNorm(language.norm)
        self.unit = UnitNorm()
        self.head = None if isinstance(model.head, nn.Identity) else Affine.of(last_layer(model))
        self.tanh: bool = model.head_kind == "dense_tanh"
        self.n_reason: int = model.n_reason
        self.pooling = model.pooling
        self.hides_prompt: bool = model.embed_attends == "reason"
        self.levels = model.levels

    def forward(
        self,
        input_ids: Tensor,
        features: Tensor,
        feature_index: Tensor,
        position_ids: Tensor,
        embed_index: Tensor,
    ) -> Tensor:
        """Computes the embeddings; shapes as in the class."""
        x_BLD, deepstack = self._embedded(input_ids, features, feature_index)
        cos_BLd, sin_BLd = self.angles(position_ids)
        # masks are computed in the graph, so that the length stays dynamic
        columns_L = torch.arange(input_ids.shape[1], device=input_ids.device)
        # no padding mask: padding is on the right, where the causal mask hides it from [EMBED]
        visible = columns_L[None, :] <= columns_L[:, None]
        embed_B11 = embed_index[:, None, None]
        if self.hides_prompt:
            # [EMBED] sees the latent rows alone; all other rows keep the causal mask
            others_BL1 = columns_L[None, :, None] != embed_B11
            latent_B1L = columns_L >= embed_B11 - self.n_reason
            visible = (visible & (others_BL1 | latent_B1L))[:, None]
        for index, block in enumerate(self.blocks[:-1]):
            x_BLD = block(x_BLD, cos_BLd, sin_BLd, visible, None)
            # a level after the last block changes vision rows alone, which nothing reads any more,
            # and transformers ignores levels beyond it
            if index < self.levels:
                x_BLD = x_BLD + deepstack[index]  # zeros where there is no vision token
        last = self.blocks[-1]
        if self.pooling == "mean":
            h_BD = mean_upto(self.norm(last(x_BLD, cos_BLd, sin_BLd, visible, None)), embed_index)
            return self._finished(h_BD)
        # one vector comes out, so the last block computes only the rows it is made of: exact, and a
        # whole MLP cheaper
        rows_BR1 = embed_B11
        if self.pooling == "concat":
            offsets_K = torch.arange(-self.n_reason, 1, device=input_ids.device)
            rows_BR1 = embed_B11 + offsets_K[None, :, None]
        upto_B1RL = (columns_L <= rows_BR1)[:, None]
        if self.hides_prompt:
            upto_B1RL = upto_B1RL & ((rows_BR1 != embed_B11) | latent_B1L)[:, None]
        x_BRD = last(x_BLD, cos_BLd, sin_BLd, upto_B1RL, rows_BR1)
        return self._finished(self.norm(x_BRD).flatten(1))

    def _finished(self, h_BD: Tensor) -> Tensor:
        """Maps the pooled state to the vector, (B, D) → (B, P)."""
        e_BP = h_BD if self.head is None else self.head(h_BD)
        return self.unit(e_BP.tanh() if self.tanh else e_BP)

    def _embedded(
        self, input_ids: Tensor, features: Tensor, feature_index: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns the rows that enter the first block, and those deepstack adds after blocks."""
        tokens_BLD = F.embedding(input_ids, self.table_VD)
        # row 0 of the features is zeros, so that a text without pictures needs no case of its own:
        # a Gather from an empty tensor fails
        rows_BLW = F.embedding(feature_index, features)
        vision_BLD, *deepstack = rows_BLW.split(tokens_BLD.shape[-1], dim=-1)
        return torch.where(feature_index[:, :, None] > 0, vision_BLD, tokens_BLD), deepstack


def token_table(model: LaMEModel) -> Tensor:
    """Returns the token embeddings with the latent rows after them, (V, D); a copy."""
    # latent ids continue the vocabulary's, so that one lookup serves both
    return torch.cat(
        [model.backbone.get_input_embeddings().weight, model.reason_KD, model.embed_1D]
    ).detach()


def axis_frequencies(rotary: Any, config: Any) -> Tensor:
    """Returns M-RoPE's inverse frequencies (arXiv 2409.12191) by axis: float32 (3, d / 2).

    Each channel pair turns along one of the axes time, row and column, and is 0 on the others.
    Qwen2-VL and Qwen2.5-VL give each axis a run of channel pairs; Qwen3-VL deals them out in turn.
    """
    frequencies, section = rotary.inv_freq.float(), list(rotary.mrope_section)
    axis = torch.zeros(len(frequencies), dtype=torch.int64)
    if config.model_type.startswith("qwen3_vl"):
        # pairs 1, 4, 7, … turn along rows and 2, 5, 8, … along columns, as many as the section
        # says; all others turn along time
        for number in (1, 2):
            axis[number : 3 * section[number] : 3] = number
    else:
        axis = torch.repeat_interleave(torch.arange(len(section)) % 3, torch.tensor(section))
    return torch.stack([torch.where(axis == number, frequencies, 0.0) for number in range(3)])
