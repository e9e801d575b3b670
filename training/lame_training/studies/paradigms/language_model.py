"""The backbone's language model as an inference engine runs it, written once for all families.

The forward pass of transformers serves training: it makes a mask per call, attends over the whole
static cache, and goes through the interfaces of its caches and layers. At one token per step that
costs more than the arithmetic of a small model, so a comparison on it would measure overhead.

Here queries, keys and values are one matrix product, and so are gate and up projections; the
rotary table is computed once; a step attends over the filled part of a preallocated cache. There
are no masks and no padding. Tests compare the results with those of transformers.

Axes are those of the package's docstring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from lame_runtime.errors import UsageError
from torch import Tensor, nn


# A NamedTuple, because torch.compile takes the fields of a tuple as inputs: one compiled function
# then serves all blocks.
class Layer(NamedTuple):
    """Weights and sizes of one transformer block; matrices are (outputs, inputs)."""

    input_norm_D: Tensor
    qkv: Tensor
    """Projections of queries, keys and values, one below the other."""
    qkv_bias: Tensor | None
    """None in Qwen3-VL."""
    qk_norm_Hd: Tensor | None
    """Weights of Qwen3-VL's norms of queries and keys, one row per head; None in Qwen2-VL."""
    out: Tensor
    out_bias: Tensor | None
    post_norm_D: Tensor
    gate_up: Tensor
    """Gate and up projections, one below the other."""
    down: Tensor
    heads: int
    """Query heads."""
    kv_heads: int
    """G."""
    head_width: int
    """d."""
    scale: float
    """Factor on the attention scores."""
    eps: float
    """Epsilon of the norms."""


class Rotary(NamedTuple):
    """Cosines and sines of consecutive positions, (N, 1, d) each.

    The first half of the sines is negated, so that a rotation needs no negation of its own.
    """

    cos: Tensor
    sin: Tensor

    def slice(self, start: int, stop: int) -> Rotary:
        """Returns the table of positions `start` to `stop` (exclusive), as a view."""
        return Rotary(self.cos[start:stop], self.sin[start:stop])


@dataclass(frozen=True)
class KVCache:
    """Preallocated keys and values, (layers, B, G, S, d) each."""

    keys: Tensor
    values: Tensor


def prefill_layer(layer: Layer, rows_BND: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """Runs a block over a whole prompt with causal attention.

    Returns:
        The output (B, N, D), and keys and values (B, G, N, d).
    """
    q_BNHd, k_BNGd, v_BNGd = _queries_keys_values(layer, rows_BND, rotary)
    q, k, v = q_BNHd.transpose(1, 2), k_BNGd.transpose(1, 2), v_BNGd.transpose(1, 2)
    mixed = F.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=layer.scale, enable_gqa=layer.heads != layer.kv_heads
    )
    return _finish_layer(layer, rows_BND, mixed.transpose(1, 2).flatten(2)), k, v


def step_layer(
    layer: Layer, row_B1D: Tensor, rotary: Rotary, keys: Tensor, values: Tensor, position: int
) -> Tensor:
    """Runs a block over the one token at `position`, and adds its key and value to the cache.

    Args:
        layer: the block.
        row_B1D: the token's row.
        rotary: the table of this one position.
        keys: the layer's keys (B, G, S, d); written at `position`.
        values: the layer's values (B, G, S, d); written at `position`.
        position: index of the token, which attends to all positions up to its own.

    Returns:
        The output (B, 1, D).
    """
    q, k, v = _queries_keys_values(layer, row_B1D, rotary)
    keys[:, :, position : position + 1] = k.transpose(1, 2)
    values[:, :, position : position + 1] = v.transpose(1, 2)
    # Grouped-query attention: the query heads that share a key head become rows of that head, so
    # keys are not repeated. A causal mask would not fit this form, but one token needs none.
    grouped = q.reshape(len(q), layer.kv_heads, -1, layer.head_width)
    # A slice up to the position instead of a mask over all of S: attention reads no more than
    # there is, which is what makes early steps cheap.
    mixed = F.scaled_dot_product_attention(
        grouped, keys[:, :, : position + 1], values[:, :, : position + 1], scale=layer.scale
    )
    return _finish_layer(layer, row_B1D, mixed.reshape(len(q), 1, -1))


