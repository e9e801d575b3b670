"""The layers both forwards are made of. Their class names tell later passes what a node belongs to."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lame_export.errors import ExportError

MASKED = -65504.0
"""Lowest finite half: a masked score that stays finite in every type and vanishes in the softmax."""


def frozen(weight: Tensor) -> nn.Parameter:
    """A parameter over the same memory."""
    return nn.Parameter(weight.detach(), requires_grad=False)


class Affine(nn.Module):
    """x W + b with W stored (in, out), the layout ONNX's MatMul and the quantisers want.

    Args:
        weight_oi: (out, in), as PyTorch keeps it.
        bias: (out,) or None.
    """

    def __init__(self, weight_oi: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight_io = frozen(weight_oi.t())
        self.bias = None if bias is None else frozen(bias)

    @staticmethod
    def of(linear: Any) -> Affine:
        """Over the weights of an `nn.Linear`."""
        return Affine(linear.weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        y = torch.matmul(x, self.weight_io)
        return y if self.bias is None else y + self.bias


class RMSNorm(nn.Module):
    """x / rms(x) · weight."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = frozen(norm.weight)
        self.eps = float(norm.variance_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


class LayerNorm(nn.Module):
    """(x - mean) / deviation · weight + bias."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.bias = frozen(norm.weight), frozen(norm.bias)
        self.eps = float(norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


def norm_of(norm: Any) -> nn.Module:
    """The norm a family has in this place."""
    return LayerNorm(norm) if isinstance(norm, nn.LayerNorm) else RMSNorm(norm)


class UnitNorm(nn.Module):
    """x / |x|."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x / torch.sqrt((x * x).sum(-1, keepdim=True))


class Rotary(nn.Module):
    """Rotates pairs of channels (i, i + half) by an angle: x · cos + rotate_half(x) · sin."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(…, d) with cos and sin broadcastable to it."""
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin


class Angles(nn.Module):
    """Cosines and sines of the rotary embedding.

    Args:
        frequencies: float32 (axes, d / 2): the inverse frequency with which each channel pair turns along each
            axis of the positions, 0 where another axis turns it.
    """

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.frequencies = frozen(frequencies.float())

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int64 (axes, …) → two of (…, d)."""
        turned = positions.to(torch.float32)[..., None]
        half = turned[0] * self.frequencies[0]
        for axis in range(1, len(self.frequencies)):
            half = half + turned[axis] * self.frequencies[axis]
        angles = torch.cat((half, half), dim=-1)
        return angles.cos(), angles.sin()


class Interpolation(nn.Module):
    """Position embeddings taken from a learned square grid by four taps."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.table = frozen(embedding.weight)

    def forward(self, index_4S: Tensor, weight_4S: Tensor) -> Tensor:
        """int64 and float32 (4, S) → (S, C)."""
        return (F.embedding(index_4S, self.table) * weight_4S[:, :, None]).sum(0)


def quick_gelu(x: Tensor) -> Tensor:
    """X · sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def silu(x: Tensor) -> Tensor:
    """X · sigmoid(x)."""
    return x * torch.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """X · Φ(x), exact."""
    return 0.5 * x * (1 + torch.erf(x * 2**-0.5))


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU's tanh form, as x · sigmoid(…) and without x³, which leaves half precision at 40."""
    rate = 2 * math.sqrt(2 / math.pi)
    return x * torch.sigmoid(x * (rate + rate * 0.044715 * (x * x)))


ACTIVATIONS = {"quick_gelu": quick_gelu, "silu": silu, "gelu": gelu, "gelu_pytorch_tanh": gelu_tanh}


def activation(name: str) -> Any:
    """By the name configs use; raises `ExportError` for one that no family is published with."""
    if name not in ACTIVATIONS:
        raise ExportError(f"hidden_act is {name!r}; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def attend(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, visible: Tensor | None) -> Tensor:
    """softmax(q kᵀ) v with q already scaled; `visible` is a bool mask broadcastable to the scores, or None."""
    scores = torch.matmul(q_BHLd, k_BHLd.transpose(-1, -2))
    if visible is not None:
        scores = torch.where(visible, scores, MASKED)
    return torch.matmul(torch.softmax(scores, dim=-1), v_BHLd)
