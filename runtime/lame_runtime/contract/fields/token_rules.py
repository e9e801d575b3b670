"""The tokens' part of `contract.json`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from lame_runtime.files.constraints import Between

TokenId = Annotated[int, Between(0, (1 << 24) - 1)]


@dataclass(frozen=True)
class TokenRules:
    """Ids of the tokens that the contract places itself, and the number of latent rows."""

    image_pad: TokenId
    """Id of a picture's vision tokens."""
    video_pad: TokenId
    """Id of a video's vision tokens."""
    pad: TokenId
    """Id that shorter rows of a batch are filled with."""
    first_latent: TokenId
    """Id of [REASON]_0; [REASON]_i is `first_latent + i`, [EMBED] is `first_latent + n_reason`."""
    n_reason: Annotated[int, Between(0, 4096)]
    """Number K of reason tokens after the prompt; [EMBED] follows them."""
    max_length: Annotated[int, Between(1, 1 << 20)]
    """Longest prompt in tokens, pictures included, latent rows excluded."""
    has_embed: bool = True
    """Whether [EMBED] follows the prompt; without it, the prompt's last token takes its part."""
    positions: Literal["mrope", "sequential"] = "mrope"
    """How positions are counted: M-RoPE, or one by one on all three axes, as the code of some
    published embedders does also for pictures."""

    @property
    def n_latents(self) -> int:
        """Number of latent ids after a prompt: K + 1, or 0 without [EMBED]."""
        return self.n_reason + self.has_embed

    def contradictions(self) -> Iterator[str]:
        """Yields what is wrong with values that are each in their range."""
        if len({self.image_pad, self.video_pad, self.pad}) < 3:
            numbers = f"{self.image_pad}, {self.video_pad} and {self.pad}"
            yield f"tokens.image_pad, tokens.video_pad and tokens.pad are {numbers}: must differ"
        if self.n_reason and not self.has_embed:
            yield f"tokens.n_reason is {self.n_reason}: must be 0 without tokens.has_embed"
