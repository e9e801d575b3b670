"""Integer positions: of patches for the vision tower's 2-D rotary embedding, of tokens for M-RoPE.

Equal to transformers' `get_vision_position_ids` and `Qwen2VLModel.get_rope_index`; tests hold both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.rules import TokenRules


def patch_positions(grid: tuple[int, int], merge_size: int) -> npt.NDArray[np.int64]:
    """Row and column of every patch in the order `images.image_patches` emits them: int64 (2, patches)."""
    rows, columns = grid
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")

    def by_block(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        blocks = values.reshape(rows // merge_size, merge_size, columns // merge_size, merge_size)
        return blocks.transpose(0, 2, 1, 3).reshape(-1)

    return np.stack([by_block(row), by_block(column)]).astype(np.int64)


def mrope_positions(
    ids: npt.NDArray[np.int64], grids: Sequence[tuple[int, int]], merge_size: int, rules: TokenRules
) -> npt.NDArray[np.int64]:
    """M-RoPE positions (temporal, row, column) of one prompt: int64 (3, len(ids)).

    Text counts up on all three axes. A picture keeps its temporal position and spreads over rows and
    columns; what follows continues at the largest position + 1. Latent ids count as text.

    Args:
        ids: the prompt's ids, latent ids included.
        grids: patch grid (rows, columns) of each picture, in the order of their vision tokens.
        merge_size: patches per merged token along each side.
        rules: for `image_pad`.
    """
    positions = np.empty((3, len(ids)), dtype=np.int64)
    pending = list(grids)
    index, next_position = 0, 0
    while index < len(ids):
        if ids[index] != rules.image_pad:
            positions[:, index] = next_position
            index, next_position = index + 1, next_position + 1
            continue
        rows, columns = (side // merge_size for side in pending.pop(0))
        stop = index + rows * columns
        positions[0, index:stop] = next_position
        positions[1, index:stop] = next_position + np.repeat(np.arange(rows), columns)
        positions[2, index:stop] = next_position + np.tile(np.arange(columns), rows)
        index, next_position = stop, next_position + max(rows, columns)
    return positions
