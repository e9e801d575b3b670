"""The seam between batches and whatever runs the model: ONNX Runtime, PyTorch (for parity), a fake.

Axes: N pictures, S patches of one picture, M merged tokens of one picture, D backbone width,
B batch, L padded length, P embedding length. A feature row is D wide; Qwen3-VL's also holds, behind the
first D values, those its deepstack adds after the first blocks, D each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


MAX_SCORES = 1 << 25
"""Attention scores per head that one run of the vision graph may need at once; larger groups are run in pieces."""


@dataclass(frozen=True)
class PictureGroup:
    """Pictures and temporal patches of one batch that share a grid, in the order their features are numbered."""

    pixel_patches: Floats
    """float32 (N, S, patch_dim)."""
    tables: dict[str, npt.NDArray[Any]]
    """What the vision tower needs beside the patches, by input name; see `contract.tower`."""
    grid: tuple[int, int]

    def vision_feeds(self) -> dict[str, npt.NDArray[Any]]:
        """The vision graph's inputs by name."""
        return {"pixel_patches": self.pixel_patches, **self.tables}

    def pieces(self) -> list[PictureGroup]:
        """The group cut so that full attention over each piece fits in memory."""
        pictures, patches, _ = self.pixel_patches.shape
        size = max(1, MAX_SCORES // patches**2)
        return [PictureGroup(self.pixel_patches[start : start + size], self.tables, self.grid) for start in range(0, pictures, size)]


@dataclass(frozen=True)
class Batch:
    """The arrays of one batch; names and shapes are those of the graphs' inputs."""

    groups: tuple[PictureGroup, ...]
    input_ids: Integers
    """int64 (B, L), right-padded, latent ids in place."""
    feature_index: Integers
    """int64 (B, L): 0 where the token is no vision token, else 1 + the row of its feature, groups in order."""
    position_ids: Integers
    """int64 (3, B, L), M-RoPE."""
    embed_index: Integers
    """int64 (B,): the column of [EMBED] in each row."""

    def rows(self, which: slice) -> Batch:
        """Some of the rows, without the padding that only others needed; the pictures of all."""
        last = self.embed_index[which]
        length = int(last.max()) + 1 if len(last) else 0
        return Batch(
            self.groups,
            self.input_ids[which, :length],
            self.feature_index[which, :length],
            self.position_ids[:, which, :length],
            last,
        )

    def padded(self, length: int) -> Batch:
        """The rows, padded on the right to a length; under a causal mask this changes nothing before it."""
        more = ((0, 0), (0, length - self.input_ids.shape[1]))
        ids, index = np.pad(self.input_ids, more), np.pad(self.feature_index, more)
        return Batch(self.groups, ids, index, np.pad(self.position_ids, ((0, 0), *more)), self.embed_index)

    def encoder_feeds(self, features_FD: Floats) -> dict[str, npt.NDArray[Any]]:
        """The encoder graph's inputs by name."""
        return {
            "input_ids": self.input_ids,
            "features": features_FD,
            "feature_index": self.feature_index,
            "position_ids": self.position_ids,
            "embed_index": self.embed_index,
        }


class Backend(ABC):
    """Runs the vision tower and the encoder. Implementations keep no state between calls."""

    name: str
    """What `info` prints: the engine and where it runs."""
    width: int
    """Width of a feature row: the backbone's D, times 1 + the number of deepstack levels (Qwen3-VL)."""

    @abstractmethod
    def vision(self, group: PictureGroup) -> Floats:
        """Features of the group's pictures: float32 (N, M, D)."""

    @abstractmethod
    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """Embeddings of a batch: float32 (B, P), unit rows.

        Args:
            batch: the arrays.
            features_FD: float32 (F, D); row 0 is zeros, then the features of all groups in order.
        """

    def features(self, batch: Batch) -> Floats:
        """Features of all the batch's pictures behind a row of zeros: float32 (F, D)."""
        parts = [np.zeros((1, self.width), dtype=np.float32)]
        parts += [self.vision(piece).reshape(-1, self.width) for group in batch.groups for piece in group.pieces()]
        return np.concatenate(parts)

    def run(self, batch: Batch) -> Floats:
        """Vision tower over each group, then the encoder: float32 (B, P)."""
        return self.encoder(batch, self.features(batch))

    def close(self) -> None:  # noqa: B027 - most backends hold nothing that must be released
        """Releases what the backend holds."""
