"""The prompt's part of `contract.json`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from lame_runtime.errors import shown
from lame_runtime.files.constraints import Length, Name, Text

SPECIAL_TOKEN = re.compile(r"(<\|[a-z_]+\|>)")
"""The form of all special tokens in the families' chat templates."""
VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>")
"""Special tokens whose places the features of pictures and videos take."""
Literals = Annotated[str, Text(65_536)]
"""A part of the prompt; a published one has about 60 characters."""


@dataclass(frozen=True)
class PromptLayout:
    """How an input becomes one string. `<|…|>` tokens inside these strings are special tokens.

    The order is `prefix`, the input's parts in their own order, `suffix`. The instruction stands
    before the first text, joined to it by `separator`, or after the last part if there is no text.
    """

    prefix: Literals
    suffix: Literals
    separator: Literals
    roles: Annotated[dict[Name, Literals], Length(1000)]
    """Instruction for each role ("query", "document"), for inputs that have none of their own."""
    image_open: Literals = "<|vision_start|>"
    """Stands before a picture's vision tokens."""
    image_close: Literals = "<|vision_end|>"
    """Stands after a picture's vision tokens."""
    video_open: Literals = "<|vision_start|>"
    """Stands before a video's vision tokens."""
    video_close: Literals = "<|vision_end|>"
    """Stands after a video's vision tokens."""

    def contradictions(self) -> Iterator[str]:
        """Yields what is wrong with strings that are each in their range."""
        for field in dataclasses.fields(self):
            literal = getattr(self, field.name)
            # instructions and separator are tokenized as plain text
            if field.name in ("roles", "separator"):
                continue
            for token in VISION_TOKENS:
                if token in literal:
                    # it would stand for a picture that the input does not have
                    yield f"prompt.{field.name} holds {token}: only pictures and videos have it"
        # Literal text would be tokenized as one with the user's, so that truncation could not tell
        # them apart.
        if self.suffix and not SPECIAL_TOKEN.match(self.suffix):
            yield f"prompt.suffix is {shown(self.suffix)!r}: must begin with a special token"
