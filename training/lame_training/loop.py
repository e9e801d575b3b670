"""The training loop: stages one after the other, one kind of step for all of them, on one process or many."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lame_runtime.contract import Preparer
from lame_runtime.errors import InputError

from lame_training import checkpoint, start, states
from lame_training.collate import Collator, Row, Step, ahead
from lame_training.data import DataSet, Pair, Rows, describe, open_rows
from lame_training.environment import write_environment
from lame_training.gradient import Losses, Pass, accumulate
from lame_training.model import LaMEModel
from lame_training.packed_attention import use_packed_attention
from lame_training.progress import Progress
from lame_training.recipes import Recipe, with_tasks
from lame_training.sampler import Sampler
from lame_training.sharding import note_trained, shard, whole_norm
from lame_training.stages import Stage, trained_names
from lame_training.vocabulary import END
from lame_training.world import World

REMEDY = "--resume would come to the same: train anew in another --out, with lower rates in the recipe or another --seed"
"""Where a run left the finite numbers."""


@dataclass(frozen=True)
class Options:
    """What a run's result does not depend on."""

    save_every: int | None = None
    """Steps between states; None takes the recipe's."""
    keep: int = 1
    """States kept."""
    threads: int = 0
    """Pictures decoded at a time, a step ahead of the model; 0 decodes them between the steps."""
    device: str | None = None
    """None takes a GPU where there is one, "cpu" none."""
    shard: bool = False
    """Spread the parameters over the processes (FSDP2)."""


