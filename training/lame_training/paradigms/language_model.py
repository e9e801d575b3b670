"""The backbone's language model as an inference engine runs it, written once for all paradigms and families.

transformers' forward serves training: it makes a mask per call, attends over the whole static cache and goes through
its cache's and its layers' interfaces. At one token per step that costs more than the arithmetic of a small model. Here
queries, keys and values are one product, gate and up another (the backbone keeps views of them, nothing is held twice), the
rotary table is made once, and a step attends over the valid slice of a preallocated cache: no mask and no padding anywhere.
Tests hold it against transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Layer(NamedTuple):
    """One block's weights and sizes; a NamedTuple, so that one compiled function serves all blocks."""

    input_norm_D: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norm_Hd: Tensor | None
    """Qwen3's norms of queries and keys, a row per head."""
    out: Tensor
    out_bias: Tensor | None
    post_norm_D: Tensor
    gate_up: Tensor
    down: Tensor
    heads: int
    kv_heads: int
    head_width: int
    scale: float
    eps: float


class Rotary(NamedTuple):
    """Cosines and sines of consecutive positions, (N, 1, d); the first half of the sines is negated."""

    cos: Tensor
    sin: Tensor

    def at(self, start: int, stop: int) -> Rotary:
        """The table of positions `start` to `stop`."""
        return Rotary(self.cos[start:stop], self.sin[start:stop])


@dataclass(frozen=True)
class Cache:
    """Preallocated keys and values, (layers, B, G, S, d) each."""

    keys: Tensor
    values: Tensor


def prefill_layer(layer: Layer, rows_BND: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """A block over a whole prompt, causal: its output (B, N, D), keys and values (B, G, N, d)."""
    q, k, v = _queries_keys_values(layer, rows_BND, rotary)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=layer.scale, enable_gqa=layer.heads != layer.kv_heads)
    return _finish(layer, rows_BND, mixed.transpose(1, 2).flatten(2)), k, v


def step_layer(layer: Layer, row_B1D: Tensor, rotary: Rotary, keys: Tensor, values: Tensor, position: int) -> Tensor:
    """A block over the one token at `position`, which it adds to the cache: (B, 1, D)."""
    q, k, v = _queries_keys_values(layer, row_B1D, rotary)
    keys[:, :, position : position + 1] = k.transpose(1, 2)
    values[:, :, position : position + 1] = v.transpose(1, 2)
    grouped = q.reshape(len(q), layer.kv_heads, -1, layer.head_width)  # the query heads of one key head, as if they were its rows
    mixed = F.scaled_dot_product_attention(grouped, keys[:, :, : position + 1], values[:, :, : position + 1], scale=layer.scale)
    return _finish(layer, row_B1D, mixed.reshape(len(q), 1, -1))


