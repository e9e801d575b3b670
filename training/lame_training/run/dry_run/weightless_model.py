"""The model of a run on PyTorch's meta device, to count its parameters without allocating them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from lame_runtime.errors import UsageError
from transformers import PreTrainedConfig, Qwen3Config

from lame_training.model.adapters import add_lora
from lame_training.model.backbones import FAMILIES, config_folder, read_config, read_decoder_config
from lame_training.model.lame import LaMEModel
from lame_training.model.published_shapes import SHAPES
from lame_training.recipes.latent_decoder import no_decoder
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.scratch_backbone import FAMILY, needs_backbone


def weightless_model(recipe: Recipe, backbone: Path | None, decoder: Path | None) -> LaMEModel:
    """Builds the model of a run with all its parameters on the meta device.

    Args:
        recipe: the recipe.
        backbone: the backbone's folder; None takes the recipe's own backbone, or the published
            shape that the recipe is made for.
        decoder: the latent decoder's folder; None takes the recipe's shape.

    Raises:
        UsageError: the recipe needs a backbone, or has no latent decoder.
        BundleError: a folder cannot be used.
    """
    config = _backbone_config(recipe, backbone)
    decoder_config = _decoder_config(recipe, config, decoder)
    # buffers are computed rather than loaded, so they stay real
    with init_empty_weights(include_buffers=False):
        model = LaMEModel.from_configs(
            config,
            decoder_config,
            recipe.n_reason,
            recipe.dim,
            recipe.embed_attends,
            recipe.rec_from,
            recipe.pooling,
        )
        if recipe.lora is not None:
            add_lora(model.backbone, recipe.lora)
    if model.decoder is not None:
        # parameters are registered one by one on the meta device, which unties them: a tied table
        # would be counted twice
        model.decoder.tie_weights()
    return model


def _backbone_config(recipe: Recipe, backbone: Path | None) -> PreTrainedConfig:
    """Returns the config of the run's backbone."""
    if backbone is not None:
        return read_config(config_folder(backbone))
    if recipe.scratch is not None:
        scratch = recipe.scratch.config
        text_config = {**scratch["text_config"], **_token_ids(recipe.scratch.vocab_size)}
        return FAMILIES[FAMILY].config(**{**scratch, "text_config": text_config})
    if recipe.published_shape is not None:
        family, _ = recipe.published_shape
        return FAMILIES[family].config(**SHAPES[recipe.published_shape])
    raise UsageError(needs_backbone(recipe))


def _decoder_config(
    recipe: Recipe, backbone: PreTrainedConfig, decoder: Path | None
) -> Qwen3Config | None:
    """Returns the config of the run's latent decoder; None if the recipe has none."""
    if recipe.decoder is None:
        if decoder is not None:
            raise UsageError(no_decoder(recipe))
        return None
    if decoder is not None:
        return read_decoder_config(decoder)
    # a shape that names its own vocabulary keeps it
    return Qwen3Config(**{**_token_ids(backbone.text_config.vocab_size), **recipe.decoder})


def _token_ids(rows: int) -> dict[str, Any]:
    """Returns a config's entries about the vocabulary.

    No tokenizer is trained for a dry run, so the end token is any id: only the sizes count.
    """
    return {"vocab_size": rows, "bos_token_id": None, "eos_token_id": 2}
