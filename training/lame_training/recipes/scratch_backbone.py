"""The contract and the config of a backbone that a recipe trains from random weights."""

from __future__ import annotations

from typing import Any

from lame_runtime.contract import Contract, TokenRules, TowerRules
from lame_runtime.contract.tokens import TextTokenizer
from transformers import Qwen2VLConfig

from lame_training.contract_from.budget import limits, within_budget
from lame_training.contract_from.published_rules import published_videos
from lame_training.contract_from.tokenizer_training import CHAT_END, END
from lame_training.recipes.recipe import Recipe, Scratch

FAMILY = "qwen2_vl"
"""The family of every backbone that is trained from random weights."""


def scratch_contract(recipe: Recipe, scratch: Scratch, tokenizer: TextTokenizer) -> Contract:
    """Returns the contract of a model that is trained from random weights.

    Args:
        recipe: K, P and the budget.
        scratch: the recipe's backbone.
        tokenizer: the tokenizer that was trained for the run.
    """
    tokens = TokenRules(
        image_pad=tokenizer.special("<|image_pad|>"),
        video_pad=tokenizer.special("<|video_pad|>"),
        pad=tokenizer.special(END),
        # reason tokens and [EMBED] take the ids right after the embedding table's last row
        first_latent=scratch.vocab_size,
        n_reason=recipe.n_reason,
        max_length=recipe.budget.max_length,
    )
    images = scratch.images
    return Contract(
        family=FAMILY,
        dim=recipe.dim,
        prompt=scratch.prompt,
        tokens=tokens,
        images=images,
        # the published rules would sample more frames than the recipe's prompts can hold
        videos=within_budget(published_videos(FAMILY), images, recipe.budget),
        tower=TowerRules(),
        limits=limits(recipe.budget, images),
    )


def scratch_config(scratch: Scratch, tokenizer: TextTokenizer) -> Qwen2VLConfig:
    """Returns the config of a backbone that is trained from random weights."""
    # a copy, because the recipe is shared by all runs of the process
    text_config = {**scratch.config["text_config"], **token_ids(scratch.vocab_size, tokenizer)}
    return Qwen2VLConfig(
        **{**scratch.config, "text_config": text_config},
        image_token_id=tokenizer.special("<|image_pad|>"),
        video_token_id=tokenizer.special("<|video_pad|>"),
        vision_start_token_id=tokenizer.special("<|vision_start|>"),
        vision_end_token_id=tokenizer.special("<|vision_end|>"),
    )


def token_ids(rows: int, tokenizer: TextTokenizer) -> dict[str, Any]:
    """Returns a config's entries about the vocabulary: its `rows` in the table, and special ids."""
    # Qwen's texts have no start token, and end as a turn of a chat does
    return {"vocab_size": rows, "bos_token_id": None, "eos_token_id": tokenizer.special(CHAT_END)}


def needs_backbone(recipe: Recipe) -> str:
    """Returns the message about a recipe that was given no backbone."""
    return f"recipe {recipe.name} needs a backbone: give the folder of one as `backbone`"
