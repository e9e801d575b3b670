"""The batches of a run: rows are opened once, drawn by seed and step, and shared by processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lame_training.data import DataSet, Pair, Rows, open_rows
from lame_training.data.collate import Collator
from lame_training.data.collate import prefetch as prefetch_batches
from lame_training.data.sampler import Sampler
from lame_training.data.step_batch import BatchRow, Dropped, StepBatch
from lame_training.distributed.processes import ProcessGroup
from lame_training.recipes.recipe import Recipe

StageRows = dict[str, Rows]
"""The rows of a stage, by the name of the data set."""


def open_stage_rows(
    recipe: Recipe,
    data: Path,
    cache: Path,
    processes: ProcessGroup,
    *,
    allow_outside: bool = False,
) -> list[StageRows]:
    """Opens the rows of every stage.

    Args:
        recipe: the recipe, with data sets in every stage.
        data: root of the training data.
        cache: folder for Arrow copies of the rows.
        processes: the processes of the run.
        allow_outside: whether paths and links may lead out of `data`.

    Returns:
        The rows of each stage by data set. A data set of several stages is opened once.

    Raises:
        InputError: a data set cannot be read, or has no usable row.
    """
    # the main process writes the Arrow copies; the others wait, and then map the same files
    if not processes.is_main_process:
        processes.barrier()
    opened: dict[DataSet, Rows] = {}
    stages = []
    for stage in recipe.stages:
        stage_rows: StageRows = {}
        for task in stage.tasks:
            # weight and begins say how a stage draws; the rows are the same
            key = replace(task, weight=1.0, begins=0.0)
            if key not in opened:
                opened[key] = open_rows(data, task, cache, allow_outside=allow_outside)
            stage_rows[task.name] = opened[key]
        stages.append(stage_rows)
    if processes.is_main_process:
        # every process has counted the same rows
        for rows in opened.values():
            rows.warn()
        processes.barrier()
    return stages


def unusable_rows(stage_rows: list[StageRows]) -> list[Dropped]:
    """Returns the rows that were left out when the data sets were opened, as far as they are named.

    All of them are counted in `Rows.skipped`.
    """
    data_sets = {name: rows for by_name in stage_rows for name, rows in by_name.items()}
    return [
        Dropped(name, -1, f"{reason}: {file}" if file else reason, rows.places.of(row))
        for name, rows in data_sets.items()
        for row, reason, file in rows.named
    ]


def check_shares(recipe: Recipe, processes: ProcessGroup) -> None:
    """Raises an error if the processes cannot share the sub-batches of every stage equally."""
    # whole sub-batches, so that a sub-batch's rows, which share a data set, stay in one process
    for stage in recipe.stages:
        sub_batches = list(range(stage.batch_size // stage.sub_batch))
        processes.shard_list(sub_batches, f"sub-batches of stage {stage.name!r}")


@dataclass(frozen=True)
class DrawnBatch:
    """One process's share of a step.

    Attributes:
        step: 0-based within the stage.
        batch: the rows, laid out.
        rows: number of rows that the losses are computed on; rows that were left out do not count.
    """

    step: int
    batch: StepBatch
    rows: int


class StageBatches:
    """Draws the batches of one stage.

    Args:
        recipe: the recipe; its seed and the stage's number give the order of the rows.
        number: which stage.
        rows: the stage's rows by data set.
        collator: lays out the rows.
        processes: the processes, each of which gets an equal share of a step's sub-batches.
    """

    def __init__(
        self,
        recipe: Recipe,
        number: int,
        rows: Mapping[str, Sequence[Pair]],
        collator: Collator,
        processes: ProcessGroup,
    ) -> None:
        self._stage = recipe.stages[number]
        self._rows = rows
        self._collator = collator
        self._processes = processes
        sizes = {task.name: len(rows[task.name]) for task in self._stage.tasks}
        # the stage's number is part of the seed, so that two stages differ in their order
        self._sampler = Sampler(self._stage, sizes, (recipe.seed, number))

    def draw(self, step: int) -> DrawnBatch:
        """Draws and lays out this process's share of a step (0-based within the stage)."""
        # every process draws the whole step, so the order does not depend on how many there are
        share = self._processes.shard_list(self._sampler.draw(step), "sub-batches of a step")
        rows = [
            BatchRow(name, int(index), self._rows[name][int(index)])
            for name, indices in share
            for index in indices
        ]
        # what a step does not need is not prepared: without L_nce only inputs that decode a text
        contrastive = self._stage.nce_weight > 0
        reconstructing = self._stage.at(step).rec_weight > 0
        batch = self._collator(rows, contrastive=contrastive, reconstructing=reconstructing)
        if batch.dropped:
            batch = replace(batch, dropped=[self._placed(entry) for entry in batch.dropped])
        # in both cases rows, so that the log's unit is the same in every stage
        count = len(batch.query_N) if contrastive else _decoding_rows(rows, batch)
        return DrawnBatch(step, batch, count)

    def _placed(self, dropped: Dropped) -> Dropped:
        """Adds the file and line of a row that was left out."""
        rows = self._rows[dropped.data_set]
        place = rows.place(dropped.number) if isinstance(rows, Rows) else ""
        return replace(dropped, place=place)

    def iterate(self, steps: range, *, prefetch: bool) -> Iterator[DrawnBatch]:
        """Yields the batches of some steps.

        Args:
            steps: the steps, 0-based within the stage.
            prefetch: prepare each batch in a thread while the caller works on the one before it.
        """
        # a single thread draws, in order, because the sampler remembers the steps it has drawn
        return prefetch_batches(self.draw, steps) if prefetch else map(self.draw, steps)


def _decoding_rows(rows: Sequence[BatchRow], batch: StepBatch) -> int:
    """Returns how many rows of a stage without L_nce decode a text and were not left out."""
    # without L_nce no hard negative is prepared, so every entry is a row
    dropped = {(entry.data_set, entry.number) for entry in batch.dropped}
    return sum(
        (row.data_set, row.number) not in dropped
        and (row.pair.query_decodes is not None or row.pair.positive_decodes is not None)
        for row in rows
    )
