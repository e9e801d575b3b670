"""Keeps embeddings on disk, by the hash of what they depend on, in shards.

    CACHE/embeddings/MODEL/SHARD.npz    keys (n,) of 64 hex digits
                                        vectors float32 (n, dim)
                                        cut bool (n,)

A shard holds inputs that were embedded together. It is written under a temporary name and renamed,
so it is complete or absent: a run that is killed loses at most the shard it was working on, and the
next run embeds only what no shard holds.
"""

from __future__ import annotations

import logging
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lame_runtime.contract.batch import Floats
from lame_runtime.errors import StorageError
from lame_runtime.files.atomic import atomic_path
from lame_runtime.files.regular import open_regular

from lame_training.evaluation.embedding.identity import digest
from lame_training.evaluation.suites.folders import make_folder

logger = logging.getLogger(__name__)

Flags = npt.NDArray[np.bool_]
"""One bool per input."""
_ENCRYPTED = 1
"""The flag of an encrypted member of an archive."""
KEY_DTYPE = np.dtype("<U64")
"""The dtype of keys: 64 hex digits."""
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    OverflowError,
    zipfile.BadZipFile,
    NotImplementedError,
)
"""Errors of zipfile and NumPy for a damaged file; zipfile raises the last one for a compression or
a version of the format that it does not know. Memory that runs out is not among them: no array is
allocated that the file does not hold.
"""


class EmbeddingCache:
    """The embeddings of one model, by key.

    Shards are files that may be damaged, or come from somebody else. One that is not of the form
    above, to the last checksum, counts as absent: its inputs are embedded again.

    Args:
        folder: folder of the model's shards; None keeps vectors in memory only.
        dim: length of the vectors; None accepts any.
    """

    def __init__(self, folder: Path | None, dim: int | None = None) -> None:
        self.folder = folder
        self.unreadable: list[Path] = []
        """Damaged shards; what they held counts as missing."""
        self._dim = dim
        self._places: dict[str, tuple[Path | None, int]] = {}
        """Shard and row by key; the shard is None for vectors in memory."""
        self._cut: set[str] = set()
        self._memory: dict[str, Floats] = {}
        self._whole: set[Path] = set()
        """Shards whose vectors were checked."""
        # Sorted, so that runs agree on which shard wins if two hold the same key.
        for path in sorted(folder.glob("*.npz")) if folder is not None else ():
            try:
                # Only keys and flags: the vectors of all tasks together can be large, and `get`
                # reads those of one task.
                with _open_shard(path) as shard:
                    keys, cut = _read(shard, "keys", KEY_DTYPE), _read(shard, "cut", np.bool_)
                self._index(path, keys.tolist(), cut)
            except _DAMAGE:
                # A damaged shard costs time and nothing else, so it is no reason to stop.
                self.unreadable.append(path)

    def __contains__(self, key: str) -> bool:
        place = self._places.get(key)
        if place is None:
            return False
        shard = place[0]
        if shard is not None and shard not in self._whole:
            # Now, while what is damaged can still be embedded again.
            try:
                self._vectors(shard)
            except _DAMAGE:
                self._forget(shard)
                return False
            self._whole.add(shard)
        return True

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
            np.savez(
                file, keys=np.array(keys, KEY_DTYPE), vectors=np.ascontiguousarray(vectors), cut=cut
            )
        self._index(shard, keys, cut)
        self._whole.add(shard)

    def get(self, keys: list[str]) -> Floats:
        """Returns embeddings, float32 (n, dim), in the order of `keys`; each shard is read once.

        Raises:
            KeyError: a key is unknown.
            StorageError: a shard was damaged after it was looked up.
        """
        rows: list[Floats | None] = [self._memory.get(key) for key in keys]
        # Grouped by shard, because reading one row of an .npz file reads the whole array.
        indices_by_shard: dict[Path, list[int]] = {}
        for index, key in enumerate(keys):
            shard_path, _ = self._places[key]
            if shard_path is not None:
                indices_by_shard.setdefault(shard_path, []).append(index)
        for shard_path, indices in indices_by_shard.items():
            try:
                vectors = self._vectors(shard_path)
            except _DAMAGE:
                raise StorageError(
                    f"{shard_path}: was damaged during the run; remove it and run again"
                ) from None
            for index in indices:
                rows[index] = vectors[self._places[keys[index]][1]]
        return np.stack([row for row in rows if row is not None])

    def _vectors(self, path: Path) -> Floats:
        """Returns the vectors of a shard; raises one of `_DAMAGE` if they are none."""
        with _open_shard(path) as shard:
            vectors: Floats = _read(shard, "vectors", np.float32, axes=2)
            count = len(_read(shard, "keys", KEY_DTYPE))
        if len(vectors) != count:
            raise ValueError("vectors and keys differ in number")
        if self._dim not in (None, vectors.shape[1]) or not np.isfinite(vectors).all():
            raise ValueError("the vectors are of another length, or not finite")
        return vectors

    def _forget(self, path: Path) -> None:
        """Removes what a shard holds; its inputs then count as missing."""
        self.unreadable.append(path)
        logger.warning("%s: unreadable; its inputs are embedded again", path)
        gone = {key for key, (shard, _) in self._places.items() if shard == path}
        self._places = {key: place for key, place in self._places.items() if key not in gone}
        self._cut -= gone

    def _index(self, path: Path | None, keys: list[str], cut: Flags) -> None:
        # Checked before anything is stored, so that a damaged shard leaves no half of itself.
        if len(keys) != len(cut):
            raise ValueError("keys and flags differ in length")
        self._places |= {key: (path, row) for row, key in enumerate(keys)}
        self._cut |= {key for key, was_cut in zip(keys, cut, strict=True) if was_cut}


@contextmanager
def _open_shard(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a shard; raises one of `_DAMAGE` if it is no archive, or holds more than its size.

    Nothing in it is compressed, so that a file of a few bytes cannot take gigabytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            # zipfile raises a bare RuntimeError for encrypted members
            plain = all(
                member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED
                for member in members
            )
            if not plain or sum(member.file_size for member in members) > size:
                raise ValueError("holds more than its size, or is encrypted")
            yield archive


def _read(
    shard: zipfile.ZipFile, name: str, dtype: npt.DTypeLike, axes: int = 1
) -> npt.NDArray[Any]:
    """Returns an array of a shard; raises one of `_DAMAGE` if it is not of this dtype and rank.

    `numpy.load` would allocate what the header claims; here the header must fit the bytes.
    """
    member = f"{name}.npy"
    with shard.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is of another version")
        shape, fortran_order, stored_dtype = np.lib.format.read_array_header_1_0(file)
        expected = math.prod(shape) * stored_dtype.itemsize
        left = shard.getinfo(member).file_size - file.tell()
        if stored_dtype != dtype or len(shape) != axes or fortran_order or expected != left:
            raise ValueError(f"{name} is of another type or size")
        # to the end, where zipfile compares the checksum
        data = file.read()
    return np.frombuffer(data, stored_dtype).reshape(shape)
