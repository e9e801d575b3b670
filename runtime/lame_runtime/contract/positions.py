"""M-RoPE positions of a prompt's tokens: temporal, row, column (Qwen2-VL, arXiv:2409.12191).

They equal `get_rope_index` of each family's model in transformers; tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.rules import TokenRules


@dataclass(frozen=True)
class Span:
    """Consecutive vision tokens.

    They are a picture, a whole video, or one temporal patch of a video with timestamps.
    """

    grid: tuple[int, int, int]
    """Temporal patches, rows, columns; rows and columns in merged tokens."""
    step: float = 1.0
    """Distance between the temporal positions of neighboring temporal patches.

    The product of step and patch is cut to an integer.
    """


def token_positions(
    ids: npt.NDArray[np.int64], spans: Sequence[Span], rules: TokenRules
) -> npt.NDArray[np.int64]:
    """Returns the positions of one prompt by the contract's rules: int64 (3, len(ids)).

    Arguments are those of `mrope_positions`.
    """
    if rules.positions == "sequential":
        return np.tile(np.arange(len(ids), dtype=np.int64), (3, 1))
    return mrope_positions(ids, spans, rules)


def mrope_positions(
    ids: npt.NDArray[np.int64], spans: Sequence[Span], rules: TokenRules
) -> npt.NDArray[np.int64]:
    """Returns the M-RoPE positions of one prompt: int64 (3, len(ids)).

    Text counts up on all three axes. Vision tokens spread over time, rows and columns. The token
    after them continues after the longer of rows and columns. Latent ids count as text.

    Args:
        ids: the prompt's ids, latent ids included.
        spans: the vision tokens, in the order of their occurrence.
        rules: for the ids of the two pads.
    """
    positions = np.empty((3, len(ids)), dtype=np.int64)
    vision = (ids == rules.image_pad) | (ids == rules.video_pad)
    # Lengths come from the spans: in a layout without a closing token, pads alone do not tell where
    # one picture ends and the next begins.
    pending = iter(spans)
    index, following = 0, 0
    while index < len(ids):
        if not vision[index]:
            positions[:, index] = following
            index, following = index + 1, following + 1
            continue
        span = next(pending)
        times, rows, columns = span.grid
        stop = index + times * rows * columns
        # In single precision and then cut, as transformers computes it: in double precision some
        # products end in another integer (1/41 × 41, for one).
        time = (np.arange(times, dtype=np.float32) * np.float32(span.step)).astype(np.int64)
        axes = np.meshgrid(time, np.arange(rows), np.arange(columns), indexing="ij")
        positions[:, index:stop] = following + np.stack(axes).reshape(3, -1)
        # As in transformers, the temporal axis does not count: a long video moves text no further.
        index, following = stop, following + max(rows, columns)
    return positions
