"""Computing in FP32 with weights stored in half: each block is widened while it runs, and only then.

The reference of every export is PyTorch in FP32. A model of 2 B parameters would take 9 GB for it; so its weights stay
mapped from the disk in the type they have, and the largest block is all that is held in FP32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def compute_in_fp32(module: nn.Module) -> None:
    """Lets every block of `module` compute in FP32; weights already in FP32 are left alone."""
    for unit in _units(module):
        if any(parameter.dtype != torch.float32 for parameter in unit.parameters()):
            stored: dict[str, Tensor] = {}
            unit.register_forward_pre_hook(_widen(stored))
            unit.register_forward_hook(_restore(stored), always_call=True)


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """The members of lists of blocks, and what lies outside such lists."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        elif any(isinstance(each, nn.ModuleList) for each in child.modules()):
            yield from _units(child)
        elif next(child.parameters(), None) is not None:
            yield child


def _widen(stored: dict[str, Tensor]) -> Any:
    def hook(unit: nn.Module, _: Any) -> None:
        for name, parameter in unit.named_parameters():
            stored[name] = parameter.data
            parameter.data = parameter.data.float()

    return hook


def _restore(stored: dict[str, Tensor]) -> Any:
    def hook(unit: nn.Module, *_: Any) -> None:
        for name, parameter in unit.named_parameters():
            parameter.data = stored.pop(name)

    return hook
