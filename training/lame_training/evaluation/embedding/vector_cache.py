"""Keeps embeddings on disk, by the hash of what they depend on, in shards.

    CACHE/embeddings/MODEL/SHARD.npz    keys (n,) of 64 hex digits
                                        vectors float32 (n, dim)
                                        cut bool (n,)

A shard holds inputs that were embedded together. It is written under a temporary name and renamed,
so it is complete or absent: a run that is killed loses at most the shard it was working on, and the
next run embeds only what no shard holds.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lame_runtime.contract.batch import Floats
from lame_runtime.files.atomic import atomic_path

from lame_training.evaluation.embedding.identity import digest
from lame_training.evaluation.suites.folders import make_folder

Flags = npt.NDArray[np.bool_]
"""One bool per input."""


class EmbeddingCache:
    """The embeddings of one model, by key.

    Args:
        folder: folder of the model's shards; None keeps vectors in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.unreadable: list[Path] = []
        """Damaged shards; what they held counts as missing."""
        self._places: dict[str, tuple[Path | None, int]] = {}
        """Shard and row by key; the shard is None for vectors in memory."""
        self._cut: set[str] = set()
        self._memory: dict[str, Floats] = {}
        # Sorted, so that runs agree on which shard wins if two hold the same key.
        for path in sorted(folder.glob("*.npz")) if folder is not None else ():
            try:
                # Only keys and flags: the vectors of all tasks together can be large, and `get`
                # reads those of one task. No pickles: loading one can run code.
                with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
                    self._index(path, shard["keys"].tolist(), shard["cut"])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                # A damaged shard costs time and nothing else, so it is no reason to stop.
                self.unreadable.append(path)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def was_cut(self, key: str) -> bool:
        """Returns whether an input's text was too long and had to be cut."""
        return key in self._cut

    def put(self, keys: list[str], vectors: Floats, cut: Flags) -> None:
        """Stores embeddings as one shard.

        Args:
            keys: n distinct keys.
            vectors: float32 (n, dim).
            cut: bool (n,), whether each text was cut.

        Raises:
            StorageError: the disk refuses.
        """
        if self.folder is None:
            self._memory |= dict(zip(keys, vectors, strict=True))
            self._index(None, keys, cut)
            return
        # Named after its keys: embedding the same inputs again replaces the shard.
        shard = make_folder(self.folder, "cache") / f"{digest(keys)}.npz"
        with atomic_path(shard) as temporary, temporary.open("wb") as file:
            np.savez(file, keys=np.array(keys), vectors=vectors, cut=cut)
        self._index(shard, keys, cut)

    def get(self, keys: list[str]) -> Floats:
        """Returns embeddings, float32 (n, dim), in the order of `keys`; each shard is read once.

        Raises:
            KeyError: a key is unknown.
        """
        rows: list[Floats | None] = [self._memory.get(key) for key in keys]
        # Grouped by shard, because reading one row of an .npz file reads the whole array.
        indices_by_shard: dict[Path, list[int]] = {}
        for index, key in enumerate(keys):
            shard_path, _ = self._places[key]
            if shard_path is not None:
                indices_by_shard.setdefault(shard_path, []).append(index)
        for shard_path, indices in indices_by_shard.items():
            with shard_path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
                vectors = shard["vectors"]
            for index in indices:
                rows[index] = vectors[self._places[keys[index]][1]]
        return np.stack([row for row in rows if row is not None])

    def _index(self, path: Path | None, keys: list[str], cut: Flags) -> None:
        # Checked before anything is stored, so that a damaged shard leaves no half of itself.
        if len(keys) != len(cut):
            raise ValueError("keys and flags differ in length")
        self._places |= {key: (path, row) for row, key in enumerate(keys)}
        self._cut |= {key for key, was_cut in zip(keys, cut, strict=True) if was_cut}
