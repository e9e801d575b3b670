"""Checks that a contract and a tokenizer belong to the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lame_runtime.contract.fields.prompt_layout import SPECIAL_TOKEN
from lame_runtime.contract.rules import Contract
from lame_runtime.errors import BundleError, shown

MAX_PADDING = 1 << 18
"""Largest number of rows of an embedding table after the tokenizer's ids. Published tables are
padded by up to 400; with a small tokenizer of its own, a model may leave 152,000 of them unused."""


class Vocabulary(Protocol):
    """Defines what is needed of a tokenizer."""

    @property
    def size(self) -> int:
        """Number of ids."""

    def special(self, token: str) -> int:
        """Returns the id of a special token; raises `BundleError` if there is none."""


def check_vocabulary(contract: Contract, tokenizer: Vocabulary, path: Path) -> None:
    """Checks the ids and special tokens that a contract names.

    Args:
        contract: the contract.
        tokenizer: the tokenizer of the same bundle or checkpoint.
        path: the contract's file, for messages.

    Raises:
        BundleError: an id is not that of its token, a token of the prompt is unknown, or the ids of
            the latent tokens are those of texts.
    """
    tokens, remedy = contract.tokens, "copy or export it again"
    for name, token in (("image_pad", "<|image_pad|>"), ("video_pad", "<|video_pad|>")):
        if (number := getattr(tokens, name)) != (expected := tokenizer.special(token)):
            raise BundleError(
                f"{shown(path)}: tokens.{name} is {number}: must be {expected}, the "
                "tokenizer's id of "
                f"{token}; {remedy}"
            )
    lowest, highest = tokenizer.size, tokenizer.size + MAX_PADDING
    if not lowest <= tokens.first_latent <= highest:
        raise BundleError(
            f"{shown(path)}: tokens.first_latent is {tokens.first_latent}: must be {lowest} to "
            f"{highest}, after the tokenizer's ids; {remedy}"
        )
    for name, literal in contract.prompt.literals().items():
        for token in SPECIAL_TOKEN.findall(literal):
            try:
                tokenizer.special(token)
            except BundleError as error:
                raise BundleError(f"{shown(path)}: prompt.{name}: {error}") from None
