"""One input → the runs of its prompt: literal text, special tokens, and vision tokens."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lame_runtime.contract.images import ImageSource
from lame_runtime.contract.rules import PromptLayout
from lame_runtime.contract.video import VideoSource
from lame_runtime.errors import InputError

_SPECIAL = re.compile(r"(<\|[a-z_]+\|>)")
IMAGE_PLACEHOLDER = "<|image_1|>"
"""MMEB's mark for the picture inside a text; the picture's place is the layout's, so it is removed."""


@dataclass(frozen=True)
class Picture:
    """A part of an input: one picture."""

    source: ImageSource


@dataclass(frozen=True)
class Video:
    """A part of an input: one video."""

    source: VideoSource
    fps: float | None = None
    """Frames per second of a list of frames; None takes the rate the family samples at."""


Part = str | Picture | Video


@dataclass(frozen=True)
class Input:
    """What one vector is made from: texts, pictures and videos, and optionally an instruction.

    Either `content` lists the parts in their order, or `image`, `video` and `text` give one of each, in this order.
    """

    text: str = ""
    image: ImageSource | None = None
    """A path, the bytes of an encoded file, a PIL picture, or a page of a PDF (`a.pdf#page=2`)."""
    instruction: str | None = None
    """None takes the role's default instruction from the contract; an empty string means none at all."""
    video: Video | None = None
    content: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts in their order. Blank texts are left out, and `text` is cleaned; those of `content` keep their white space."""
        listed: list[Part] = [each.replace(IMAGE_PLACEHOLDER, "") if isinstance(each, str) else each for each in self.content]
        if self.image is not None:
            listed.append(Picture(self.image))
        if self.video is not None:
            listed.append(self.video)
        listed.append(clean(self.text))
        return tuple(part for part in listed if not (isinstance(part, str) and not part.strip()))

    @property
    def modality(self) -> str:
        """The kinds of content present, such as "text", "image+text", "images", "video+text"."""
        kinds = [type(part) for part in self.parts]
        named = ((Picture, "image", "images"), (Video, "video", "videos"), (str, "text", "text"))
        return "+".join(one if kinds.count(kind) == 1 else many for kind, one, many in named if kind in kinds)


@dataclass(frozen=True)
class Run:
    """A stretch of the prompt: literal text, one special token, or one vision token repeated."""

    kind: Literal["text", "special", "image", "video"]
    text: str = ""
    fixed: int = 0
    """Leading characters of a text that are not the user's: the layout's and the instruction's. Truncation keeps them."""
    count: int = 0
    """Vision tokens."""


def clean(text: str) -> str:
    """Removes MMEB's picture placeholder and the white space around what is left."""
    return text.replace(IMAGE_PLACEHOLDER, "").strip()


def layout_runs(layout: PromptLayout, parts: Sequence[str | list[Run]], instruction: str) -> tuple[list[Run], int]:
    """Lays one input out.

    Args:
        layout: the contract's.
        parts: texts, and the runs of each picture or video (`image_runs`, `video_runs`), in their order.
        instruction: stands before the first text, or at the end.

    Returns:
        The runs in order, with neighbouring literal text joined (so that it is tokenised as one), and
        the index of the first run that closes the prompt and must survive truncation.
    """
    runs = _parse(layout.prefix)
    pending = clean(instruction)
    for part in parts:
        if not isinstance(part, str):
            runs = _joined([*runs, *part])
            continue
        said, pending = layout.separator.join(each for each in (pending, part) if each), ""
        runs = _joined([*runs, Run("text", said, len(said) - len(part))])
    if pending:
        runs = _joined([*runs, Run("text", pending, len(pending))])
    return runs + _parse(layout.suffix), len(runs)


def image_runs(layout: PromptLayout, tokens: int) -> list[Run]:
    """A picture's vision tokens between its opening and closing."""
    return [*_parse(layout.image_open), Run("image", count=tokens), *_parse(layout.image_close)]


def video_runs(layout: PromptLayout, tokens: int, seconds: Sequence[float] | None) -> list[Run]:
    """A video's vision tokens between its opening and closing.

    With timestamps every temporal patch has an opening and closing of its own inside the video's, as transformers 5.23 has it
    (older processors put the patches in the place of the video's own).

    Args:
        layout: the contract's.
        tokens: of one temporal patch.
        seconds: the time of each temporal patch.
    """
    frames = []
    for time in seconds or ():
        announced = f"<{time:.1f} seconds>"
        frames += [Run("text", announced, len(announced)), Run("special", "<|vision_start|>")]
        frames += [Run("video", count=tokens), Run("special", "<|vision_end|>")]
    return [*_parse(layout.video_open), *(frames or [Run("video", count=tokens)]), *_parse(layout.video_close)]


def role_instruction(layout: PromptLayout, item: Input, role: str | None) -> str:
    """The instruction an input is embedded with; raises `InputError` for a role the contract does not know."""
    if role is not None and role not in layout.roles:
        raise InputError(f"unknown role {role!r}: use one of {sorted(layout.roles)}")
    if item.instruction is not None:
        return item.instruction
    return layout.roles[role] if role is not None else ""


def check_layout(layout: PromptLayout) -> None:
    """Raises `ValueError` where a user's text would run into the layout's own closing text."""
    closing = _parse(layout.suffix)
    if closing and closing[0].kind == "text":
        raise ValueError("the prompt's suffix must begin with a special token")


def _parse(literal: str) -> list[Run]:
    pieces = [piece for piece in _SPECIAL.split(literal) if piece]
    return [Run("special", piece) if _SPECIAL.fullmatch(piece) else Run("text", piece, len(piece)) for piece in pieces]


def _joined(runs: Sequence[Run]) -> list[Run]:
    """Neighbouring literal texts as one; the last of them is the one whose end may be cut."""
    joined: list[Run] = []
    for run in runs:
        if run.kind == "text" and joined and joined[-1].kind == "text":
            before = joined.pop()
            run = Run("text", before.text + run.text, len(before.text) + run.fixed)
        joined.append(run)
    return joined


def special_tokens(layout: PromptLayout) -> set[str]:
    """Every special token the layout's literals use."""
    literals = (layout.prefix, layout.suffix, layout.image_open, layout.image_close, layout.video_open, layout.video_close)
    return {run.text for literal in literals for run in _parse(literal) if run.kind == "special"}


def source_name(part: Picture | Video) -> str:
    """How a data set's rows tell a picture or video from another: its path, a hash of its bytes, or the paths of its frames."""
    source = part.source
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes):
        return hashlib.blake2b(source, digest_size=16).hexdigest()
    return repr([str(each) for each in source]) if isinstance(source, Sequence) else str(source)
