"""One input → the runs of its prompt: literal text, special tokens, and the place of the picture."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from lame_runtime.contract.rules import PromptLayout
from lame_runtime.errors import InputError

_SPECIAL = re.compile(r"(<\|[a-z_]+\|>)")
IMAGE_PLACEHOLDER = "<|image_1|>"
"""MMEB's mark for the picture inside a text; the picture's place is the layout's, so it is removed."""


@dataclass(frozen=True)
class Input:
    """What one vector is made from: a picture, a text or both, and optionally an instruction."""

    text: str = ""
    image: str | os.PathLike[str] | bytes | Image.Image | None = None
    """A path, the bytes of an encoded file, or a PIL picture."""
    instruction: str | None = None
    """None takes the role's default instruction from the contract; an empty string means none at all."""

    @property
    def modality(self) -> Literal["text", "image", "image+text"]:
        """The kinds of content present."""
        if self.image is None:
            return "text"
        return "image+text" if self.text else "image"


@dataclass(frozen=True)
class Run:
    """A stretch of the prompt: literal text, one special token, or the picture's vision tokens."""

    kind: Literal["text", "special", "image"]
    text: str = ""
    fixed: int = 0
    """Leading characters of a text that are not the user's: the layout's and the instruction's. Truncation keeps them."""


def clean(text: str) -> str:
    """Removes MMEB's picture placeholder and the white space around what is left."""
    return text.replace(IMAGE_PLACEHOLDER, "").strip()


def layout_runs(layout: PromptLayout, item: Input, role: str | None) -> tuple[list[Run], int]:
    """Lays one input out.

    Returns:
        The runs in order, with neighbouring literal text joined (so that it is tokenised as one), and
        the index of the first run that closes the prompt and must survive truncation.

    Raises:
        InputError: neither text nor picture, or a role the contract does not know.
    """
    if role is not None and role not in layout.roles:
        raise InputError(f"unknown role {role!r}: use one of {sorted(layout.roles)}")
    text = clean(item.text)
    if item.image is None and not text:
        raise InputError("the input is empty: give a text, a picture or both")
    instruction = item.instruction
    if instruction is None:
        instruction = layout.roles[role] if role is not None else ""
    instruction = clean(instruction)
    body = layout.separator.join(part for part in (instruction, text) if part)
    fixed = len(body) - len(text)

    runs: list[Run] = _parse(layout.prefix)
    if item.image is not None:
        runs.append(Run("image"))
    if body:
        if runs and runs[-1].kind == "text":
            runs[-1] = Run("text", runs[-1].text + body, len(runs[-1].text) + fixed)
        else:
            runs.append(Run("text", body, fixed))
    closing = _parse(layout.suffix)
    if closing and closing[0].kind == "text" and runs and runs[-1].kind == "text":
        raise InputError("the contract's suffix must begin with a special token; retrain with a valid layout")
    return runs + closing, len(runs)


def _parse(literal: str) -> list[Run]:
    pieces = [piece for piece in _SPECIAL.split(literal) if piece]
    return [Run("special" if _SPECIAL.fullmatch(piece) else "text", piece) for piece in pieces]
