"""The lines that `--dry-run` prints: the recipe, its data sets, its parts, and memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lame_runtime.errors import UsageError, printable

from lame_training.data import describe as describe_rows
from lame_training.data import open_rows
from lame_training.model.adapters import is_adapter
from lame_training.model.components import PARTS
from lame_training.model.lame import LaMEModel
from lame_training.published.kept.starting_contract import KeptEmbedder
from lame_training.recipes.catalog import with_tasks
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.stages import WEIGHT_DECAY, Stage, trains
from lame_training.run.dry_run.input_check import dry_preparer, leave_out_unusable
from lame_training.run.dry_run.memory_estimate import TARGET, TOKENS, inputs_with_graph, memory
from lame_training.run.dry_run.weightless_model import weightless_model
from lame_training.run.train_options import TrainOptions

SETTINGS = (
    "embed_attends",
    "rec_from",
    "pooling",
    "temperature",
    "false_negative_margin",
    "chunk",
    "gradcache",
    "precision",
    "gradient_checkpointing",
    "matryoshka",
    "clip_norm",
    "picture_cache_mib",
    "save_every",
)
"""Fields of the recipe that are shown by name; the others have lines of their own."""


def describe(recipe: Recipe, data: Path | None, options: TrainOptions) -> str:
    """Describes a run: recipe, data sets, parts, and an estimate of memory.

    Nothing is trained and nothing is written.

    Args:
        recipe: the recipe.
        data: root of the training data; None leaves the rows uncounted.
        options: the options of the run. Without a `backbone`, the shape is the one that the recipe
            is made for.

    Returns:
        Lines of text.

    Raises:
        UsageError: the options do not fit the recipe.
        InputError: the data cannot be used.
        BundleError: a folder cannot be used.
    """
    recipe = options.applied_to(recipe)
    if data is not None:
        recipe = with_tasks(recipe, data, options.mixture_file, allow_outside=options.allow_outside)
    elif options.mixture is not None:
        raise UsageError(
            f"{options.mixture}: its paths are relative to the data root; pass that as `data`"
        )
    # opened here as a run would open them, so that unusable data is an error before the run
    rows = _described_rows(recipe, data, options)
    model = weightless_model(recipe, options.backbone_folder, options.decoder_folder)
    lines = _recipe_lines(recipe, model, options)
    for number, stage in enumerate(recipe.stages, 1):
        lines += ["", *_stage_lines(number, stage, rows)]
    lines += ["", *_part_lines(recipe, model), "", *_memory_lines(recipe, model)]
    return "\n".join(lines)


def _recipe_lines(recipe: Recipe, model: LaMEModel, options: TrainOptions) -> list[str]:
    """Returns lines about everything that holds for all stages."""
    lines = [
        f"recipe {recipe.name}: K {recipe.n_reason}, vectors of {recipe.dim}, seed {recipe.seed}"
    ]
    if recipe.from_paper:
        lines.append(f"  from the paper: {', '.join(recipe.from_paper)}; the rest is ours")
    if options.backbone is not None:
        source = str(options.backbone)
    elif recipe.scratch is not None:
        source = "from scratch"
    else:
        source = f"the published shape of {' '.join(recipe.published_shape or ())}"
    lines.append(f"  backbone: {model.backbone.config.model_type}, {source}")
    if isinstance(options.start, KeptEmbedder):
        pooling = "pooling" if options.start.pooling else "not its pooling"
        lines.append(f"  kept of the published embedder: weights, prompt, {pooling}")
    if model.decoder is None:
        lines.append("  decoder: none")
    else:
        config = model.decoder.config
        source = str(options.decoder or "freshly initialized")
        lines.append(
            f"  decoder: {source}, {config.num_hidden_layers} layers of width {config.hidden_size}"
        )
    # dataclasses as dictionaries: one line each, with the names of their fields
    lines.append(f"  budget: {dataclasses.asdict(recipe.budget)}")
    lines += [f"  {name}: {getattr(recipe, name)}" for name in SETTINGS]
    if recipe.lora is not None:
        lines.append(f"  lora: {dataclasses.asdict(recipe.lora)}")
    return lines


def _stage_lines(number: int, stage: Stage, rows: dict[str, list[str]]) -> list[str]:
    """Returns lines about a stage: length, loss, schedule and data sets."""
    ends = ""
    if stage.rec_weight > 0 and stage.rec_until < 1:
        ends = f", without L_rec after {stage.rec_until:.0%}"
    return [
        f"stage {number}, {stage.name}: {stage.steps} steps of {stage.batch_size} rows, "
        f"in sub-batches of {stage.sub_batch}",
        f"  loss: {stage.nce_weight:g} · L_nce + {stage.rec_weight:g} · L_rec{ends}",
        f"  rates rise over {stage.warmup:.0%} of the steps and fall on a cosine to a tenth; "
        f"AdamW, weight decay {WEIGHT_DECAY}",
        *(f"  {line}" for line in _task_lines(stage, rows)),
    ]


def _described_rows(
    recipe: Recipe, data: Path | None, options: TrainOptions
) -> dict[str, list[str]]:
    """Returns lines about the rows of each data set, by name; {} without data."""
    if data is None:
        return {}
    # several stages may draw from one data set, and opening it takes long
    tasks = {task.name: task for stage in recipe.stages for task in stage.tasks}
    opened = {
        name: open_rows(data, task, allow_outside=options.allow_outside)
        for name, task in tasks.items()
    }
    preparer = dry_preparer(recipe, opened.values(), options.start)
    lines = {}
    for name, rows in opened.items():
        remark = "give the backbone to look for damaged pictures and long texts"
        if preparer is not None:
            remark = leave_out_unusable(rows, preparer)
        remarks = [line for line in (remark, rows.shared_queries()) if line]
        lines[name] = [printable(line) for line in (describe_rows(rows), *remarks)]
    return lines


def _task_lines(stage: Stage, rows: dict[str, list[str]]) -> list[str]:
    """Returns a line about each data set of a stage: its rows, its share, what it decodes."""
    if not stage.tasks:
        return ["data sets: those found in the data root, or in a mixture"]
    # at the last step all of them have joined in
    drawn = stage.drawn(stage.steps)
    total_weight = sum(task.weight for task in drawn)
    lines = []
    for task in stage.tasks:
        share = "not drawn without L_nce"
        if task in drawn:
            share = f"{task.weight / total_weight:.1%} of the sub-batches"
        joins = f", joins at {task.begins:.0%}" if task.begins else ""
        name, *remarks = rows.get(task.name, [task.name])
        lines.append(f"{name}: {share}, decodes: {task.target_side}{joins}")
        lines += [f"  {remark}" for remark in remarks]
    return lines


def _part_lines(recipe: Recipe, model: LaMEModel) -> list[str]:
    """Returns a table of the model's parts: parameters, and the peak rate in each stage."""
    stages = "".join(f"{f'stage {number}':>12}" for number in range(1, len(recipe.stages) + 1))
    lines = [f"{'part':20}{'parameters':>16}{stages}"]
    # two prefixes of parameter names may belong to one part
    for part in dict.fromkeys(PARTS.values()):
        parameters = model.part(part)
        own = [(name, value) for name, value in parameters if not is_adapter(name)]
        adapter = [(name, value) for name, value in parameters if is_adapter(name)]
        for label, group in ((part, own), (f"{part} LoRA", adapter)):
            if not group:
                continue
            # a part's parameters all move or all stay, but for those of adapters
            moves = trains(model, group[0][0])
            rates = [
                f"{stage.rates[part]:.1e}" if part in stage.rates and moves else "frozen"
                for stage in recipe.stages
            ]
            count = sum(value.numel() for _, value in group)
            lines.append(f"{label:20}{count:>16,}" + "".join(f"{rate:>12}" for rate in rates))
    return lines


def _memory_lines(recipe: Recipe, model: LaMEModel) -> list[str]:
    """Returns a table of the memory that one process needs."""
    sizes = memory(recipe, model)
    return [
        f"memory of one process, estimated for inputs of {TOKENS} tokens and targets of {TARGET}, "
        f"{inputs_with_graph(recipe)} inputs with a graph at a time:",
        *(f"  {name:16}{size / 1e9:>10.2f} GB" for name, size in sizes.items()),
        f"  {'together':16}{sum(sizes.values()) / 1e9:>10.2f} GB",
    ]
