"""Plans how an export uses memory, and refuses one that cannot fit before it starts.

    fixed      the libraries, and the largest weight in FP32, of which conversions hold copies
    input      what the longest text and the largest picture take, which cannot be divided
    spare      what is left: for weights that stay loaded between runs

Weights that are not loaded are mapped from the disk; the system drops their pages when it needs
memory, so they count for nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lame_runtime.contract import Contract
from lame_runtime.errors import ExportError
from lame_runtime.machine.memory import GIB, available_memory

from lame_export.engine.largest import largest_patches

LIBRARIES = 1_500_000_000
"""Bytes that PyTorch, transformers and ONNX Runtime take once they are loaded."""
WEIGHT_COPIES = 2.5
"""FP32 copies of the largest weight that are held while it is converted, measured and written."""
INPUT_VALUES = 6
"""Values per position that are held at once, in units of a hidden state and an MLP's activation.

Measured on the scan, which holds most: 4 with 8,192 tokens and 16,384 patches of a model with the
widths of Qwen3-VL-2B; the rest is room for other lengths and for memory that the C library keeps.
"""
SHARE = 0.9
"""Share of the available memory that an export takes unless it is given a limit."""
KEPT_PARTS = 8
"""A graph stays loaded if its weights take at most 1/8 of what is spare: two graphs may be kept,
each with a copy in the layout that ONNX Runtime computes with, while others are being written."""
PLAN_COPIES = 3
"""Copies of a graph's weights that TensorRT-RTX holds when it builds a plan: the parser's, the
builder's and the plan itself (measured: 3.0 for FP32 and FP16 graphs)."""
PLAN_BYTES = 500_000_000
"""Bytes that TensorRT-RTX takes in addition to the weights."""


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of one export, in bytes."""

    limit: int
    """Most memory that the export may take."""
    needed: int
    """Least memory that the export needs."""

    @property
    def spare(self) -> int:
        """Bytes that weights may take."""
        return max(0, self.limit - self.needed)

    @property
    def keep(self) -> int:
        """Bytes of weights up to which a graph stays loaded between runs."""
        return self.spare // KEPT_PARTS

    def can_build(self, weights: int) -> bool:
        """Returns whether TensorRT-RTX can build a plan of a graph with `weights` bytes."""
        return LIBRARIES + PLAN_BYTES + PLAN_COPIES * weights <= self.limit


def plan_memory(
    widths: Mapping[str, Mapping[str, int]],
    largest_weight: int,
    contract: Contract,
    gib: float | None = None,
) -> MemoryPlan:
    """Plans the memory of an export.

    Args:
        widths: hidden width and MLP width of "encoder" and "vision", from `model_widths`.
        largest_weight: number of values of the largest weight.
        contract: its limits give the longest input.
        gib: most that the export may take, in GiB; None takes what the machine has available.

    Raises:
        ExportError: it cannot fit; the message says what it needs, what there is, what to change.
    """
    positions = {"encoder": contract.tokens.max_length, "vision": largest_patches(contract)}
    values = max(
        count * (widths[part]["hidden"] + widths[part]["mlp"]) for part, count in positions.items()
    )
    needed = LIBRARIES + round(4 * (WEIGHT_COPIES * largest_weight + INPUT_VALUES * values))
    available = available_memory()
    allowed = None if gib is None else round(gib * GIB)
    if allowed is not None and (available is None or allowed <= available):
        limit, there = allowed, f"`memory` allows {allowed / 1e9:.1f} GB"
    elif available is not None:
        # all of it only if that was asked for: other programs may start
        limit = round(available if allowed is not None else SHARE * available)
        there = f"{limit / 1e9:.1f} GB are available here"
    else:
        # a system that does not tell; the kernel then decides
        return MemoryPlan(max(needed, 16 * GIB), needed)
    if needed > limit:
        raise ExportError(
            f"with inputs of up to {positions['encoder']:,} tokens and {positions['vision']:,} "
            f"patches, this model needs {needed / 1e9:.1f} GB of memory, and {there}: raise the "
            "limit, close other programs, use a larger machine, or train with a smaller budget of "
            "`max_length` or `max_pixels`"
        )
    return MemoryPlan(limit, needed)
