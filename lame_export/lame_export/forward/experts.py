"""A mixture of experts in one graph, routed exactly, without shapes that depend on data.

Experts side by side are one wide gated MLP. Every token passes through it, and the routing weights
of the k experts that its router takes are multiplied into the activation; those of all others are
zeros. The sum over experts is then part of the last product:

    x (…, D) ─┬ gate (D, E I), up (D, E I) ─ act(gate) · up (…, E I) ─ · routing ─ down (E I, D) ─ y
              └ router (D, E) ─ softmax ─ k largest ─ divided by their sum (…, E) ───┘

The layers are ordinary linear ones to every rewrite. They take E / k times the arithmetic of the k
experts: the price of a graph whose shapes do not depend on data. For CPUs `rewrites.fuse_experts`
puts ONNX Runtime's operator in their place, which computes the k experts alone. Measured on 2 cores
with E = 32, k = 4, D = 512, I = 256 and 512 tokens: one MLP per expert 270 ms, this form 161 ms,
tokens sorted into blocks whose weights are gathered 76 ms (32 ms instead of 2 for one token, and no
INT8, which TensorRT 10.3 cannot gather), the operator 16 ms.

Axes, besides the package's: E experts, I width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lame_export.forward.layers import Affine, activation, frozen, without_memory


class Router(nn.Module):
    """The weight of every expert for every token: softmax, the k largest, divided by their sum.

    It has a class of its own, so that it stays in FP32 and is never quantized: a small error in a
    score may select another expert, instead of changing a weight a little.
    """

    def __init__(self, router: Any) -> None:
        super().__init__()
        self.weight_io = frozen(router.weight.t())
        self.count, self.taken = int(router.num_experts), int(router.top_k)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, D) → (…, E): at most k weights that add up to 1, and zeros."""
        shares = torch.softmax(torch.matmul(x, self.weight_io), dim=-1)
        largest, index = torch.topk(shares, self.taken, dim=-1)
        weights = largest / largest.sum(-1, keepdim=True)
        # compared by index and not by size: of two equal shares, only one may be the k-th
        is_taken = index[..., None] == torch.arange(self.count, device=x.device)
        return torch.where(is_taken, weights[..., None], 0.0).sum(-2)


class WideAffine(Affine):
    """The same linear layer of all experts as one.

    transformers keeps (E, out, in), of which W is a copy. It is made when it is needed, so that no
    more than one layer is held twice: in every run of PyTorch, and when a graph is written.

    Args:
        weight_Eoi: the experts' weights.
        to_wide: makes W (in, out) of them.
    """

    def __init__(self, weight_Eoi: Tensor, to_wide: Callable[[Tensor], Tensor]) -> None:
        nn.Module.__init__(self)
        self.weight_io, self.bias = frozen(weight_Eoi), None
        self._to_wide = to_wide

    def take_weight(self) -> Callable[[], Tensor]:
        """Replaces W by one of its shape without memory, to be traced; returns what computes it."""
        stored, to_wide = self.weight_io.detach(), self._to_wide
        # on the meta device nothing is copied to learn the shape
        self.weight_io = frozen(without_memory(to_wide(stored.to("meta")).shape))
        return lambda: to_wide(stored)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in) → (…, out)."""
        is_stored = self.weight_io.ndim == 3
        return torch.matmul(x, self._to_wide(self.weight_io) if is_stored else self.weight_io)


def side_by_side(weight_EID: Tensor) -> Tensor:
    """Returns W of layers whose outputs stand side by side: (E, I, D) → (D, E I)."""
    return weight_EID.flatten(0, 1).t()


def one_below_another(weight_EDI: Tensor) -> Tensor:
    """Returns W of layers whose outputs are added: (E, D, I) → (E I, D)."""
    return weight_EDI.transpose(1, 2).flatten(0, 1)


class Experts(nn.Module):
    """A router and its experts, each a gated MLP.

    Args:
        mlp: the `Qwen3VLMoeTextSparseMoeBlock` whose weights are used, without a copy.
        config: the language model's config.
    """

    def __init__(self, mlp: Any, config: Any) -> None:
        super().__init__()
        gate_EID, up_EID = mlp.experts.gate_up_proj.chunk(2, dim=1)
        self.router = Router(mlp.gate)
        self.gate = WideAffine(gate_EID, side_by_side)
        self.up = WideAffine(up_EID, side_by_side)
        self.down = WideAffine(mlp.experts.down_proj, one_below_another)
        self.act = activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, D) → (…, D)."""
        weights = self.router(x)[..., None]
        wide = self.act(self.gate(x)) * self.up(x)
        by_expert = wide.unflatten(-1, (self.router.count, -1))
        # not the product alone: an expert that was not taken must not make 0 · ∞ = NaN
        return self.down(torch.where(weights > 0, by_expert * weights, 0.0).flatten(-2))
