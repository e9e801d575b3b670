"""Keeps the best rows of a scan that brings scores block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


class Nearest:
    """The rows with the highest scores so far; of equal scores, the row that came first.

    Args:
        most: number of rows to keep.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: list[Numbers] = []
        self._scores: list[Scores] = []
        self._held = 0
        self._least = -np.inf

    def add(self, rows: Numbers, scores: npt.NDArray[Any]) -> None:
        """Adds a block.

        Args:
            rows: numbers (m,), higher than those of every block before.
            scores: (m,); they are copied.
        """
        # Most blocks hold nothing better, and comparing is cheaper than sorting. Strictly better,
        # because a later row of an equal score does not count.
        places = np.flatnonzero(scores > self._least)
        if not len(places):
            return
        self._rows.append(rows[places])
        self._scores.append(scores[places].astype(np.float64))
        self._held += len(places)
        # seldom, so that a row is sorted about once
        if self._held >= 2 * self._most:
            self._shrink()

    def merge(self, other: Nearest) -> None:
        """Adds what another scan of other rows has kept."""
        rows, scores = other.best()
        self._rows.append(rows)
        self._scores.append(scores)
        self._shrink()

    def best(self) -> tuple[Numbers, Scores]:
        """Returns the rows and their scores, the best first."""
        self._shrink()
        if not self._rows:
            return np.empty(0, dtype=np.int64), np.empty(0)
        return self._rows[0], self._scores[0]

    def _shrink(self) -> None:
        if not self._rows:
            return
        rows, scores = np.concatenate(self._rows), np.concatenate(self._scores)
        if len(rows) > 4 * self._most:
            # sorting all of a first block would take longer than scanning it
            kept = np.partition(scores, len(scores) - self._most)[len(scores) - self._most]
            places = np.flatnonzero(scores >= kept)
            rows, scores = rows[places], scores[places]
        order = np.lexsort((rows, -scores))[: self._most]
        self._rows, self._scores, self._held = [rows[order]], [scores[order]], len(order)
        # with fewer rows, any score counts
        if len(order) == self._most:
            self._least = float(self._scores[0][-1])
