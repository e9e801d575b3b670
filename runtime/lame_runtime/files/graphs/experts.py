"""Refuses mixtures of experts that take more experts than there are.

ONNX Runtime 1.23 trusts the attribute `k`: it sorts k scores of each token even if there are fewer
experts, and writes out of bounds. Later versions check `k` themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lame_runtime.files.graphs.protobuf import Message, integers

EXPERTS = ("MoE", "QMoE")
"""Operators that take some of several experts."""
WEIGHTS = 2
"""Index of the input with the experts' first weights, (experts, out, in)."""
_MAX_RANK = 16


def require_experts(
    mixtures: Iterable[tuple[list[str], int]], tensors: Mapping[str, Message]
) -> None:
    """Checks the mixtures of experts of a graph.

    Args:
        mixtures: for each, the names of its operands, and how many experts a token takes.
        tensors: the fields of the graph's initializers by name.

    Raises:
        ValueError: one takes more experts than it has weights of, or these are no initializer.
    """
    for operands, taken in mixtures:
        name = operands[WEIGHTS] if len(operands) > WEIGHTS else ""
        sizes = list(integers(tensors.get(name, {}).get("dims", []), _MAX_RANK))
        if not sizes or taken > sizes[0]:
            count = sizes[0] if sizes else "an unknown number of"
            raise ValueError(f"routes each token to {taken} of {count} experts")
