"""Which rows a step draws: sub-batches of one data set each, every data set in epochs of its own.

The order depends on seed and step alone, so a run resumes in the middle of an epoch, and any number of
processes draws the same batches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lame_training.stages import Stage

Drawn = tuple[str, npt.NDArray[np.int64]]
"""A data set's name and row numbers of it."""


class Sampler:
    """The batches of one stage.

    Each sub-batch takes the next rows of its data set's current epoch, a fresh permutation each time; the few rows
    that do not fill a last sub-batch wait for another epoch. A data set smaller than a sub-batch gives all it has.

    Args:
        stage: its data sets, weights and batch.
        sizes: rows of each data set.
        seed: of the run and the stage.
    """

    def __init__(self, stage: Stage, sizes: Mapping[str, int], seed: tuple[int, ...]) -> None:
        self._stage = stage
        self._sizes = sizes
        self._seed = seed
        self._numbers = {task.name: number for number, task in enumerate(stage.tasks)}
        self._history: list[list[str]] = []
        """The data sets of each step so far."""
        self._before: list[dict[str, int]] = [{}]
        """Sub-batches that each data set has given before a step."""
        self._epochs: dict[str, tuple[int, npt.NDArray[np.int64]]] = {}

    def draw(self, step: int) -> list[Drawn]:
        """The sub-batches of a step (0-based within the stage)."""
        while len(self._history) <= step:
            names = self._choose(len(self._history))
            taken = dict(self._before[-1])
            for name in names:
                taken[name] = taken.get(name, 0) + 1
            self._history.append(names)
            self._before.append(taken)
        taken = dict(self._before[step])
        drawn = []
        for name in self._history[step]:
            drawn.append((name, self._rows(name, taken.get(name, 0))))
            taken[name] = taken.get(name, 0) + 1
        return drawn

    def _choose(self, step: int) -> list[str]:
        """Names of a step's sub-batches, by weight among the data sets it may draw from."""
        tasks = self._stage.drawn(step)
        weights = np.array([task.weight for task in tasks], dtype=np.float64)
        rng = np.random.default_rng((*self._seed, step))
        amount = self._stage.batch_size // self._stage.sub_batch
        return [tasks[int(i)].name for i in rng.choice(len(tasks), size=amount, p=weights / weights.sum())]

    def _rows(self, name: str, number: int) -> npt.NDArray[np.int64]:
        size = min(self._stage.sub_batch, self._sizes[name])
        epoch, place = divmod(number, self._sizes[name] // size)
        if self._epochs.get(name, (-1,))[0] != epoch:
            rng = np.random.default_rng((*self._seed, 1 + self._numbers[name], epoch, 0))
            self._epochs[name] = epoch, rng.permutation(self._sizes[name])
        return self._epochs[name][1][place * size : (place + 1) * size]
