"""An estimate of the memory that one process of a run needs."""

from __future__ import annotations

from lame_training.model.lame import LaMEModel
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.stages import trained_names

TOKENS = 1024
"""Tokens of an input that the estimate is made for, unless the recipe's limit is lower."""
TARGET = 64
"""Tokens of a reconstructed text that the estimate is made for."""


def memory(recipe: Recipe, model: LaMEModel) -> dict[str, int]:
    """Estimates the bytes of one process that shares no parameters with others.

    Args:
        recipe: the recipe.
        model: its model; the parameters may be on the meta device.

    Returns:
        Bytes by purpose, at the stage that needs most of each.
    """
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    trained = trained_names(model, recipe.stages)
    # see `loop.place`: weights that no stage trains are held in the precision's type
    half = recipe.precision == "bf16"
    weights = sum(size * (2 if half and name not in trained else 4) for name, size in sizes.items())
    # gradients and moments exist for the parameters of the current stage only
    updated = max(
        sum(sizes[name] for name in trained_names(model, [stage])) for stage in recipe.stages
    )
    tokens = min(TOKENS, recipe.budget.max_length)
    return {
        "weights": weights,
        # FP32
        "gradients": 4 * updated,
        # two of them, in FP32
        "Adam's moments": 8 * updated,
        "activations": activations(recipe, model, inputs_with_graph(recipe), tokens),
    }


def inputs_with_graph(recipe: Recipe) -> int:
    """Returns how many inputs have a graph at the same time."""
    # with GradCache the second pass goes through the chunks one at a time
    if recipe.gradcache:
        return recipe.chunk
    # a row is a query and a positive
    return 2 * max(stage.batch_size for stage in recipe.stages)


def activations(
    recipe: Recipe, model: LaMEModel, inputs: int, tokens: int, target: int = TARGET
) -> int:
    """Estimates the bytes that are kept for the backward pass.

    Counted are the language model and the latent decoder; a frozen vision tower keeps nothing. A
    block keeps about 48 bytes per token and unit of width, and 16 per token and unit of its MLP, in
    FP32 and in BF16 under autocast alike. These were counted on blocks of Qwen2-VL and Qwen3-VL,
    whose rotations and norms are kept in FP32. With gradient checkpointing, a block keeps its input
    alone.

    Args:
        recipe: whether activations are recomputed, and K.
        model: the shapes.
        inputs: number of inputs with a graph at the same time.
        tokens: length of each input.
        target: length of each reconstructed text.
    """
    text = model.backbone.config.text_config
    block = 48 * text.hidden_size + 16 * text.intermediate_size
    if getattr(text, "num_experts", 0):
        # of its experts, and per expert the rows that are sorted for it and its output
        own = 16 * text.moe_intermediate_size + 8 * text.hidden_size
        block = 48 * text.hidden_size + text.num_experts_per_tok * own
    layers: int = text.num_hidden_layers
    if recipe.gradient_checkpointing:
        # the inputs of all blocks, and one block that is being recomputed
        per_token = 4 * text.hidden_size * layers + block
    else:
        per_token = block * layers
    total = inputs * tokens * per_token
    if model.decoder is not None:
        config = model.decoder.config
        block = 48 * config.hidden_size + 16 * config.intermediate_size
        rows = recipe.n_reason + 1 + target
        # logits, their FP32 copy and its gradient
        logits = (target + 1) * config.vocab_size * 12
        total += inputs * (rows * block * config.num_hidden_layers + logits)
    return int(total)
