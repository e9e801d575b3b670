"""The training loop: the steps of a recipe's stages, one after the other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lame_runtime.errors import InputError, TrainingError

from lame_training.data.collate import Collator
from lame_training.data.step_batch import StepBatch
from lame_training.distributed.processes import ProcessGroup
from lame_training.distributed.sharding import full_norm, refresh_trained_parameters, shard_model
from lame_training.model.lame import LaMEModel
from lame_training.objective.gradcache import ForwardContext, Losses, accumulate
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.stages import Stage
from lame_training.run.batches import StageBatches, StageRows
from lame_training.run.progress import Progress, StepRecord
from lame_training.run.resume import Moments, restore_moments, save_state
from lame_training.run.train_options import TrainOptions

# A resumed run draws the same rows and the same dropout from the same weights.
REMEDY = (
    "resuming would fail the same way: train again in another `output`, "
    "with lower rates in the recipe or another `seed`"
)
"""Advice in the message about a loss or gradient that is not finite."""
ALIGNMENT = 64
"""Bytes; every weight that is trained begins at a multiple of it, as PyTorch's own memory does."""


@dataclass(frozen=True)
class Training:
    """The parts of a run that stay the same in all its stages.

    Attributes:
        context: the model, the recipe and the processes.
        collator: lays out rows.
        output: the output folder.
        options: the options of the run.
        threads: number of threads that prepare pictures one step ahead; 0 for none.
        trained: names of the parameters that some stage trains.
        total: number of steps at which this process stops.
    """

    context: ForwardContext
    collator: Collator
    output: Path
    options: TrainOptions
    threads: int
    trained: set[str]
    total: int


def train_stages(
    training: Training,
    stage_rows: list[StageRows],
    start: int,
    moments: Moments,
    progress: Progress,
) -> None:
    """Runs the steps from `start` to `training.total`, stage by stage.

    Args:
        training: the run.
        stage_rows: the rows of each stage.
        start: number of steps that are done.
        moments: the optimizer's moments at `start`; emptied.
        progress: the log.
    """
    context = training.context
    stage_start = 0
    for number, stage in enumerate(context.recipe.stages):
        # empty for a stage that is done already, and for one that comes after the stop
        steps = range(max(start - stage_start, 0), min(stage.steps, training.total - stage_start))
        if steps:
            optimizer = stage.prepare(context.model)
            if context.sharded:
                # another stage trains other parameters, which FSDP2 does not notice by itself
                refresh_trained_parameters(context.model)
            # each stage has a fresh optimizer: only in the middle of one are there moments of it
            if start > stage_start:
                restore_moments(context.model, optimizer, moments)
            # the optimizer has its own copy, and the moments are twice as large as the weights
            moments.clear()
            batches = StageBatches(
                context.recipe, number, stage_rows[number], training.collator, context.world
            )
            step_start = time.perf_counter()
            for drawn in batches.iterate(steps, prefetch=training.threads > 0):
                # a collective: every process calls it, though only the main one writes the log
                dropped = context.world.all_gather_object(drawn.batch.dropped)
                progress.dropped(row for rows in dropped for row in rows)
                _seed_dropout(context.recipe.seed, number, drawn.step, context.world.rank)
                losses, norm = train_step(
                    context, stage.at(drawn.step), drawn.batch, optimizer, drawn.step
                )
                # before the clock is read: it waits for the slowest process
                samples = int(context.world.all_reduce_sum(drawn.rows))
                step_end = time.perf_counter()
                record = StepRecord(
                    step=stage_start + drawn.step + 1,
                    stage=stage.name,
                    losses=losses,
                    rate=max(stage.rates.values()) * stage.rate_factor(drawn.step),
                    norm=norm,
                    samples=samples,
                    seconds=step_end - step_start,
                )
                progress.step(record)
                # no new reading: the seconds of all steps add up to those of the run, and the time
                # to save a state counts toward the step after it
                step_start = step_end
                _save_if_due(training, record.step, optimizer, progress)
        stage_start += stage.steps