def _queries_keys_values(
    layer: Layer, rows_BND: Tensor, rotary: Rotary
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns queries, keys and values, (B, N, heads, d) each; queries and keys are rotated."""
    x = F.rms_norm(rows_BND, rows_BND.shape[-1:], layer.input_norm_D, layer.eps)
    heads = F.linear(x, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, layer.head_width))
    # queries and keys stay together through norm and rotation: one kernel instead of two
    qk, v = heads.split([layer.heads + layer.kv_heads, layer.kv_heads], dim=2)
    # without a weight and then times the rows, because rms_norm takes one weight for all heads
    if layer.qk_norm_Hd is not None:
        qk = F.rms_norm(qk, qk.shape[-1:], None, layer.eps) * layer.qk_norm_Hd
    # x·cos + rotate_half(x)·sin; the sign of rotate_half is in the table, see `Rotary`
    first, second = qk.chunk(2, dim=-1)
    qk = torch.addcmul(qk * rotary.cos, torch.cat([second, first], dim=-1), rotary.sin)
    q, k = qk.split([layer.heads, layer.kv_heads], dim=2)
    return q, k, v


def _finish_layer(layer: Layer, rows_BND: Tensor, mixed_BND: Tensor) -> Tensor:
    """Applies output projection and feed-forward layer, each with its residual connection."""
    rows_BND = rows_BND + F.linear(mixed_BND, layer.out, layer.out_bias)
    x = F.rms_norm(rows_BND, rows_BND.shape[-1:], layer.post_norm_D, layer.eps)
    gate, up = F.linear(x, layer.gate_up).chunk(2, dim=-1)
    return rows_BND + F.linear(F.silu(gate) * up, layer.down)


class LanguageModel:
    """The blocks, the final norm and the LM head of a backbone.

    The head is the token table, because the 2B models tie them; an untied head costs the same.

    Args:
        text: `backbone.language_model` of any family. Its projections become views of the joined
            weights; it works as before.
        compiled: run the blocks through `torch.compile`.

    Raises:
        UsageError: the backbone has a mixture of experts.
    """

    def __init__(self, text: Any, *, compiled: bool = False) -> None:
        if getattr(text.config, "num_experts", None):
            raise UsageError(
                "`backbone` has experts, which this comparison does not time: use one without"
            )
        self.text = text
        self.layers = [_join_layer(block, text.config) for block in text.layers]
        self.norm_D = text.norm.weight
        self.eps = text.norm.variance_epsilon
        self.table_VD = text.embed_tokens.weight
        self.head_VD = _column_major(self.table_VD)
        self._prefill_layer = prefill_layer
        self._step_layer = step_layer
        if compiled:
            # dynamic, or every prompt length and every position of a step would be compiled
            self._prefill_layer = torch.compile(prefill_layer, dynamic=True)
            self._step_layer = torch.compile(step_layer, dynamic=True)

    def cache(self, batch: int, positions: int) -> KVCache:
        """Allocates a cache for `batch` rows of `positions` positions."""
        layer = self.layers[0]
        shape = (len(self.layers), batch, layer.kv_heads, positions, layer.head_width)
        # uninitialized: attention never reads a position that was not written
        return KVCache(self.table_VD.new_empty(shape), self.table_VD.new_empty(shape))

    def rotary(self, position_ids_3N: Tensor) -> Rotary:
        """Computes the rotary table of a batch whose rows share their positions."""
        cos_1Nd, sin_1Nd = self.text.rotary_emb(self.table_VD, position_ids_3N[:, None])
        # cloned, because the next line writes into it
        sin_Nd = sin_1Nd[0].clone()
        sin_Nd[:, : sin_Nd.shape[1] // 2] *= -1
        return Rotary(cos_1Nd[0, :, None].contiguous(), sin_Nd[:, None])

    def prefill(
        self,
        rows_BND: Tensor,
        rotary: Rotary,
        cache: KVCache | None = None,
        deepstack: Sequence[Tensor] = (),
    ) -> Tensor:
        """Runs all blocks over a prompt.

        Args:
            rows_BND: the rows that the first block reads.
            rotary: the table of its N positions.
            cache: filled from position 0; None keeps no keys and values.
            deepstack: rows to add after the first blocks, (B, N, D) each, zero outside pictures.

        Returns:
            The states (B, N, D) before the final norm.
        """
        # in one call per block, not one function over all: compiling would unroll the blocks
        for index, layer in enumerate(self.layers):
            rows_BND, keys, values = self._prefill_layer(layer, rows_BND, rotary)
            if cache is not None:
                cache.keys[index, :, :, : keys.shape[2]] = keys
                cache.values[index, :, :, : keys.shape[2]] = values
            if index < len(deepstack):
                rows_BND = rows_BND + deepstack[index]
        return rows_BND

    def step(self, row_B1D: Tensor, rotary: Rotary, cache: KVCache, position: int) -> Tensor:
        """Runs all blocks over the token at `position`; returns its state after the final norm.

        The state is (B, 1, D). Keys and values of the token are added to the cache.
        """
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            row_B1D = self._step_layer(layer, row_B1D, rotary, keys, values, position)
        return self.final_norm(row_B1D)

    def final_norm(self, states: Tensor) -> Tensor:
        """Applies the final norm to states (…, D)."""
        return F.rms_norm(states, states.shape[-1:], self.norm_D, self.eps)

    def greedy(self, normed_B1D: Tensor) -> Tensor:
        """Returns each row's likeliest next token by the tied head: int64 (B, 1)."""
        return F.linear(normed_B1D, self.head_VD).argmax(dim=-1)


def _join_layer(block: Any, config: Any) -> Layer:
    """Returns a transformers block as a `Layer`; the block's projections become views of it."""
    attention, mlp = block.self_attn, block.mlp
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    norms = None
    # only Qwen3-VL normalizes queries and keys
    if hasattr(attention, "q_norm"):
        # transformers has one weight for all heads; a row per head fits the joined tensor
        norms = torch.cat(
            [
                attention.q_norm.weight.expand(heads, -1),
                attention.k_norm.weight.expand(kv_heads, -1),
            ]
        )
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    return Layer(
        input_norm_D=block.input_layernorm.weight,
        qkv=_join(qkv, "weight"),
        qkv_bias=_join(qkv, "bias") if attention.q_proj.bias is not None else None,
        qk_norm_Hd=norms,
        out=_join([attention.o_proj], "weight"),
        out_bias=attention.o_proj.bias,
        post_norm_D=block.post_attention_layernorm.weight,
        gate_up=_join([mlp.gate_proj, mlp.up_proj], "weight"),
        down=_join([mlp.down_proj], "weight"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=attention.head_dim,
        scale=attention.scaling,
        eps=block.input_layernorm.variance_epsilon,
    )


def _join(linears: Sequence[nn.Linear], name: str) -> Tensor:
    """Stacks the weights (or biases) of linear layers, which keep views of the result."""
    joined = _column_major(torch.cat([getattr(linear, name).data for linear in linears]))
    start = 0
    for linear in linears:
        parameter = getattr(linear, name)
        # a view, so that the weights are held once
        parameter.data = joined[start : start + len(parameter)]
        start += len(parameter)
    return joined


def _column_major(weight: Tensor) -> Tensor:
    """Returns the same values, on a CPU stored by column.

    At 1 to 64 rows per product this saves the BLAS library 10 to 30 % of a step.
    """
    if weight.ndim != 2 or weight.device.type != "cpu":
        return weight
    return weight.t().contiguous().t()
