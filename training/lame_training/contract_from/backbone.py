"""Derives the contract of a LaME model from a backbone folder.

It is read from `tokenizer.json`, `config.json`, the processor files and the chat template. If one
of the latter two is missing, the family's published values take its place. In either case the
contract holds the values themselves, and the runtime needs nothing else. The budgets for tokens,
pixels and frames are the recipe's; they only ever lower the folder's limits.
"""

from __future__ import annotations

from pathlib import Path

from lame_runtime.contract import Contract, PromptLayout, TokenRules, TowerRules
from lame_runtime.contract.prompts import special_tokens
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import BundleError, first_line, shown
from transformers import PreTrainedConfig

from lame_training.contract_from.budget import Budget, limits
from lame_training.contract_from.chat_template import layout_from_template, read_template
from lame_training.contract_from.processor_files import check_numbers, image_rules, video_rules
from lame_training.contract_from.tokenizer_training import CHAT_END, END
from lame_training.model.backbones import config_folder, family_of, read_config
from lame_training.model.from_disk.tensors import inside


def derive_contract(
    folder: Path,
    budget: Budget,
    n_reason: int,
    dim: int,
    roles: dict[str, str],
    prompt: PromptLayout | None = None,
    tokenizer_content: bytes | None = None,
    *,
    has_embed: bool = True,
) -> Contract:
    """Derives the contract of a LaME model on a backbone, or of a published embedder.

    Args:
        folder: a `save_pretrained` folder, or the folder of a PEFT adapter of one.
        budget: the recipe's limits.
        n_reason: K, the number of reason tokens.
        dim: P, the length of the embedding.
        roles: default instructions by role.
        prompt: the prompt of a published embedder; None takes that of the folder's chat template.
        tokenizer_content: what takes the place of the folder's `tokenizer.json`; None reads it.
        has_embed: whether [EMBED] follows the prompt. A published embedder that is used as it is
            has none, and keeps its own limits for videos.

    Raises:
        BundleError: a file cannot be read or used, or two files contradict each other.
    """
    folder = config_folder(folder)
    config = read_config(folder)
    tokenizer = TextTokenizer(
        inside(folder / "tokenizer.json"),
        remedy="copy the backbone's tokenizer.json again",
        content=tokenizer_content,
    )
    try:
        images = image_rules(folder, config, budget)
        # lower limits would change the vectors that a published model gives; what is too long for
        # the longest prompt is refused
        videos = video_rules(folder, config, images, budget if has_embed else None)
        check_numbers(images, videos)
    # the files hold arbitrary JSON: a list in place of a number, a missing channel, a zero
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise BundleError(
            f"{folder}: its processor files cannot be used ({shown(first_line(error))}); "
            "copy them again"
        ) from None
    if prompt is None:
        template = read_template(folder, family_of(config))
        prompt = layout_from_template(template, dict(roles), folder)
    check_tokens(folder, config, tokenizer, prompt)
    tokens = TokenRules(
        image_pad=config.image_token_id,
        video_pad=config.video_token_id,
        pad=tokenizer.special(END),
        # not the tokenizer's size: the embedding table is often larger, and latent rows follow it
        first_latent=config.text_config.vocab_size,
        n_reason=n_reason,
        max_length=budget.max_length,
        has_embed=has_embed,
    )
    contract = Contract(
        family_of(config),
        dim,
        prompt,
        tokens,
        images,
        videos,
        tower_rules(config),
        limits(budget, images),
    )
    try:
        # what no runtime would read is refused now, and not when the checkpoint is written
        contract.to_json()
    except BundleError as error:
        raise BundleError(f"{folder}: gives no contract ({error})") from None
    return contract


def tower_rules(config: PreTrainedConfig) -> TowerRules:
    """Returns what the host computes for the vision tower: attention windows and position grids."""
    vision = config.vision_config
    merge = vision.spatial_merge_size
    # Qwen2.5-VL gives the window in pixels; the contract counts patches, in whole merged tokens
    window = getattr(vision, "window_size", 0) // merge // vision.patch_size * merge
    # Qwen3-VL gives the number of learned positions, which form a square
    return TowerRules(window, int(getattr(vision, "num_position_embeddings", 0) ** 0.5))


def check_tokens(
    folder: Path, config: PreTrainedConfig, tokenizer: TextTokenizer, prompt: PromptLayout
) -> None:
    """Raises `BundleError` if tokenizer and config belong to different models."""
    # looked up because `special` raises for a token that the vocabulary lacks
    for token in sorted({*special_tokens(prompt), END, CHAT_END}):
        tokenizer.special(token)
    for token, expected in (
        ("<|image_pad|>", config.image_token_id),
        ("<|video_pad|>", config.video_token_id),
    ):
        if (number := tokenizer.special(token)) != expected:
            raise BundleError(
                f"{folder}: {token} is {number} in tokenizer.json and {expected} in config.json; "
                "they belong to two models"
            )
    if tokenizer.size > config.text_config.vocab_size:
        raise BundleError(
            f"{folder}: tokenizer.json has {tokenizer.size} tokens, the embedding table only "
            f"{config.text_config.vocab_size} rows; they belong to two models"
        )