def run(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    backbone: Path | None = None,
    decoder: Path | None = None,
    mixture: Path | None = None,
    steps: int | None = None,
    resume: bool = False,
    progress: bool = True,
    options: Options | None = None,
) -> None:
    """Trains `recipe` on `data` and leaves a checkpoint in `out`.

    Args:
        recipe: the run.
        data: root of the training data; see `data`.
        out: the checkpoint folder.
        backbone: a folder that `save_pretrained` wrote, in place of the recipe's own; see `backbones`.
        decoder: likewise, of the latent decoder.
        mixture: a YAML file that names the data sets; see `data.mixture`.
        steps: stop after so many steps of the whole run and write the model as it is then; 0 writes the
            initialised model. None runs all stages.
        resume: continue from the newest state in `out`.
        progress: show a progress bar.
        options: how, not what.

    Raises:
        InputError: unusable data, a folder that already holds a run, a state of another recipe, a loss
            that is not finite.
    """
    options = options or Options()
    if steps is not None and steps < 0:
        raise InputError(f"--steps {steps}: use 0 or more")
    world = World(options.device)
    recipe = with_tasks(recipe, data, mixture)
    if world.main:
        start.check_folder(recipe, data, out, resume=resume)
    for stage in recipe.stages:
        world.share(list(range(stage.batch_size // stage.sub_batch)), f"sub-batches of stage {stage.name!r}")
    world.barrier()
    rows = _open(recipe, data, out, world)
    model, preparer, moments, done = _begin(recipe, data, out, rows, backbone, decoder, world, resume=resume)
    last = recipe.steps if steps is None else min(steps, recipe.steps)
    if last < done:
        raise InputError(f"{out}: stands at step {done}, so it cannot stop at {last}; give more --steps, or train anew elsewhere")
    use_packed_attention(model.backbone.visual)
    trained = trained_names(model, recipe.stages)
    if world.main:
        write_environment(out, world, sorted({describe(each) for stage in rows for each in stage.values()}))
        if not done:
            states.save_fixed(out, model, trained)
    place(model, recipe, trained, world, shard_it=options.shard)

    collator = Collator(preparer, preparer.tokenizer.special(END), recipe.chunk, recipe.picture_cache_mib, options.threads)
    through = Pass(model, recipe, world, collator.end_id, collator.filler() if options.shard else None)
    with Progress(out, done, last, show=progress, write=world.main) as log:
        begin = 0
        for number, stage in enumerate(recipe.stages):
            end = min(begin + stage.steps, last)
            if done < end:
                optimizer = stage.prepare(model)
                if options.shard:
                    note_trained(model)
                if done > begin:
                    states.restore_moments(model, optimizer, moments)
                moments = {}  # another copy of them is the optimizer's
                draw = _drawer(recipe, number, rows[number], collator, world)
                numbers = range(max(done, begin) - begin, end - begin)
                began = time.perf_counter()
                for step, batch in zip(numbers, ahead(draw, numbers) if options.threads else map(draw, numbers), strict=True):
                    log.dropped(each for part in world.objects(batch.dropped) for each in part)
                    torch.manual_seed(int(np.random.SeedSequence((recipe.seed, number, step, world.rank)).generate_state(1)[0]))
                    losses, norm = train_step(through, stage.at(step), batch, optimizer, step)
                    samples, now = int(world.total(len(batch.query_N) or len(batch.key_I))), time.perf_counter()
                    rate = max(stage.rates.values()) * stage.rate_factor(step)
                    log.step(begin + step + 1, stage.name, losses, rate=rate, norm=norm, samples=samples, seconds=now - began)
                    began = now
                    at = begin + step + 1
                    if (at % (options.save_every or recipe.save_every) == 0 or at == last) and at < recipe.steps:
                        log.flush()
                        states.save_state(out, at, model, optimizer, trained, keep=options.keep, write=world.main)
            begin += stage.steps
        left_out = log.summary()
    checkpoint.save_model(out, model, recipe, last, write=world.main)
    if world.main:
        if last == recipe.steps:
            states.remove_states(out)
            shutil.rmtree(out / "cache", ignore_errors=True)
        if left_out:
            print(f"left out: {left_out}; see {out / 'skipped.jsonl'}")
    world.barrier()


def initialise(recipe: Recipe, out: Path, backbone: Path, decoder: Path | None = None) -> None:
    """Writes the initialised model of a backbone, in the type the backbone's weights have; no data is needed.

    Raises:
        InputError: an unusable folder, or `out` already holds a run.
    """
    start.check_folder(recipe, None, out, resume=False)
    torch.manual_seed(recipe.seed)
    model, _ = start.start(recipe, None, [], out, backbone, decoder)
    checkpoint.save_model(out, model, recipe, 0)


def train_step(through: Pass, stage: Stage, batch: Step, optimizer: torch.optim.AdamW, step: int) -> tuple[Losses, float]:
    """One update.

    Args:
        through: the model and how it is run.
        stage: losses and rates.
        batch: this process's rows.
        optimizer: of the stage.
        step: 0-based within the stage.

    Returns:
        The losses and the gradient's norm before clipping.

    Raises:
        InputError: a loss or a gradient is not finite, or no row of the step could be used.
    """
    if not through.world.total(len(batch.chunks)):
        raise InputError(
            f"step {step + 1} of stage {stage.name!r} drew no row it can use: all were left out, or decode no text without L_nce; "
            "see skipped.jsonl, and the data sets' target_side"
        )
    model = through.model
    model.train()
    optimizer.zero_grad(set_to_none=True)
    losses = accumulate(through, batch, stage.nce_weight, stage.rec_weight)
    if not np.isfinite(losses.total):
        raise InputError(f"the loss of stage {stage.name!r} is {losses.total}; {REMEDY}")
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * stage.rate_factor(step)
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    if not through.sharded:
        through.world.sum_gradients(moved)
    norm = whole_norm(torch.nn.utils.clip_grad_norm_(moved, through.recipe.clip_norm))
    if not np.isfinite(norm):
        raise InputError(f"a gradient of stage {stage.name!r} is not finite; {REMEDY}")
    optimizer.step()
    return losses, norm


def _open(recipe: Recipe, data: Path, out: Path, world: World) -> list[dict[str, Rows]]:
    """Each stage's rows by data set; the main process opens first, and its Arrow copies in `OUT/cache` serve the others."""
    if not world.main:
        world.barrier()
    opened: dict[DataSet, Rows] = {}
    stages = []
    for stage in recipe.stages:
        rows = {}
        for task in stage.tasks:
            same = replace(task, weight=1.0, begins=0.0)  # what a stage makes of its rows is the stage's own
            opened[same] = rows[task.name] = opened.get(same) or open_rows(data, task, out / "cache")
        stages.append(rows)
    if world.main:
        for each in opened.values():
            if each.skipped:
                print(describe(each))
        world.barrier()
    return stages


def _begin(
    recipe: Recipe,
    data: Path,
    out: Path,
    rows: Sequence[Mapping[str, Sequence[Pair]]],
    backbone: Path | None,
    decoder: Path | None,
    world: World,
    *,
    resume: bool,
) -> tuple[LaMEModel, Preparer, dict[str, dict[str, torch.Tensor]], int]:
    """Model, contract, the optimizer's moments and the steps behind them: of the newest state, or of step 0."""
    saved = states.complete_states(out) if resume else []
    architecture = checkpoint.read_architecture(out) if resume else {}
    if resume and not saved and (finished := checkpoint.steps_of(out)) == recipe.steps:
        raise InputError(f"{out}: is complete, all {finished} steps are done; train longer under another recipe and --out")
    if resume and not saved and architecture["from_folder"] and backbone is None:
        raise InputError(f"{out}: no step was saved yet, so the run begins again: give its --backbone (and --decoder) once more")
    torch.manual_seed(recipe.seed)
    if saved:
        model, preparer = start.rebuild(architecture, recipe.lora), Preparer.load(out)
        return model, preparer, states.load_state(saved[-1], model), states.step_of(saved[-1])
    if not world.main:  # the main process writes what the others read
        world.barrier()
    opened = [each for stage in rows for each in stage.values()]
    model, preparer = start.start(recipe, data, opened, out, backbone, decoder, write=world.main)
    if world.main:
        world.barrier()
    sums = world.objects(float(sum(parameter.detach().double().abs().sum() for parameter in model.parameters())))
    if len(set(sums)) > 1:
        raise InputError("the processes start from different weights; use the same versions, files and seed in all of them")
    return model, preparer, {}, 0


def place(model: LaMEModel, recipe: Recipe, trained: set[str], world: World, *, shard_it: bool = False) -> None:
    """The model where and as it is trained: weights that stay as they are in the recipe's precision, on the device, sharded or not."""
    if recipe.gradient_checkpointing:
        backbone = model.backbone  # transformers 5.2x renamed it
        getattr(backbone, "activation_checkpointing_enable", backbone.gradient_checkpointing_enable)({"use_reentrant": False})
    if shard_it:
        shard(model, world, recipe.precision)
        return
    if recipe.precision == "bf16":
        for name, parameter in model.named_parameters():
            if name not in trained:
                parameter.data = parameter.data.to(torch.bfloat16)
    model.to(world.device)


def _drawer(recipe: Recipe, number: int, rows: Mapping[str, Sequence[Pair]], collator: Collator, world: World) -> Callable[[int], Step]:
    """What makes this process's share of each step of stage `number`."""
    stage = recipe.stages[number]
    sampler = Sampler(stage, {task.name: len(rows[task.name]) for task in stage.tasks}, (recipe.seed, number))

    def draw(step: int) -> Step:
        drawn = world.share(sampler.draw(step), "sub-batches of a step")
        chosen = [Row(name, int(each), rows[name][int(each)]) for name, places in drawn for each in places]
        return collator(chosen, contrastive=stage.nce_weight > 0, reconstructing=stage.at(step).rec_weight > 0)

    return draw
