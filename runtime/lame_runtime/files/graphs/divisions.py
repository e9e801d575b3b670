"""Refuses divisions that could end the process.

An x86 processor traps if the smallest integer is divided by −1, or any integer by 0, and ONNX
Runtime guards only against the latter. So integers may be divided by positive constants only, as in
exported graphs; floats may be divided by anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lame_runtime.errors import shown
from lame_runtime.files.graphs.onnx_fields import DATA_TYPES
from lame_runtime.files.graphs.protobuf import Message, integer_of, integers

DIVISIONS = ("Div", "Mod")
"""Operators that divide."""
FLOATS = (1, 10, 11, 16)
"""ONNX's numbers of the types of floats."""
_LISTS = {6: "int32_data", 7: "int64_data"}
_MAX_DIVISORS = 1 << 16


def require_safe(
    divisions: Iterable[tuple[str, list[str]]],
    types: Mapping[str, int],
    tensors: Mapping[str, Message],
) -> None:
    """Checks the divisions of a graph.

    Args:
        divisions: their operators and the names of their operands.
        types: ONNX's numbers of the element types that the graph declares, by the name of a value.
        tensors: the fields of the graph's initializers by name.

    Raises:
        ValueError: one may divide integers, and its divisor is not a positive constant.
    """
    for operator, operands in divisions:
        # both operands have one type, and ONNX Runtime compares declared types with its own
        if any(types.get(name) in FLOATS for name in operands):
            continue
        divisor = operands[-1] if operands else ""
        if not _is_positive(tensors.get(divisor, {})):
            raise ValueError(
                f"has a {operator} of integers by {shown(divisor)}, "
                "which is not a positive constant"
            )


def _is_positive(tensor: Message) -> bool:
    """Returns whether a tensor holds int32 or int64 in the graph itself, all of them positive."""
    data_type = integer_of(tensor, "data_type")
    if data_type not in _LISTS or "external_data" in tensor:
        return False
    raw = tensor.get("raw_data", [])
    if not raw:
        values = integers(tensor.get(_LISTS[data_type], []), _MAX_DIVISORS)
    elif isinstance(raw[0], memoryview) and len(raw[0]) <= 8 * _MAX_DIVISORS:
        values = np.frombuffer(raw[0], DATA_TYPES[data_type]).tolist()
    else:
        return False
    # a number of 32 bits may be written with more, which other readers cut off
    most = np.iinfo(DATA_TYPES[data_type]).max
    return bool(values) and all(0 < value <= most for value in values)
