"""Gives rows of equal content different ids, in the order of the source."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from lame_runtime.bulk.audit import id_key

_MERGED = 1 << 16
"""Ids that are held as Python objects; the others take 8 bytes each."""
_REPEAT = re.compile(r"(?P<first>.+)-(?P<number>\d+)", re.DOTALL)


class SeenIds:
    """Ids of content that have occurred; a second row of the same content gets `ID-2`."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._counts: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """Returns the id of the next row, whose content has the id `name`."""
        key = id_key(name)
        if not self._contains(key):
            self._add(key)
            return name
        self._counts[name] = self._counts.get(name, 1) + 1
        return f"{name}-{self._counts[name]}"

    def restore(self, name: str) -> None:
        """Notes an id that `unique` returned in an earlier run."""
        # a given id may look like that as well, and then its first part was never seen
        match = _REPEAT.fullmatch(name)
        if match and self._contains(id_key(match["first"])):
            self._counts[match["first"]] = int(match["number"])
        else:
            self._add(id_key(name))

    def _contains(self, key: int) -> bool:
        if key in self._recent:
            return True
        # keys of 64 bits may be equal by chance; such a row only gets a number that it did not need
        place = int(np.searchsorted(self._sorted, np.uint64(key)))
        return place < len(self._sorted) and int(self._sorted[place]) == key

    def _add(self, key: int) -> None:
        self._recent.add(key)
        if len(self._recent) >= _MERGED:
            fresh = np.fromiter(self._recent, np.uint64, len(self._recent))
            # sorted once in 65,536 rows, which takes less than a second for 10 million
            self._sorted = np.sort(np.concatenate([self._sorted, fresh]))
            self._recent.clear()