def _queries_keys_values(layer: Layer, rows_BND: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, heads, d) each, queries and keys rotated."""
    x = F.rms_norm(rows_BND, rows_BND.shape[-1:], layer.input_norm_D, layer.eps)
    heads = F.linear(x, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, layer.head_width))
    qk, v = heads.split([layer.heads + layer.kv_heads, layer.kv_heads], dim=2)
    if layer.qk_norm_Hd is not None:
        qk = F.rms_norm(qk, qk.shape[-1:], None, layer.eps) * layer.qk_norm_Hd
    first, second = qk.chunk(2, dim=-1)
    qk = torch.addcmul(qk * rotary.cos, torch.cat([second, first], dim=-1), rotary.sin)
    q, k = qk.split([layer.heads, layer.kv_heads], dim=2)
    return q, k, v


def _finish(layer: Layer, rows_BND: Tensor, mixed_BND: Tensor) -> Tensor:
    """Output projection and feed-forward, with their residuals."""
    rows_BND = rows_BND + F.linear(mixed_BND, layer.out, layer.out_bias)
    x = F.rms_norm(rows_BND, rows_BND.shape[-1:], layer.post_norm_D, layer.eps)
    gate, up = F.linear(x, layer.gate_up).chunk(2, dim=-1)
    return rows_BND + F.linear(F.silu(gate) * up, layer.down)


class LanguageModel:
    """The blocks, the final norm and the head of a backbone: its token table, as the 2B models tie them (an untied head costs the same).

    Args:
        text: `backbone.language_model` of any family. Its projections become views of joint weights; it works as before.
        compiled: run the blocks through `torch.compile`.
    """

    def __init__(self, text: Any, *, compiled: bool = False) -> None:
        self.text = text
        self.layers = [_layer(block, text.config) for block in text.layers]
        self.norm_D, self.eps = text.norm.weight, text.norm.variance_epsilon
        self.table_VD = text.embed_tokens.weight
        self.head_VD = _laid_out(self.table_VD)
        self._prefill_layer = torch.compile(prefill_layer, dynamic=True) if compiled else prefill_layer
        self._step_layer = torch.compile(step_layer, dynamic=True) if compiled else step_layer

    def cache(self, batch: int, positions: int) -> Cache:
        """Room for `positions` of `batch` rows."""
        layer = self.layers[0]
        shape = (len(self.layers), batch, layer.kv_heads, positions, layer.head_width)
        return Cache(self.table_VD.new_empty(shape), self.table_VD.new_empty(shape))

    def rotary(self, position_ids_3N: Tensor) -> Rotary:
        """The table of a batch whose rows share their positions."""
        cos_1Nd, sin_1Nd = self.text.rotary_emb(self.table_VD, position_ids_3N[:, None])
        sin_Nd = sin_1Nd[0].clone()
        sin_Nd[:, : sin_Nd.shape[1] // 2] *= -1
        return Rotary(cos_1Nd[0, :, None].contiguous(), sin_Nd[:, None])

    def prefill(self, rows_BND: Tensor, rotary: Rotary, cache: Cache | None = None, deepstack: Sequence[Tensor] = ()) -> Tensor:
        """States (B, N, D) before the final norm; keys and values go into the cache where there is one.

        Args:
            rows_BND: the prompt.
            rotary: of its N positions.
            cache: filled from position 0.
            deepstack: what is added behind the first blocks, (B, N, D) each, zero outside pictures.
        """
        for index, layer in enumerate(self.layers):
            rows_BND, keys, values = self._prefill_layer(layer, rows_BND, rotary)
            if cache is not None:
                cache.keys[index, :, :, : keys.shape[2]] = keys
                cache.values[index, :, :, : keys.shape[2]] = values
            if index < len(deepstack):
                rows_BND = rows_BND + deepstack[index]
        return rows_BND

    def step(self, row_B1D: Tensor, rotary: Rotary, cache: Cache, position: int) -> Tensor:
        """The state (B, 1, D) of the token at `position`, after the final norm."""
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            row_B1D = self._step_layer(layer, row_B1D, rotary, keys, values, position)
        return self.normed(row_B1D)

    def normed(self, states: Tensor) -> Tensor:
        """The final norm."""
        return F.rms_norm(states, states.shape[-1:], self.norm_D, self.eps)

    def greedy(self, normed_B1D: Tensor) -> Tensor:
        """The likeliest next token of each row, (B, 1), by the tied head."""
        return F.linear(normed_B1D, self.head_VD).argmax(dim=-1)


def _layer(block: Any, config: Any) -> Layer:
    attention, mlp = block.self_attn, block.mlp
    heads, kv_heads, head_width = config.num_attention_heads, config.num_key_value_heads, attention.head_dim
    norms = None
    if hasattr(attention, "q_norm"):
        norms = torch.cat([attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(kv_heads, -1)])
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    return Layer(
        block.input_layernorm.weight,
        _joined(qkv, "weight"),
        _joined(qkv, "bias") if attention.q_proj.bias is not None else None,
        norms,
        _joined([attention.o_proj], "weight"),
        attention.o_proj.bias,
        block.post_attention_layernorm.weight,
        _joined([mlp.gate_proj, mlp.up_proj], "weight"),
        _joined([mlp.down_proj], "weight"),
        heads,
        kv_heads,
        head_width,
        attention.scaling,
        block.input_layernorm.variance_epsilon,
    )


def _joined(linears: Sequence[nn.Linear], name: str) -> Tensor:
    """The weights (or biases) one below the other; the layers keep views of them, so nothing is held twice."""
    joint = _laid_out(torch.cat([getattr(linear, name).data for linear in linears]))
    start = 0
    for linear in linears:
        parameter = getattr(linear, name)
        parameter.data = joint[start : start + len(parameter)]
        start += len(parameter)
    return joint


def _laid_out(weight: Tensor) -> Tensor:
    """The same values as a CPU reads them fastest at 1 to 64 rows: stored by column, which spares the BLAS 10 to 30 % of a step."""
    return weight.t().contiguous().t() if weight.ndim == 2 and weight.device.type == "cpu" else weight
