"""`lame-train run RECIPE --dry-run`: the whole recipe in words, what moves in which stage, and what memory it takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from accelerate import init_empty_weights
from lame_runtime.errors import InputError
from transformers import PreTrainedConfig, Qwen3Config

from lame_training.adapters import add_lora, is_adapter
from lame_training.backbones import FAMILIES, config_folder, read_config, read_decoder_config
from lame_training.data import describe as describe_rows
from lame_training.data import open_rows
from lame_training.model import PARTS, LaMEModel
from lame_training.recipes import Recipe, with_tasks
from lame_training.shapes import SHAPES
from lame_training.stages import WEIGHT_DECAY, Stage, trained_names, trains
from lame_training.start import no_decoder

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
TOKENS, TARGET = 1024, 64
"""The lengths of an input (or the recipe's limit) and of a target text that memory is estimated for."""


def describe(recipe: Recipe, data: Path | None, mixture: Path | None, backbone: Path | None, decoder: Path | None) -> str:
    """The recipe, its data sets, its parts and an estimate of memory, as lines of text. Nothing is trained, and nothing left behind.

    Args:
        recipe: the run.
        data: root of the data; None leaves the rows uncounted.
        mixture: see `loop.run`.
        backbone: a folder of one; without it the shape that the recipe is made for.
        decoder: a folder of a latent decoder.

    Raises:
        InputError: unusable data or folders.
    """
    if data is not None:
        recipe = with_tasks(recipe, data, mixture)
    elif mixture is not None:
        raise InputError(f"{mixture}: its paths begin at the root of the data; name that with --data")
    rows = _rows(recipe, data)
    model = _model(recipe, backbone, decoder)
    lines = [f"recipe {recipe.name}: K {recipe.n_reason}, vectors of {recipe.dim}, seed {recipe.seed}"]
    if recipe.from_paper:
        lines.append(f"  of the paper: {', '.join(recipe.from_paper)}; all else is ours")
    shape = " ".join(recipe.published_shape or ())
    source = str(backbone) if backbone else "from scratch" if recipe.scratch else f"the published shape of {shape}"
    lines.append(f"  backbone: {model.backbone.config.model_type}, {source}")
    if model.decoder is None:
        lines.append("  decoder: none")
    else:
        shape = model.decoder.config
        lines.append(f"  decoder: {decoder or 'freshly initialised'}, {shape.num_hidden_layers} layers of width {shape.hidden_size}")
    lines.append(f"  budget: {dataclasses.asdict(recipe.budget)}")
    lines += [f"  {name}: {getattr(recipe, name)}" for name in SETTINGS]
    if recipe.lora is not None:
        lines.append(f"  lora: {dataclasses.asdict(recipe.lora)}")
    for number, stage in enumerate(recipe.stages, 1):
        lines += ["", f"stage {number}, {stage.name}: {stage.steps} steps of {stage.batch_size} rows, in sub-batches of {stage.sub_batch}"]
        ends = f", without L_rec after {stage.rec_until:.0%}" if stage.rec_weight > 0 and stage.rec_until < 1 else ""
        lines.append(f"  loss: {stage.nce_weight:g} · L_nce + {stage.rec_weight:g} · L_rec{ends}")
        lines.append(
            f"  rates rise over {stage.warmup:.0%} of the steps and fall on a cosine to a tenth; AdamW, weight decay {WEIGHT_DECAY}"
        )
        lines += [f"  {line}" for line in _tasks(stage, rows)]
    lines += ["", *_parts(recipe, model), "", *_memory(recipe, model)]
    return "\n".join(lines)


def _model(recipe: Recipe, backbone: Path | None, decoder: Path | None) -> LaMEModel:
    """The model without memory for its weights."""
    if backbone is not None:
        config: PreTrainedConfig = read_config(config_folder(backbone))
    elif recipe.scratch is not None:
        text = {**recipe.scratch.config["text_config"], "vocab_size": recipe.scratch.vocab_size, "bos_token_id": None, "eos_token_id": 2}
        config = FAMILIES["qwen2_vl"].config(**{**recipe.scratch.config, "text_config": text})
    elif recipe.published_shape is not None:
        config = FAMILIES[recipe.published_shape[0]].config(**SHAPES[recipe.published_shape])
    else:
        raise InputError(f"recipe {recipe.name} needs a backbone: give the folder of one with --backbone")
    made = None
    if recipe.decoder is not None:
        words = {"vocab_size": config.text_config.vocab_size, "bos_token_id": None, "eos_token_id": 2}
        made = Qwen3Config(**{**words, **recipe.decoder}) if decoder is None else read_decoder_config(decoder)
    elif decoder is not None:
        raise InputError(no_decoder(recipe))
    with init_empty_weights(include_buffers=False):
        switches = recipe.embed_attends, recipe.rec_from, recipe.pooling
        model = LaMEModel.from_configs(config, made, recipe.n_reason, recipe.dim, *switches)
        if recipe.lora is not None:
            add_lora(model.backbone, recipe.lora)
    if model.decoder is not None:
        model.decoder.tie_weights()
    return model


def _rows(recipe: Recipe, data: Path | None) -> dict[str, str]:
    """What is said of each data set, opened once; nothing without data."""
    if data is None:
        return {}
    return {
        task.name: describe_rows(open_rows(data, task)) for task in {task.name: task for s in recipe.stages for task in s.tasks}.values()
    }


def _tasks(stage: Stage, rows: dict[str, str]) -> list[str]:
    if not stage.tasks:
        return ["data sets: those found in --data, or in a mixture"]
    total = sum(task.weight for task in stage.drawn(stage.steps))
    lines = []
    for task in stage.tasks:
        joins = f", joins at {task.begins:.0%}" if task.begins else ""
        share = f"{task.weight / total:.1%} of the sub-batches" if task in stage.drawn(stage.steps) else "not drawn without L_nce"
        lines.append(f"{rows.get(task.name, task.name)}: {share}, decodes: {task.target_side}{joins}")
    return lines


def _parts(recipe: Recipe, model: LaMEModel) -> list[str]:
    """A table of parts: parameters, and the peak learning rate in each stage."""
    lines = [f"{'part':20}{'parameters':>16}" + "".join(f"{f'stage {number}':>12}" for number in range(1, len(recipe.stages) + 1))]
    for part in dict.fromkeys(PARTS.values()):
        own = [(name, value) for name, value in model.part(part) if not is_adapter(name)]
        added = [(name, value) for name, value in model.part(part) if is_adapter(name)]
        for label, parameters in ((part, own), (f"{part} LoRA", added)):
            if parameters:
                moves = trains(model, parameters[0][0])
                rates = [f"{stage.rates[part]:.1e}" if part in stage.rates and moves else "frozen" for stage in recipe.stages]
                lines.append(f"{label:20}{sum(value.numel() for _, value in parameters):>16,}" + "".join(f"{rate:>12}" for rate in rates))
    return lines


def _memory(recipe: Recipe, model: LaMEModel) -> list[str]:
    parts = memory(recipe, model)
    inputs = _inputs(recipe)
    lines = [
        f"memory of one process, estimated for inputs of {TOKENS} tokens and targets of {TARGET}, {inputs} inputs with a graph at a time:"
    ]
    lines += [f"  {name:16}{size / 1e9:>10.2f} GB" for name, size in parts.items()]
    return [*lines, f"  {'together':16}{sum(parts.values()) / 1e9:>10.2f} GB"]


def memory(recipe: Recipe, model: LaMEModel) -> dict[str, int]:
    """Estimated bytes of one process that shares nothing with others, at the stage that needs most, by what takes them."""
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    trained = trained_names(model, recipe.stages)
    half = recipe.precision == "bf16"
    weights = sum(size * (2 if half and name not in trained else 4) for name, size in sizes.items())
    moving = max(sum(sizes[name] for name in trained_names(model, [stage])) for stage in recipe.stages)
    tokens = min(TOKENS, recipe.budget.max_length)
    kept = activations(recipe, model, _inputs(recipe), tokens)
    return {"weights": weights, "gradients": 4 * moving, "Adam's moments": 8 * moving, "activations": kept}


def _inputs(recipe: Recipe) -> int:
    """Inputs with a graph at a time."""
    return recipe.chunk if recipe.gradcache else 2 * max(stage.batch_size for stage in recipe.stages)


def activations(recipe: Recipe, model: LaMEModel, inputs: int, tokens: int, target: int = TARGET) -> int:
    """Bytes that the language model and the decoder keep for the backward pass of `inputs` inputs; a frozen tower keeps none.

    A block keeps about 48 bytes per token and unit of width and 16 per token and unit of its MLP, in FP32 and in BF16 under autocast
    alike (counted on blocks of Qwen2-VL and Qwen3-VL, whose rotations and norms are kept in FP32); recomputing leaves its input alone.
    """
    text = model.backbone.config.text_config
    block = 48 * text.hidden_size + 16 * text.intermediate_size
    layers: int = text.num_hidden_layers
    kept = 4 * text.hidden_size * layers + block if recipe.gradient_checkpointing else block * layers
    total = inputs * tokens * kept
    if model.decoder is not None:
        config = model.decoder.config
        block = 48 * config.hidden_size + 16 * config.intermediate_size
        rows = recipe.n_reason + 1 + target
        # logits, their FP32 copy and its gradient
        total += inputs * (rows * block * config.num_hidden_layers + (target + 1) * config.vocab_size * 12)
    return int(total)
