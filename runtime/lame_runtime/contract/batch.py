"""The arrays of one batch, as the graphs take them.

Axes: N pictures, T frames of one picture, S patches of one picture, M merged tokens of one picture,
D backbone width, B batch, L padded length, P embedding length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.contract.media.images import frame_patches
from lame_runtime.contract.preparer import Prepared, Visual
from lame_runtime.contract.rules import Contract, ImageRules
from lame_runtime.contract.tower import tower_tables
from lame_runtime.errors import BackendError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

MAX_SCORES = 1 << 25
"""Attention scores per head that one run of the vision graph may need; larger groups are cut."""


@dataclass(frozen=True)
class PictureGroup:
    """Pictures, or temporal patches of videos, of one batch that share a patch grid.

    They are in the order in which `Batch.feature_index` numbers their features.
    """

    frames: npt.NDArray[np.uint8]
    """uint8 (N, T, height, width, 3): T is 1 for pictures, and the temporal patch size for videos.
    """
    images: ImageRules
    """Geometry and normalization of the patches."""
    tables: dict[str, npt.NDArray[Any]]
    """The vision graph's other inputs, by name; see `contract.tower`."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    merged: int
    """Number of vision tokens of one picture: its patches after merging."""

    def vision_feeds(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the vision graph's inputs by name.

        `frames` is the memory of the pictures, viewed as uint8 (N, T, S, 3 · patch²), so that only
        the number of patches depends on the grid. `strip_index` says which strips make up a patch;
        see `contract.tower`.
        """
        pictures, depth = self.frames.shape[:2]
        return {"frames": self.frames.reshape(pictures, depth, self.patches, -1), **self.tables}

    def pixel_patches(self) -> Floats:
        """Returns the patches as processors give them: float32 (N, S, patch_dim)."""
        return frame_patches(self.frames, self.images, self.images.mean, self.images.std)

    @property
    def pictures(self) -> int:
        """Number of pictures or temporal patches (N)."""
        return len(self.frames)

    @property
    def patches(self) -> int:
        """Number of patches of each picture (S)."""
        return self.grid[0] * self.grid[1]

    def rows(self, which: slice) -> PictureGroup:
        """Returns a group with some of the pictures."""
        return replace(self, frames=self.frames[which])

    def pieces(self) -> list[PictureGroup]:
        """Cuts the group so that full attention over each piece fits in memory."""
        # A run holds pictures × patches² scores at once; a single picture cannot be cut further.
        size = max(1, MAX_SCORES // self.patches**2)
        return [self.rows(slice(start, start + size)) for start in range(0, self.pictures, size)]


@dataclass(frozen=True)
class Batch:
    """The arrays of one batch; names and shapes are those of the graphs' inputs."""

    groups: tuple[PictureGroup, ...]
    input_ids: Integers
    """int64 (B, L), right-padded, latent ids in place."""
    feature_index: Integers
    """int64 (B, L): 1 + the number of a vision token's feature, groups in order; 0 for others."""
    position_ids: Integers
    """int64 (3, B, L), M-RoPE."""
    embed_index: Integers
    """int64 (B,): the column of [EMBED] in each row."""

    def rows(self, which: slice) -> Batch:
        """Returns some of the rows, without the padding that only other rows needed.

        The pictures stay those of the whole batch, so `feature_index` keeps its numbers.
        """
        last = self.embed_index[which]
        # Nothing after a row's [EMBED] is read, so the longest of these rows decides.
        length = int(last.max()) + 1 if len(last) else 0
        return Batch(
            self.groups,
            self.input_ids[which, :length],
            self.feature_index[which, :length],
            self.position_ids[:, which, :length],
            last,
        )

    def padded(self, length: int) -> Batch:
        """Returns the batch, padded on the right to a length.

        No vector changes: attention is causal, and nothing follows [EMBED] but padding.
        """
        more = ((0, 0), (0, length - self.input_ids.shape[1]))
        return Batch(
            self.groups,
            np.pad(self.input_ids, more),
            np.pad(self.feature_index, more),
            np.pad(self.position_ids, ((0, 0), *more)),
            self.embed_index,
        )

    def encoder_feeds(self, features_FD: Floats) -> dict[str, npt.NDArray[Any]]:
        """Returns the encoder graph's inputs by name.

        Args:
            features_FD: a row of zeros and the features of all groups; empty if they are on a GPU.

        Raises:
            BackendError: the vision graph returned more or fewer features than the contract counts,
                so that tokens would get those of other places.
        """
        expected = 1 + sum(group.pictures * group.merged for group in self.groups)
        if features_FD.size and len(features_FD) != expected:
            raise BackendError(
                f"the vision graph returned {len(features_FD) - 1} features for {expected - 1} "
                "vision tokens: the contract's images.merge_size is not the graph's; "
                "copy or export the bundle again"
            )
        return {
            "input_ids": self.input_ids,
            "features": features_FD,
            "feature_index": self.feature_index,
            "position_ids": self.position_ids,
            "embed_index": self.embed_index,
        }


def assemble(items: Sequence[Prepared], contract: Contract) -> Batch:
    """Lays prepared inputs side by side; shapes and dtypes as in `Batch`."""
    groups, feature_rows = _group_by_size(items, contract)
    shape = (len(items), max(len(item.ids) for item in items))
    # Padding is on the right: under a causal mask no token sees it, so its id and positions do not
    # matter, and no attention mask is an input of the graph.
    input_ids = np.full(shape, contract.tokens.pad, dtype=np.int64)
    feature_index = np.zeros(shape, dtype=np.int64)
    position_ids = np.zeros((3, *shape), dtype=np.int64)
    for row, item in enumerate(items):
        length = len(item.ids)
        input_ids[row, :length] = item.ids
        position_ids[:, row, :length] = item.positions
        if item.visuals:
            # Vision tokens are the pads of the prompt, in the order of the pictures.
            vision = np.flatnonzero(
                (item.ids == contract.tokens.image_pad) | (item.ids == contract.tokens.video_pad)
            )
            feature_index[row, vision] = np.concatenate(
                [feature_rows[row, number] for number in range(len(item.visuals))]
            )
    embed_index = np.array([len(item.ids) - 1 for item in items], dtype=np.int64)
    return Batch(groups, input_ids, feature_index, position_ids, embed_index)


def _group_by_size(
    items: Sequence[Prepared], contract: Contract
) -> tuple[tuple[PictureGroup, ...], dict[tuple[int, int], range]]:
    """Groups the pictures of all inputs by patch grid and depth, since a run has one of each.

    The temporal patches of a video are pictures of the same grid: in the vision tower, no patch
    attends to another time.

    Returns:
        The groups, and the values of `feature_index` for each picture: by row of the batch and
        number of the picture within the row.
    """
    merge_area = contract.images.merge_size**2
    by_size: dict[tuple[int, int, int], list[tuple[int, int, Visual]]] = defaultdict(list)
    for row, item in enumerate(items):
        for number, visual in enumerate(item.visuals):
            times, rows, columns = visual.grid
            by_size[rows, columns, len(visual.frames) // times].append((row, number, visual))
    groups = []
    feature_rows: dict[tuple[int, int], range] = {}
    next_feature = 1  # row 0 of the features is zeros
    for size in sorted(by_size):
        members, grid = by_size[size], size[:2]
        frames = _joined([visual.temporal_patches() for _, _, visual in members])
        merged = grid[0] * grid[1] // merge_area
        tables = tower_tables(grid, contract)
        groups.append(PictureGroup(frames, contract.images, tables, grid, merged))
        for row, number, visual in members:
            end = next_feature + visual.n_patches // merge_area
            feature_rows[row, number] = range(next_feature, end)
            next_feature = end
    return tuple(groups), feature_rows


def _joined(arrays: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    # a picture that is alone in its group, as most large ones are, is not copied
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
