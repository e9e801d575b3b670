"""Embeddings on disk by the hash of what they depend on, in shards that are complete or absent.

    CACHE/embeddings/MODEL/SHARD.npz    keys (n,) of 64 hex digits, vectors float32 (n, dim), cut bool (n,)

A shard is written when so many inputs are embedded, under a temporary name first: a run that is killed loses at most the
shard it was working on, and the next run embeds only what no shard holds.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lame_runtime.atomic import atomic_path

from lame_training.suites.folders import make_folder
from lame_training.suites.identity import digest

Vectors = npt.NDArray[np.float32]


class EmbeddingCache:
    """The shards of one model.

    Args:
        folder: of this model; None keeps vectors in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.unreadable: list[Path] = []
        """Shards that are damaged; what they held is embedded again."""
        self._where: dict[str, tuple[Path | None, int]] = {}
        self._cut: set[str] = set()
        self._memory: dict[str, npt.NDArray[np.float32]] = {}
        for path in sorted(folder.glob("*.npz")) if folder is not None else ():
            try:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
                    self._index(path, shard["keys"].tolist(), shard["cut"])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                self.unreadable.append(path)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def was_cut(self, key: str) -> bool:
        """Whether the input's text was too long and had to be cut."""
        return key in self._cut

    def put(self, keys: list[str], vectors: Vectors, cut: npt.NDArray[np.bool_]) -> None:
        """Stores embeddings, float32 (n, dim), and whether each text was cut; raises `InputError` where the disk refuses."""
        if self.folder is None:
            self._memory |= dict(zip(keys, vectors, strict=True))
            self._index(None, keys, cut)
            return
        target = make_folder(self.folder, "--cache") / f"{digest(keys)}.npz"
        with atomic_path(target) as path, path.open("wb") as file:
            np.savez(file, keys=np.array(keys), vectors=vectors, cut=cut)
        self._index(target, keys, cut)

    def get(self, keys: list[str]) -> Vectors:
        """Embeddings of known inputs, float32 (n, dim), in the order asked; each shard is read once."""
        rows: list[npt.NDArray[np.float32] | None] = [self._memory.get(key) for key in keys]
        wanted: dict[Path, list[int]] = {}
        for index, key in enumerate(keys):
            path, _ = self._where[key]
            if path is not None:
                wanted.setdefault(path, []).append(index)
        for path, indices in wanted.items():
            with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
                vectors = shard["vectors"]
            for index in indices:
                rows[index] = vectors[self._where[keys[index]][1]]
        return np.stack([row for row in rows if row is not None])

    def _index(self, path: Path | None, keys: list[str], cut: npt.NDArray[np.bool_]) -> None:
        if len(keys) != len(cut):
            raise ValueError("keys and flags differ in length")
        self._where |= {key: (path, row) for row, key in enumerate(keys)}
        self._cut |= {key for key, was_cut in zip(keys, cut, strict=True) if was_cut}
