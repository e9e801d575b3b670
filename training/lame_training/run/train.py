"""A training run from beginning to end: data, starting point, stages, checkpoint."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from lame_runtime.errors import StorageError, UsageError, first_line

from lame_training.contract_from.tokenizer_training import END
from lame_training.data import describe
from lame_training.data.collate import Collator
from lame_training.data.digits import write_digits
from lame_training.distributed.processes import ProcessGroup
from lame_training.folder_lock import locked_folder
from lame_training.model.checkpoint import save_model
from lame_training.model.packed_attention import use_packed_attention
from lame_training.objective.gradcache import ForwardContext
from lame_training.recipes.catalog import with_tasks
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.scratch_backbone import needs_backbone
from lame_training.recipes.stages import trained_names
from lame_training.run.batches import check_shares, open_stage_rows, unusable_rows
from lame_training.run.environment import write_environment
from lame_training.run.initialization import (
    StartingPoint,
    initialize,
    starting_point,
)
from lame_training.run.loop import Training, place, train_stages
from lame_training.run.progress import Progress
from lame_training.run.resume import remove_states, save_fixed
from lame_training.run.run_folder import check_folder
from lame_training.run.train_options import TrainOptions

GPU_THREADS = 8
"""Threads that prepare pictures if a GPU computes; a CPU has none to spare."""


def train_recipe(
    recipe: Recipe,
    data: Path | None,
    output: Path,
    options: TrainOptions,
    processes: ProcessGroup,
) -> dict[str, int]:
    """Trains a recipe and leaves a checkpoint; `lame_training.train` is the public form.

    Every process of the run must call this.

    Args:
        recipe: the recipe.
        data: root of the training data; see `lame_training.train`.
        output: the output folder.
        options: the options of the run.
        processes: the processes of the run.

    Returns:
        The number of rows that were left out of each data set, without those that lost none.

    Raises:
        LameError: see `lame_training.train`.
    """
    # first: what is compared with an earlier run, and recorded, is the recipe as it is trained
    recipe = options.applied_to(recipe)
    # before data is written or opened; a resumed run has its architecture in its folder
    if recipe.scratch is None and options.backbone is None and not options.resume:
        raise UsageError(needs_backbone(recipe))
    # one process writes, so one holds the lock: the others would refuse each other
    lock = locked_folder(output) if processes.is_main_process else nullcontext()
    with _translated(output), lock:
        return _locked(recipe, data, output, options, processes)


@contextmanager
def _translated(output: Path) -> Iterator[None]:
    """Turns an `OSError` that nothing closer to its cause has translated into a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{error.filename or output}: {error.strerror or first_line(error)}; check the disk "
            "and the permissions, and continue with `resume=True`"
        ) from None


def _locked(
    recipe: Recipe,
    data: Path | None,
    output: Path,
    options: TrainOptions,
    processes: ProcessGroup,
) -> dict[str, int]:
    """Trains a recipe in a folder that no other run writes to."""
    backbone = options.start
    if data is None and options.steps == 0 and backbone is not None:
        # nothing is trained, and the tokenizer is the backbone's: no row is needed
        if processes.is_main_process:  # all processes would write the same files
            initialize(recipe, output, backbone, options.decoder_folder)
        processes.barrier()
        return {}
    if data is None:
        data = _digits_folder(recipe, output, options, processes)
    return _train(recipe, data, output, options, processes)


def _digits_folder(
    recipe: Recipe, output: Path, options: TrainOptions, processes: ProcessGroup
) -> Path:
    """Writes the digits data set into the output folder, unless it is there, and returns its root.

    Raises:
        UsageError: the recipe does not train on the digits.
    """
    if options.mixture is not None or not all(stage.tasks for stage in recipe.stages):
        raise UsageError(
            f"recipe {recipe.name} needs data: pass the root of an MMEB-style data set as `data`"
        )
    folder = output / "data"
    if processes.is_main_process:
        # first of all: a folder that holds another run must be left as it is
        check_folder(recipe, None, output, resume=options.resume)
        if not folder.is_dir():
            write_digits(folder)
    processes.barrier()
    return folder


def _train(
    recipe: Recipe, data: Path, output: Path, options: TrainOptions, processes: ProcessGroup
) -> dict[str, int]:
    """Trains a recipe on data that exists."""
    # with its data sets the recipe says everything that recipe.json must record
    outside = options.allow_outside
    recipe = with_tasks(recipe, data, options.mixture_file, allow_outside=outside)
    if processes.is_main_process:
        check_folder(recipe, data, output, resume=options.resume, allow_outside=outside)
    # before anything is opened: an unsuitable number of processes is noticed at once
    check_shares(recipe, processes)
    # no process may go on to write into a folder that is still being checked
    processes.barrier()
    stage_rows = open_stage_rows(recipe, data, output / "cache", processes, allow_outside=outside)
    all_rows = [rows for by_name in stage_rows for rows in by_name.values()]
    start = starting_point(recipe, data, output, all_rows, options, processes)
    total = _last_step(recipe, output, options, start)
    model = start.model
    use_packed_attention(model.backbone.visual)
    trained = trained_names(model, recipe.stages)
    if processes.is_main_process:
        write_environment(output, processes, sorted({describe(rows) for rows in all_rows}))
        if not start.step:
            # before `place` casts or shards the weights that never change
            save_fixed(output, model, trained)
    place(model, recipe, trained, processes, sharded=options.shard)

    threads = options.threads
    if threads is None:
        threads = GPU_THREADS if processes.device.type == "cuda" else 0
    end_id = start.preparer.tokenizer.special(END)
    collator = Collator(start.preparer, end_id, recipe.chunk, recipe.picture_cache_mib, threads)
    # sharded parameters are gathered by all processes at once, so all must run the model equally
    # often: the filler is what a process runs when its own chunks are used up
    filler = collator.filler() if options.shard else None
    context = ForwardContext(model, recipe, processes, end_id, filler)
    training = Training(context, collator, output, options, threads, trained, total)
    with Progress(
        output, start.step, total, show=options.progress, write=processes.is_main_process
    ) as progress:
        # those of opening first, so that skipped.jsonl names all rows that the run does not use
        progress.dropped(unusable_rows(stage_rows), report=False)
        train_stages(training, stage_rows, start.step, start.moments, progress)
        left_out = Counter(progress.left_out())
    opened = {name: rows for by_name in stage_rows for name, rows in by_name.items()}
    left_out.update({name: rows.skipped.total() for name, rows in opened.items()})

    # after the log is closed: config.json, written last, says that the folder is complete
    save_model(output, model, recipe, total, write=processes.is_main_process)
    # a run that stopped earlier keeps its states, to be continued
    if processes.is_main_process and total == recipe.steps:
        remove_states(output)
        shutil.rmtree(output / "cache", ignore_errors=True)
    # nobody may close the process group while another process still works
    processes.barrier()
    # without those that lost none
    return dict(+left_out)


def _last_step(recipe: Recipe, output: Path, options: TrainOptions, start: StartingPoint) -> int:
    """Returns the number of steps at which to stop; raises `UsageError` if more are done."""
    total = recipe.steps if options.steps is None else min(options.steps, recipe.steps)
    if total < start.step:
        raise UsageError(
            f"{output}: is already at step {start.step}, so it cannot stop at {total}; "
            "give more `steps`, or train again elsewhere"
        )
    return total
