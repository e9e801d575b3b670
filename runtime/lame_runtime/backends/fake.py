"""A backend without a model, for tests of everything around it (ours and our users')."""

from __future__ import annotations

import numpy as np

from lame_runtime.backends.base import Backend
from lame_runtime.contract.batch import Batch, Floats, PictureGroup


class FakeBackend(Backend):
    """Returns deterministic vectors that depend on nothing but a row's own ids and pictures.

    Args:
        width: feature width D.
        dim: embedding length P.
        poison: return NaN, to test that NaN never leaves the runtime.
    """

    def __init__(self, width: int = 8, dim: int = 16, *, poison: bool = False) -> None:
        self.name = "fake"
        self.width = width
        self.dim = dim
        self.poison = poison
        self.lengths: list[int] = []
        """Padded length of every batch run so far."""

    def vision(self, group: PictureGroup) -> Floats:
        """Returns the mean of each merge block, repeated to `width`: float32 (N, S / 4, width)."""
        blocks = group.pixel_patches().reshape(group.pictures, group.patches // 4, -1)
        return np.repeat(blocks.mean(axis=2, keepdims=True), self.width, axis=2).astype(np.float32)

    def encoder(self, batch: Batch, features_FD: Floats) -> Floats:
        """Returns a fixed random projection of each row's ids and features: (B, P), unit rows."""
        self.lengths.append(batch.input_ids.shape[1])
        rows = []
        for ids, index, last in zip(
            batch.input_ids, batch.feature_index, batch.embed_index, strict=True
        ):
            # Nothing after [EMBED] is read, so padding and batch mates cannot change a vector.
            rng = np.random.default_rng([int(value) for value in ids[: last + 1]])
            row = rng.standard_normal(self.dim) + features_FD[index[: last + 1]].sum()
            rows.append(row / np.linalg.norm(row))
        embeddings = np.stack(rows).astype(np.float32)
        return embeddings * np.float32(np.nan) if self.poison else embeddings
