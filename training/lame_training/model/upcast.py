"""Computes in FP32 with weights that are stored in half precision.

The reference of every export is PyTorch in FP32. Widening a whole model of 2 B parameters would
take 9 GB, so the weights stay mapped from the disk in their stored type, and a block is widened
only while it runs. At any time, memory holds no more than one block in FP32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def compute_in_fp32(module: nn.Module) -> None:
    """Makes every block of `module` compute in FP32, by forward hooks.

    Blocks whose weights are FP32 already are left alone.
    """
    for block in _blocks(module):
        if any(parameter.dtype != torch.float32 for parameter in block.parameters()):
            stored: dict[str, Tensor] = {}
            block.register_forward_pre_hook(_widen(stored))
            # `always_call`: a block that raises must not keep its FP32 copy
            block.register_forward_hook(_restore(stored), always_call=True)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the members of module lists, and the modules beside such lists."""
    # a module list is a stack of transformer blocks, which are alike in size; what lies beside it
    # (embedding table, norms, head) is widened as a whole
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        elif any(isinstance(descendant, nn.ModuleList) for descendant in child.modules()):
            yield from _blocks(child)
        # modules without parameters have nothing to widen
        elif next(child.parameters(), None) is not None:
            yield child


def _widen(stored: dict[str, Tensor]) -> Any:
    """Returns a hook that moves a block's parameters to `stored` and puts FP32 copies there."""

    def hook(block: nn.Module, _: Any) -> None:
        for name, parameter in block.named_parameters():
            stored[name] = parameter.data
            parameter.data = parameter.data.float()

    return hook


def _restore(stored: dict[str, Tensor]) -> Any:
    """Returns a hook that puts the parameters in `stored` back, which frees the FP32 copies."""

    def hook(block: nn.Module, *_: Any) -> None:
        for name, parameter in block.named_parameters():
            parameter.data = stored.pop(name)

    return hook
