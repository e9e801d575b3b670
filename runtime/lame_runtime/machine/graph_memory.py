"""Memory of a graph on a CPU: refused before it is loaded, and batches that fit beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lame_runtime.batching import MAX_TOKENS
from lame_runtime.errors import BackendError
from lame_runtime.files.graphs.onnx_graph import data_names
from lame_runtime.machine.memory import GIB, available_memory, file_size

LIBRARIES = 150_000_000
"""Bytes that ONNX Runtime takes besides weights and activations."""
WIDENED = ("fp16",)
"""Graphs whose weights ONNX Runtime holds in FP32 on a CPU."""
TOKEN_VALUES = 3.5
"""Values per token that a run holds at once, in units of a hidden state and an MLP's activation.

Measured on `fp32-cpu` with 8,192 tokens and the widths of Qwen3-VL-2B: 2.5; the rest is room.
"""


class Widths(Protocol):
    """Defines what is needed of a part's widths."""

    @property
    def hidden(self) -> int:
        """Width of a hidden state."""

    @property
    def mlp(self) -> int:
        """Width of an MLP's activation."""


def room_on_cpu(
    graph: str, weights: Sequence[int], gib: float | None, others: Mapping[str, int]
) -> int | None:
    """Returns the bytes that are left for batches once a graph is loaded.

    Args:
        graph: name of the graph.
        weights: bytes of the weights of each part; none for a part that stays mapped.
        gib: memory that the encoder may take, in GiB; None takes what is available.
        others: bytes of the weights of the bundle's other graphs, by name.

    Returns:
        None if the system does not tell what is available and there is no limit.

    Raises:
        BackendError: the graph does not fit; the message says what it needs, what there is, and
            what fits.
    """
    limit = _limit(gib)
    # while a part is loaded, its weights are held twice: as in the file, and as they are computed
    # with
    needed = LIBRARIES + _resident(graph, sum(weights)) + max(weights, default=0)
    if limit is None:
        return None
    if needed > limit:
        smaller = [
            name for name, size in others.items() if LIBRARIES + 2 * _resident(name, size) <= limit
        ]
        advice = (
            f"use `graph` {min(smaller, key=lambda name: others[name])}, or " if smaller else ""
        )
        raise BackendError(
            f"loading graph {graph} takes {needed / 1e9:.1f} GB of memory, and "
            f"{limit / 1e9:.1f} GB are available: {advice}leave the weights on the disk with "
            "`map_weights`, which takes little memory and about twice the time"
        )
    return limit - LIBRARIES - _resident(graph, sum(weights))


def most_tokens(room: int | None, widths: Widths | None) -> int:
    """Returns the tokens of a batch, padding included, that take up to half of `room`.

    Args:
        room: bytes that are left for batches; None if unknown.
        widths: those of the encoder; None for a bundle that does not record them.
    """
    if room is None or widths is None:
        return MAX_TOKENS
    token = round(4 * TOKEN_VALUES * (widths.hidden + widths.mlp))
    # the other half is for inputs that are being prepared and for patches
    return max(1, min(MAX_TOKENS, room // 2 // token))


def _resident(graph: str, size: int) -> int:
    return 2 * size if graph in WIDENED else size


def _limit(gib: float | None) -> int | None:
    available = available_memory()
    limits = (available, None if gib is None else round(gib * GIB))
    return min((limit for limit in limits if limit is not None), default=None)


def weight_bytes(graph: Path) -> int:
    """Returns the bytes of a graph's weights: in its own data file, or in the one it shares."""
    sizes = (file_size(graph.parent / name) for name in data_names(graph.name))
    return next(filter(None, sizes), 0)
