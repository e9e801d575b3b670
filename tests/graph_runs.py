"""Runs graphs in memory, for several tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lame_export.streaming.attention_blocks import Feeds
from lame_export.streaming.pieces import Piece
from lame_export.streaming.running import StoredPieces
from lame_runtime.contract.batch import PictureGroup
from lame_runtime.contract.rules import Contract
from lame_runtime.contract.tower import tower_tables


def run_pieces(pieces: Sequence[Piece], feeds: Feeds, output: str) -> np.ndarray[Any, Any]:
    """Returns an output of a graph in pieces, node by node as it is written."""
    with StoredPieces(pieces, optimize=False) as stored:
        (result,) = stored.run([feeds], [output])
    return result[output]


def picture_feeds(grid: tuple[int, int], contract: Contract, depth: int = 1) -> Feeds:
    """Makes inputs of the vision graph: two pictures of random pixels."""
    side = contract.images.patch_size
    shape = (2, depth, grid[0] * side, grid[1] * side, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tables = tower_tables(grid, contract)
    return PictureGroup(frames, contract.images, tables, grid, merged=0).vision_feeds()
