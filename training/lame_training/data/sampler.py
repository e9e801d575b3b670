"""Draws the rows of each step: sub-batches of one data set each, each data set in its own epochs.

The order depends only on the seed and the step. A run therefore resumes in the middle of an epoch,
and any number of processes draws the same batches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lame_training.recipes.stages import Stage

SubBatch = tuple[str, npt.NDArray[np.int64]]
"""The name of a data set and row numbers of it, int64 (rows,)."""


class Sampler:
    """Draws the batches of one stage.

    Each sub-batch takes the next rows of its data set's current epoch, and each epoch is a fresh
    permutation. The few rows that do not fill the last sub-batch of an epoch wait for another
    epoch. A data set smaller than a sub-batch gives all its rows.

    Args:
        stage: the stage, with its data sets, weights and batch size.
        sizes: the number of rows of each data set.
        seed: the seeds of the run and of the stage.
    """

    def __init__(self, stage: Stage, sizes: Mapping[str, int], seed: tuple[int, ...]) -> None:
        self._stage = stage
        self._sizes = sizes
        self._seed = seed
        # Part of the seed, so that two data sets of one size have different permutations.
        self._numbers = {task.name: number for number, task in enumerate(stage.tasks)}
        self._history: list[list[str]] = []
        """Names of the data sets that each step so far draws from, one per sub-batch."""
        self._given_before: list[dict[str, int]] = [{}]
        """Sub-batches that each data set has given before each step, by name."""
        self._epochs: dict[str, tuple[int, npt.NDArray[np.int64]]] = {}
        """Number and permutation of the current epoch, by name."""

    def draw(self, step: int) -> list[SubBatch]:
        """Returns the sub-batches of a step (0-based within the stage)."""
        # Which epoch a data set is in depends on all steps before. Replaying them draws only names,
        # which is cheap, so a resumed run needs no saved state of the sampler.
        while len(self._history) <= step:
            names = self._choose_names(len(self._history))
            given = dict(self._given_before[-1])
            for name in names:
                given[name] = given.get(name, 0) + 1
            self._history.append(names)
            self._given_before.append(given)
        given = dict(self._given_before[step])
        sub_batches = []
        for name in self._history[step]:
            sub_batches.append((name, self._rows(name, given.get(name, 0))))
            given[name] = given.get(name, 0) + 1
        return sub_batches

    def _choose_names(self, step: int) -> list[str]:
        """Chooses a data set for each sub-batch of a step, by weight."""
        tasks = self._stage.drawn(step)
        weights = np.array([task.weight for task in tasks], dtype=np.float64)
        # A generator per step: the choice does not depend on how many steps were drawn before.
        rng = np.random.default_rng((*self._seed, step))
        count = self._stage.batch_size // self._stage.sub_batch
        choices = rng.choice(len(tasks), size=count, p=weights / weights.sum())
        return [tasks[int(choice)].name for choice in choices]

    def _rows(self, name: str, number: int) -> npt.NDArray[np.int64]:
        """Returns the rows of a data set's sub-batch `number`, 0-based over the whole stage."""
        size = min(self._stage.sub_batch, self._sizes[name])
        epoch, place = divmod(number, self._sizes[name] // size)
        if self._epochs.get(name, (-1,))[0] != epoch:
            # The last 0 is no filler. NumPy pads seeds shorter than four integers with zeros, so
            # without it epoch 0 of data set n would be seeded like step n + 1 of `_choose_names`.
            rng = np.random.default_rng((*self._seed, 1 + self._numbers[name], epoch, 0))
            # Only the current epoch is kept: eight bytes per row of each data set.
            self._epochs[name] = epoch, rng.permutation(self._sizes[name])
        return self._epochs[name][1][place * size : (place + 1) * size]
