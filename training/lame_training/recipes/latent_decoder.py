"""The latent decoder of a recipe, which reconstructs texts from latent states during training."""

from __future__ import annotations

from pathlib import Path

from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import BundleError, UsageError
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from lame_training.model.backbones import load_decoder
from lame_training.model.components import decodes
from lame_training.model.from_disk.tensors import inside
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.scratch_backbone import token_ids

PROBE = "The quick brown fox adds 12 and 34; das größte Haus, 数字加起来是十五 🙂\n"
"""A text that two tokenizers split alike only if they are the same for our purposes."""


def latent_decoder(
    recipe: Recipe, folder: Path | None, backbone: PreTrainedModel, tokenizer: TextTokenizer
) -> PreTrainedModel | None:
    """Returns the latent decoder: from its folder, or of the recipe's shape in random weights.

    Returns:
        The decoder; None if the recipe trains without L_rec.

    Raises:
        UsageError: a folder is given for a recipe that has no latent decoder.
        BundleError: the folder's decoder does not read the backbone's tokens.
    """
    if recipe.decoder is None or not decodes(recipe.n_reason, recipe.rec_from):
        if folder is not None:
            raise UsageError(no_decoder(recipe))
        return None
    # a decoder in random weights shares the backbone's vocabulary, and so its token ids
    if folder is None:
        rows = backbone.config.text_config.vocab_size
        config = Qwen3Config(**token_ids(rows, tokenizer), **recipe.decoder)
        return Qwen3ForCausalLM(config).to(backbone.dtype)
    decoder = load_decoder(folder, backbone.dtype)
    # its targets are encoded by the backbone's tokenizer
    if decoder.config.vocab_size < tokenizer.size:
        raise BundleError(
            f"{folder}: knows {decoder.config.vocab_size} tokens, "
            f"the backbone's tokenizer has {tokenizer.size}; use another decoder"
        )
    # weights alone, without a tokenizer, are taken on trust
    own_file = folder / "tokenizer.json"
    if own_file.is_file() and TextTokenizer(inside(own_file)).encode(PROBE) != tokenizer.encode(
        PROBE
    ):
        raise BundleError(
            f"{folder}: its tokenizer is not the backbone's, whose tokens it must reconstruct; "
            "use another decoder"
        )
    return decoder


def no_decoder(recipe: Recipe) -> str:
    """Returns the message about a decoder for a recipe that has none."""
    return f"recipe {recipe.name} has no latent decoder; leave `decoder` out"
