"""Runs graphs in memory, for several tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lame_export.streaming.attention_blocks import Feeds
from lame_export.streaming.pieces import Piece
from lame_export.streaming.running import StoredPieces


def run_pieces(pieces: Sequence[Piece], feeds: Feeds, output: str) -> np.ndarray[Any, Any]:
    """Returns an output of a graph in pieces, node by node as it is written."""
    with StoredPieces(pieces, optimize=False) as stored:
        (result,) = stored.run([feeds], [output])
    return result[output]
