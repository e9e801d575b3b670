"""Which inputs run together, and how their arrays are laid side by side.

Padding costs compute and a picture grid of its own costs a call, so inputs are sorted by picture grid and
length before they are cut into batches. Right padding under a causal mask changes no row's result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from lame_runtime.backends.base import Batch, PictureGroup
from lame_runtime.contract.images import image_patches
from lame_runtime.contract.positions import patch_positions
from lame_runtime.contract.preparer import Picture, Prepared
from lame_runtime.contract.rules import Contract


def plan_batches(items: Sequence[Prepared], batch_size: int, *, sort: bool = True) -> list[list[int]]:
    """Indices of the inputs of each batch; longest first, so that memory runs out at once or never."""
    order = list(range(len(items)))
    if sort:
        order.sort(key=lambda i: (len(items[i].ids), [picture.grid for picture in items[i].pictures]), reverse=True)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def assemble(items: Sequence[Prepared], contract: Contract) -> Batch:
    """Lays prepared inputs side by side; shapes and dtypes as in `Batch`."""
    rules = contract.images
    by_grid: dict[tuple[int, int], list[tuple[int, int, Picture]]] = defaultdict(list)
    for row, item in enumerate(items):
        for number, picture in enumerate(item.pictures):
            by_grid[picture.grid].append((row, number, picture))

    groups = []
    features_of: dict[tuple[int, int], range] = {}
    next_feature = 1
    for grid in sorted(by_grid):
        members = by_grid[grid]
        pixel_patches = np.stack([image_patches(picture.pixels, rules) for _, _, picture in members])
        groups.append(PictureGroup(pixel_patches, patch_positions(grid, rules.merge_size), grid))
        for row, number, picture in members:
            following = next_feature + picture.n_patches // rules.merge_size**2
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
        if item.pictures:
            vision = np.flatnonzero(item.ids == contract.tokens.image_pad)
            feature_index[row, vision] = np.concatenate([features_of[row, number] for number in range(len(item.pictures))])
    embed_index = np.array([len(item.ids) - 1 for item in items], dtype=np.int64)
    return Batch(tuple(groups), input_ids, feature_index, position_ids, embed_index)
