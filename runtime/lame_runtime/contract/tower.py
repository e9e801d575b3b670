"""Tables of the vision tower that depend on a picture's patch grid alone.

`strip_index`            all families: which strips of pixels make up each patch
`patch_positions`        all families: row and column of each patch, for the 2-D rotary embedding
`window_*`               Qwen2.5-VL: which patches attend to each other in the windowed blocks
`interpolation_*`        Qwen3-VL: how the learned grid of position embeddings is resampled

Loops over grids cannot be exported, so they run here, once per grid, and the graphs take the tables
as inputs. Patches are in the order in which `media.images` cuts them: those of one merge block
adjacent. All tables but `strip_index` equal those of transformers' `vision_utils`; tests hold each
of them to it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.rules import Contract, TowerRules

Array = npt.NDArray[Any]


def tower_tables(grid: tuple[int, int], contract: Contract) -> dict[str, Array]:
    """Returns the vision graph's inputs other than the frames, by name.

    The arrays are read-only, since batches share them.

    Args:
        grid: rows and columns of patches.
        contract: for patch size, merge size, window and position grid.
    """
    images = contract.images
    return _tables(grid, images.patch_size, images.merge_size, contract.tower)


# Bounded, since a service sees pictures of any size, and the tables of a large grid take megabytes.
@functools.lru_cache(maxsize=256)
def _tables(
    grid: tuple[int, int], patch_size: int, merge_size: int, tower: TowerRules
) -> dict[str, Array]:
    positions = patch_positions(grid, merge_size)
    tables: dict[str, Array] = {
        "strip_index": strip_index(positions, grid[1], patch_size),
        "patch_positions": positions,
    }
    if tower.window:
        tables |= window_tables(positions, tower.window)
    if tower.position_side:
        tables |= interpolation_tables(positions, grid, tower.position_side)
    for table in tables.values():
        table.setflags(write=False)
    return tables


def patch_positions(grid: tuple[int, int], merge_size: int) -> npt.NDArray[np.int64]:
    """Returns row and column of every patch: int64 (2, patches).

    Args:
        grid: rows and columns of patches, multiples of the merge size.
        merge_size: side of a merge block in patches.
    """
    rows, columns = grid
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")

    # The merger joins each merge_size × merge_size patches that follow each other, so the patches
    # of a block are neighbors in the sequence, not those of a row.
    def by_block(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        blocks = values.reshape(rows // merge_size, merge_size, columns // merge_size, merge_size)
        return blocks.transpose(0, 2, 1, 3).reshape(-1)

    return np.stack([by_block(row), by_block(column)]).astype(np.int64)


def strip_index(
    positions: npt.NDArray[np.int64], columns: int, patch_size: int
) -> npt.NDArray[np.int32]:
    """Returns the strips that make up every patch: int32 (patches, patch_size).

    A strip is a row of `patch_size` pixels. Strips are numbered from left to right and from top to
    bottom. A patch consists of `patch_size` strips, one below the other.

    Args:
        positions: from `patch_positions`.
        columns: number of patches in a row, and so of strips in a row of pixels.
        patch_size: side of a patch in pixels.
    """
    pixel_rows = positions[0][:, None] * patch_size + np.arange(patch_size)
    index: npt.NDArray[np.int64] = pixel_rows * columns + positions[1][:, None]
    return index.astype(np.int32)


def window_tables(positions: npt.NDArray[np.int64], window: int) -> dict[str, Array]:
    """Cuts the grid into windows of `window` × `window` patches, from the top left corner.

    Windows at the right and lower edge may be smaller; they are padded, so that all have one size.

    Args:
        positions: from `patch_positions`.
        window: side in patches, a multiple of the merge size.

    Returns:
        `window_index` int64 (windows, window²), the patches of each window, padded with patch 0;
        `window_mask` bool (windows, window²), false where padded;
        `window_place` int64 (patches,), each patch's place among the windows × window² ones.
    """
    rows, columns = positions
    # Windows are numbered row by row, as transformers orders them.
    across = int(columns.max()) // window + 1
    number = rows // window * across + columns // window
    size, count = window * window, int(number.max()) + 1
    # Stable, so that the patches of a window keep the order of their merge blocks.
    order = np.argsort(number, kind="stable")
    sizes = np.bincount(number, minlength=count)
    # Place of each patch within its window: its place in `order` minus that of the window's first.
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # A window at the edge has fewer patches. Padded with patch 0 and masked, all of them fit into
    # one tensor, and the graph needs no loop over windows.
    index = np.zeros((count, size), dtype=np.int64)
    mask = np.zeros((count, size), dtype=bool)
    index[number[order], within], mask[number[order], within] = order, True
    place = np.empty(len(order), dtype=np.int64)
    place[order] = number[order] * size + within
    return {"window_index": index, "window_mask": mask, "window_place": place}


def interpolation_tables(
    positions: npt.NDArray[np.int64], grid: tuple[int, int], side: int
) -> dict[str, Array]:
    """Returns bilinear taps with aligned corners into a learned `side` × `side` grid.

    Args:
        positions: from `patch_positions`.
        grid: rows and columns of patches.
        side: side of the learned grid.

    Returns:
        `interpolation_index` int64 (4, patches) into the flattened grid, and `interpolation_weight`
        float32 (4, patches).
    """
    row_taps, row_weights = _taps(positions[0], grid[0], side)
    column_taps, column_weights = _taps(positions[1], grid[1], side)
    # All pairs of two rows and two columns, (2, 2, patches); the weight of a pair is the product.
    index = row_taps[:, None] * side + column_taps[None, :]
    weight = row_weights[:, None] * column_weights[None, :]
    return {
        "interpolation_index": index.reshape(4, -1),
        "interpolation_weight": weight.reshape(4, -1),
    }


def _taps(
    places: npt.NDArray[np.int64], size: int, side: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Returns two neighbors on one axis and their weights, (2, patches) each."""
    # In single precision, like the model's own: the weights then equal it bit for bit.
    source = places.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    below = np.floor(source)
    offsets = np.arange(2)[:, None]
    # Beyond the last row or column there is no neighbor; its weight is 0, any index will do.
    taps = np.clip(below.astype(np.int64) + offsets, 0, side - 1)
    distance = np.abs(source - below - offsets.astype(np.float32))
    return taps, np.maximum(np.float32(1) - distance, np.float32(0)).astype(np.float32)
