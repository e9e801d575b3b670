"""The prompt's part of `contract.json`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from lame_runtime.errors import shown
from lame_runtime.files.constraints import Length, Name, Text

SPECIAL_TOKEN = re.compile(r"(<\|[a-z_]+\|>|<[a-z]+_emb>)")
"""The forms of special tokens: those of the families' chat templates, and those that embedders add
to be pooled, such as UME-R1's <disc_emb>."""
VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>")
"""Special tokens whose places the features of pictures and videos take."""
Literals = Annotated[str, Text(65_536)]
"""A part of the prompt; a published one has about 60 characters."""
DictOrder = Literal["keys", "image_video_text", "video_image_text"]
"""Orders of the parts of a dict."""


@dataclass(frozen=True)
class PromptLayout:
    """How an input becomes one string. `<|…|>` tokens inside these strings are special tokens.

    The order is `prefix`, the input's parts in their own order, `text_close`, `suffix`. The
    instruction stands before the first text, joined to it by `separator`, or after the last part if
    there is no text.
    If `system_open` is not empty, the instruction is a system message instead: `system_open`, the
    instruction and `system_close` then take the place of `prefix`.
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
    system_open: Literals = ""
    """Stands before an instruction that is a system message; empty if instructions are not."""
    system_close: Literals = ""
    """Stands after an instruction that is a system message, up to the first part."""
    default_role: Name | None = None
    """Role of inputs that are embedded without one; None gives them no instruction."""
    as_given: bool = False
    """Whether the parts of a dict keep the order of its keys, and texts their white space.

    Otherwise pictures and videos precede the text, and white space around texts is removed, as is
    MMEB's placeholder for a picture.
    """
    dict_order: DictOrder = "keys"
    """Order of the parts of a dict if `as_given` is true; a list of parts always keeps its own."""
    punctuate: bool = False
    """Whether an instruction is stripped, and ended by a full stop unless its last character is
    punctuation (category P of Unicode)."""
    text_close: Literals = ""
    """Plain text after the last part, which is tokenized as one with a text there."""

    def contradictions(self) -> Iterator[str]:
        """Yields what is wrong with strings that are each in their range."""
        for name, literal in self.literals().items():
            for token in VISION_TOKENS:
                if token in literal:
                    # it would stand for a picture that the input does not have
                    yield f"prompt.{name} holds {token}: only pictures and videos have it"
        if self.system_close and not self.system_open:
            yield "prompt.system_close is given without prompt.system_open: give both or neither"
        if self.default_role is not None and self.default_role not in self.roles:
            yield f"prompt.default_role is {shown(self.default_role)!r}: must be in prompt.roles"
        # Literal text would be tokenized as one with the user's, so that truncation could not tell
        # them apart.
        if self.suffix and not SPECIAL_TOKEN.match(self.suffix):
            yield f"prompt.suffix is {shown(self.suffix)!r}: must begin with a special token"

    def literals(self) -> dict[str, str]:
        """Returns the strings in which `<|…|>` tokens are special tokens, by name of their field.

        Instructions, the separator and `text_close` are tokenized as plain text.
        """
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.type == "Literals" and field.name not in ("separator", "text_close")
        }
