"""Layers that both forwards are made of.

Each is built over the weights of a module of transformers, without a copy. Class names tell later
passes what a node belongs to: FP16 typing keeps norms, rotary embedding, angles and interpolation
in FP32, and only the MatMuls of `Affine` are quantized.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name PyTorch's own documentation uses)
from lame_runtime.errors import ExportError
from torch import Tensor, nn

MASKED = -65504.0
"""Score of a masked key: half's lowest finite value, so finite in every type of graph.

It vanishes in the softmax. Minus infinity would make the softmax of a row NaN if all of its keys
are masked.
"""

BLOCK_SCORES = 1 << 24
"""Attention scores that PyTorch computes at a time when it runs the forward: 64 MB."""


def frozen(weight: Tensor) -> nn.Parameter:
    """Makes a parameter without gradient over the same memory."""
    # a parameter of its own: `trace` replaces its data, and the model's must stay
    return nn.Parameter(weight.detach(), requires_grad=False)


def without_memory(shape: Sequence[int]) -> Tensor:
    """Makes a tensor of this shape that holds a single zero, seen at every place."""
    return torch.zeros(1).expand(tuple(shape))


class Affine(nn.Module):
    """A linear layer: x W + b.

    W is stored (in, out), the layout that ONNX's MatMul and the quantizers want, so that the graph
    needs no transposition.

    Args:
        weight_oi: (out, in), as PyTorch keeps it.
        bias: (out,) or None.
    """

    def __init__(self, weight_oi: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight_io = frozen(weight_oi.t())  # a view, so still the checkpoint's memory
        self.bias = None if bias is None else frozen(bias)

    @staticmethod
    def of(linear: Any) -> Affine:
        """Makes the layer over the weights of an `nn.Linear`."""
        return Affine(linear.weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in) → (…, out)."""
        # two nodes, not one Gemm: the quantizers replace the product and leave the bias to itself
        y = torch.matmul(x, self.weight_io)
        return y if self.bias is None else y + self.bias


class RMSNorm(nn.Module):
    """The RMS norm, x / rms(x) · weight (arXiv 1910.07467)."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = frozen(norm.weight)
        self.eps = float(norm.variance_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes the last axis; the shape stays."""
        # `rewrites.fuse` reads ε from the only addition of this module
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class LayerNorm(nn.Module):
    """The layer norm, (x - mean) / deviation · weight + bias."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.bias = frozen(norm.weight), frozen(norm.bias)
        self.eps = float(norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes the last axis; the shape stays."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


def norm_of(norm: Any) -> nn.Module:
    """Makes the norm that a family has in this place: a layer norm or an RMS norm."""
    return LayerNorm(norm) if isinstance(norm, nn.LayerNorm) else RMSNorm(norm)


class UnitNorm(nn.Module):
    """Division by the Euclidean norm, x / |x|."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes the last axis to unit length; the shape stays."""
        return x / torch.sqrt((x * x).sum(-1, keepdim=True))


class Rotary(nn.Module):
    """Rotary embedding (arXiv 2104.09864) of channel pairs (i, i + d / 2) by an angle each."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotates (…, d) by tables of cosines and sines that broadcast to it."""
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin


class Angles(nn.Module):
    """Cosines and sines of the rotary embedding, for positions on one or more axes.

    Args:
        frequencies: float32 (axes, d / 2): the inverse frequency with which each channel pair turns
            along each axis of the positions, 0 if another axis turns it.
    """

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.frequencies = frozen(frequencies.float())

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Maps int64 (axes, …) → cosines and sines, (…, d) each."""
        turned = positions.to(torch.float32)[..., None]
        # a sum over axes whose other terms are 0: no gather by axis, which would differ by family
        half = turned[0] * self.frequencies[0]
        for axis in range(1, len(self.frequencies)):
            half = half + turned[axis] * self.frequencies[axis]
        # both channels of a pair turn by the same angle; `rewrites.fuse` relies on this Concat
        angles = torch.cat((half, half), dim=-1)
        return angles.cos(), angles.sin()


class Interpolation(nn.Module):
    """Position embeddings read from a learned square grid, by four weighted taps per patch."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.table = frozen(embedding.weight)

    def forward(self, index_4S: Tensor, weight_4S: Tensor) -> Tensor:
        """Maps taps, int64 (4, S), and their weights, float32 (4, S), → (S, C)."""
        return (F.embedding(index_4S, self.table) * weight_4S[:, :, None]).sum(0)


def quick_gelu(x: Tensor) -> Tensor:
    """Computes x · sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def silu(x: Tensor) -> Tensor:
    """Computes x · sigmoid(x)."""
    return x * torch.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """Computes the exact GELU, x · Φ(x)."""
    # by Erf: the Gelu operator is not in TensorRT 10.3's list
    return 0.5 * x * (1 + torch.erf(x * 2**-0.5))


def gelu_tanh(x: Tensor) -> Tensor:
    """Computes the tanh form of GELU, as x · sigmoid(2u) with u = √(2/π) (x + 0.044715 x³)."""
    # (1 + tanh(u)) / 2 = sigmoid(2u). The cube is not computed: half precision overflows at 40³
    rate = 2 * math.sqrt(2 / math.pi)
    return x * torch.sigmoid(x * (rate + rate * 0.044715 * (x * x)))


ACTIVATIONS = {"quick_gelu": quick_gelu, "silu": silu, "gelu": gelu, "gelu_pytorch_tanh": gelu_tanh}
"""Activation functions, by the names that configs use."""


def activation(name: str) -> Any:
    """Returns the activation function of a config.

    Raises:
        ExportError: no family is published with it.
    """
    if name not in ACTIVATIONS:
        raise ExportError(f"hidden_act is {name!r}; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def attend(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, visible: Tensor | None) -> Tensor:
    """Computes attention, softmax(q kᵀ) v.

    Args:
        q_BHLd: queries, already scaled by 1/√d; to scale the scores instead would let them leave
            half's range first.
        k_BHLd: keys.
        v_BHLd: values.
        visible: bool mask that broadcasts to the scores (B, H, L, L), or None.
    """
    if torch.compiler.is_exporting():
        return attend_at_once(q_BHLd, k_BHLd, v_BHLd, visible)
    # run by PyTorch itself, over blocks of queries, because the scores of a long input do not fit
    size = max(1, BLOCK_SCORES // math.prod(k_BHLd.shape[:-1]))
    parts = []
    for start in range(0, q_BHLd.shape[2], size):
        rows = slice(start, start + size)
        # a mask of padded keys has one row for all queries
        by_query = visible is not None and visible.shape[-2] > 1
        seen = visible[..., rows, :] if by_query else visible  # type: ignore[index]
        parts.append(attend_at_once(q_BHLd[:, :, rows], k_BHLd, v_BHLd, seen))
    return torch.cat(parts, dim=2)


def attend_at_once(
    q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, visible: Tensor | None
) -> Tensor:
    """Computes attention as the graph has it; shapes as in `attend`."""
    scores = torch.matmul(q_BHLd, k_BHLd.transpose(-1, -2))
    if visible is not None:
        scores = torch.where(visible, scores, MASKED)
    return torch.matmul(torch.softmax(scores, dim=-1), v_BHLd)