def _seed_dropout(seed: int, stage: int, step: int, rank: int) -> None:
    """Seeds the generator that dropout draws from, once per step.

    A resumed run then draws the same numbers, and every process draws its own.
    """
    # SeedSequence mixes the four numbers into one seed, whatever their sizes
    mixed = np.random.SeedSequence((seed, stage, step, rank)).generate_state(1)
    torch.manual_seed(int(mixed[0]))


def _save_if_due(
    training: Training, step: int, optimizer: torch.optim.AdamW, progress: Progress
) -> None:
    """Saves a state every `save_every` steps, and at the step at which this process stops."""
    recipe, options = training.context.recipe, training.options
    if step == recipe.steps:
        return  # the run is complete: the model itself is written next
    if step % (options.save_every or recipe.save_every) == 0 or step == training.total:
        # a log that lacked the state's last steps would have a gap after resuming
        progress.flush()
        save_state(
            training.output,
            step,
            training.context.model,
            optimizer,
            training.trained,
            keep=options.keep,
            write=training.context.world.is_main_process,
        )


def train_step(
    context: ForwardContext,
    stage: Stage,
    batch: StepBatch,
    optimizer: torch.optim.AdamW,
    step: int,
) -> tuple[Losses, float]:
    """Makes one update of the weights.

    Args:
        context: the model and how it is run.
        stage: loss weights and schedule.
        batch: this process's share of the step.
        optimizer: the stage's optimizer.
        step: 0-based within the stage.

    Returns:
        The losses over the batch of all processes, and the gradient's norm before clipping.

    Raises:
        InputError: no row of the step could be used.
        TrainingError: a loss or a gradient is not finite.
    """
    # a process whose own rows are all unusable still takes part in the collectives of the others
    if not context.world.all_reduce_sum(len(batch.chunks)):
        raise InputError(
            f"step {step + 1} of stage {stage.name!r} drew no row it can use: all were left out, "
            "or decode no text without L_nce; see skipped.jsonl, and the data sets' target_side"
        )
    model = context.model
    model.train()
    # None, not zeros: AdamW skips a parameter without a gradient, but moves one of zero gradient by
    # its momentum and its weight decay
    optimizer.zero_grad(set_to_none=True)
    losses = accumulate(context, batch, stage.nce_weight, stage.rec_weight)
    if not np.isfinite(losses.total):
        raise TrainingError(f"the loss of stage {stage.name!r} is {losses.total}; {REMEDY}")
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * stage.rate_factor(step)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # before clipping, which is by the norm of the whole batch's gradient; FSDP2 has summed the
    # gradients of sharded parameters in the backward pass
    if not context.sharded:
        context.world.sum_gradients(parameters)
    norm = full_norm(torch.nn.utils.clip_grad_norm_(parameters, context.recipe.clip_norm))
    # before the step, which would make every weight NaN
    if not np.isfinite(norm):
        raise TrainingError(f"a gradient of stage {stage.name!r} is not finite; {REMEDY}")
    optimizer.step()
    return losses, norm


def place(
    model: LaMEModel,
    recipe: Recipe,
    trained: set[str],
    processes: ProcessGroup,
    *,
    sharded: bool = False,
) -> None:
    """Puts the model where it is trained: in its precision, on its device, sharded or not.

    Args:
        model: the model, on the CPU.
        recipe: precision and gradient checkpointing.
        trained: names of the parameters that some stage trains.
        processes: the processes of the run.
        sharded: spread the parameters over the processes.
    """
    if recipe.gradient_checkpointing:
        backbone = model.backbone
        # transformers renamed the method in 5.2x
        enable = getattr(
            backbone, "activation_checkpointing_enable", backbone.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
    if sharded:
        shard_model(model, processes, recipe.precision)
        return
    if recipe.precision == "bf16":
        # half the memory; they take no small updates, for which BF16 would be too coarse
        for name, parameter in model.named_parameters():
            if name not in trained:
                parameter.data = parameter.data.to(torch.bfloat16)
    for parameter in model.parameters():
        # PyTorch's product of experts rounds differently where a weight lies at an odd place, as in
        # a file that is mapped; a resumed run would then not repeat an uninterrupted one
        if parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()
    model.to(processes.device)
