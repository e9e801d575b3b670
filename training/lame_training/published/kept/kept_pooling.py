"""Makes [EMBED] start as the token that a published embedder pools.

A published embedder pools the state of its prompt's last token, or the mean over all states. If
the prompt ends before that token, and [EMBED] starts with the token's embedding, then a model
without reason tokens returns the published vectors before its first step. Reason tokens stand
before [EMBED], so that it reads them as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lame_runtime.contract import PromptLayout
from lame_runtime.contract.fields.prompt_layout import SPECIAL_TOKEN
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import BundleError, UsageError

from lame_training.model.lame import Head, LaMEModel, Pooling
from lame_training.published.kept.published_head import fill_head, head_kind
from lame_training.published.module_folders import Dense
from lame_training.published.sentence_transformers import PublishedEmbedder
from lame_training.recipes.recipe import Recipe


@dataclass(frozen=True)
class KeptPooling:
    """The pooling that a model takes over.

    Attributes:
        pooling: the states that the head reads.
        head: the kind of the head.
        dense: the published dense layer, if there is one.
        token: id of the token whose embedding [EMBED] starts with.
    """

    pooling: Pooling
    head: Head
    dense: Dense | None
    token: int

    @torch.no_grad()
    def start(self, model: LaMEModel) -> None:
        """Sets [EMBED] and the head of a model that was made with `pooling` and `head`."""
        table = model.backbone.get_input_embeddings().weight
        model.embed_1D.copy_(table[self.token])
        fill_head(model.head, self.dense)


def kept_pooling(facts: PublishedEmbedder, recipe: Recipe, folder: Path, token: int) -> KeptPooling:
    """Returns the pooling of a published embedder for a recipe's model.

    Args:
        facts: what its folder says.
        recipe: the recipe that is trained.
        folder: the folder, for messages.
        token: id of the pooled token.

    Raises:
        UsageError: the recipe's model cannot have this pooling.
    """
    if recipe.embed_attends != "everything":
        raise UsageError(
            f"recipe {recipe.name}: [EMBED] sees the reason tokens alone, so that nothing of the "
            "published pooling is left; leave `pooling` out"
        )
    dense = facts.dense
    if dense is not None and recipe.dim > len(dense.weight):
        raise UsageError(
            f"recipe {recipe.name}: `dim` is {recipe.dim}, and the dense layer of {folder} returns "
            f"{len(dense.weight)} values; use a recipe with fewer, or leave `pooling` out"
        )
    pooling: Pooling = "mean" if facts.pooling == "mean" else "embed"
    return KeptPooling(pooling, head_kind(dense), dense, token)


def without_last_token(
    layout: PromptLayout, tokenizer: TextTokenizer, folder: Path
) -> tuple[PromptLayout, int]:
    """Returns a layout that ends before its last token, and the id of that token.

    Raises:
        BundleError: prompts end with the input's own text, or with a token that cannot be taken
            away from the text before it.
    """
    pieces = [piece for piece in SPECIAL_TOKEN.split(layout.suffix) if piece]
    if not pieces:
        raise BundleError(
            f"{folder}: its prompts end with the input's own text, so that there is no token for "
            "[EMBED] to start from; leave `pooling` out"
        )
    last = pieces[-1]
    if SPECIAL_TOKEN.fullmatch(last):
        return replace(layout, suffix=layout.suffix.removesuffix(last)), tokenizer.special(last)
    *others, number = tokenizer.encode(last)
    shorter = last.removesuffix(tokenizer.decode([number]))
    # a token may be a part of a character, or be split otherwise without what follows it
    if tokenizer.encode(shorter) != others:
        raise BundleError(
            f"{folder}: the last token of its prompts cannot be taken away from the text before "
            "it; leave `pooling` out"
        )
    return replace(layout, suffix=layout.suffix.removesuffix(last) + shorter), number
