"""Which inputs run together, and how their arrays are laid side by side.

Padding costs compute and a picture grid of its own costs a call, so inputs are sorted by picture grid and
length before they are cut into batches. Right padding under a causal mask changes no row's result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from lame_runtime.backends.base import Batch, PictureGroup
from lame_runtime.contract.preparer import Prepared, Visual
from lame_runtime.contract.rules import Contract
from lame_runtime.contract.tower import tower_tables


def plan_batches(items: Sequence[Prepared], batch_size: int, *, sort: bool = True) -> list[list[int]]:
    """Indices of the inputs of each batch; longest first, so that memory runs out at once or never."""
    order = list(range(len(items)))
    if sort:
        order.sort(key=lambda i: (len(items[i].ids), [visual.grid for visual in items[i].visuals]), reverse=True)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def assemble(items: Sequence[Prepared], contract: Contract) -> Batch:
    """Lays prepared inputs side by side; shapes and dtypes as in `Batch`.

    The temporal patches of a video are so many pictures of the same grid: no patch attends to another time.
    """
    merge_area = contract.images.merge_size**2
    by_grid: dict[tuple[int, int], list[tuple[int, int, Visual]]] = defaultdict(list)
    for row, item in enumerate(items):
        for number, visual in enumerate(item.visuals):
            by_grid[visual.grid[1:]].append((row, number, visual))

    groups = []
    features_of: dict[tuple[int, int], range] = {}
    next_feature = 1
    for grid in sorted(by_grid):
        members = by_grid[grid]
        pixel_patches = np.concatenate([visual.patches(contract) for _, _, visual in members])
        groups.append(PictureGroup(pixel_patches, tower_tables(grid, contract), grid))
        for row, number, visual in members:
            following = next_feature + visual.n_patches // merge_area
            features_of[row, number] = range(next_feature, following)
            next_feature = following

    shape = (len(items), max(len(item.ids) for item in items))
    input_ids = np.full(shape, contract.tokens.pad, dtype=np.int64)
    feature_index = np.zeros(shape, dtype=np.int64)
    position_ids = np.zeros((3, *shape), dtype=np.int64)
    for row, item in enumerate(items):
        length = len(item.ids)
        input_ids[row, :length] = item.ids
        position_ids[:, row, :length] = item.positions
        if item.visuals:
            vision = np.flatnonzero((item.ids == contract.tokens.image_pad) | (item.ids == contract.tokens.video_pad))
            feature_index[row, vision] = np.concatenate([features_of[row, number] for number in range(len(item.visuals))])
    embed_index = np.array([len(item.ids) - 1 for item in items], dtype=np.int64)
    return Batch(tuple(groups), input_ids, feature_index, position_ids, embed_index)
