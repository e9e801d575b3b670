"""Decides which inputs run together.

Padding costs compute, and each picture size in a batch costs a call of the vision tower. Inputs are
therefore sorted by length and patch grids before they are split into batches. Right padding under a
causal mask does not change the result of any row.
"""

from __future__ import annotations

from collections.abc import Sequence

from lame_runtime.contract.preparer import Prepared


def plan_batches(
    items: Sequence[Prepared], batch_size: int, *, sort: bool = True
) -> list[list[int]]:
    """Returns the indices of the inputs of each batch.

    Args:
        items: prepared inputs.
        batch_size: maximum number of inputs in a batch.
        sort: group inputs of similar length and patch grids; otherwise they keep their order.
    """
    order = list(range(len(items)))
    if sort:
        # longest first, so that the first batch needs the most memory
        order.sort(key=lambda index: _cost(items[index]), reverse=True)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _cost(item: Prepared) -> tuple[int, list[tuple[int, int, int]]]:
    return len(item.ids), [visual.grid for visual in item.visuals]
