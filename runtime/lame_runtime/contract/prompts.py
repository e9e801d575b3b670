"""One input → the runs of its prompt: literal text, special tokens, and vision tokens."""

from __future__ import annotations

import hashlib
import itertools
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lame_runtime.contract.fields.prompt_layout import SPECIAL_TOKEN
from lame_runtime.contract.media.images import ImageSource
from lame_runtime.contract.media.video import VideoSource
from lame_runtime.contract.rules import PromptLayout

# Only the layout's own strings are split by it, never a user's text.
_SPECIAL = SPECIAL_TOKEN
IMAGE_PLACEHOLDER = "<|image_1|>"
"""MMEB's mark for the picture inside a text. The layout decides where the picture stands, so the
mark is removed."""


@dataclass(frozen=True)
class Picture:
    """One picture, as a part of an input."""

    source: ImageSource


@dataclass(frozen=True)
class Video:
    """One video, as a part of an input."""

    source: VideoSource
    fps: float | None = None
    """Frames per second of a list of frames; None takes the rate that the family samples at."""


Part = str | Picture | Video


@dataclass(frozen=True)
class Input:
    """Texts, pictures and videos that one vector is made from, with an optional instruction.

    Either `content` lists the parts in their order, or `image`, `video` and `text` give one of
    each, in this order.
    """

    text: str = ""
    image: ImageSource | None = None
    """A path, the bytes of an encoded file, a PIL picture, or a page of a PDF (`a.pdf#page=2`)."""
    instruction: str | None = None
    """None takes the role's default instruction from the contract; an empty string means none."""
    video: Video | None = None
    content: tuple[Part, ...] = ()
    given: tuple[Part, ...] = ()
    """The same parts in the order of the dict that the input was made from, if it was one."""

    @property
    def given_parts(self) -> tuple[Part, ...]:
        """The parts in the order in which they were given, texts unchanged, empty ones left out."""
        picture = () if self.image is None else (Picture(self.image),)
        video = () if self.video is None else (self.video,)
        listed = self.given or (*self.content, *picture, *video, self.text)
        return tuple(part for part in listed if part != "")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts in their order, without blank texts.

        `text` is stripped of surrounding white space. The texts of `content` keep theirs, since it
        may separate them from each other.
        """
        listed: list[Part] = [
            part.replace(IMAGE_PLACEHOLDER, "") if isinstance(part, str) else part
            for part in self.content
        ]
        # Pictures and videos before the text: a causal model then reads the text knowing them.
        if self.image is not None:
            listed.append(Picture(self.image))
        if self.video is not None:
            listed.append(self.video)
        listed.append(clean(self.text))
        return tuple(part for part in listed if not (isinstance(part, str) and not part.strip()))

    @property
    def modality(self) -> str:
        """The kinds of parts, such as "text", "image+text", "images" or "video+text"."""
        kinds = [type(part) for part in self.parts]
        named = ((Picture, "image", "images"), (Video, "video", "videos"), (str, "text", "text"))
        return "+".join(
            one if kinds.count(kind) == 1 else many for kind, one, many in named if kind in kinds
        )


@dataclass(frozen=True)
class Run:
    """A stretch of the prompt: literal text, one special token, or one vision token repeated."""

    kind: Literal["text", "special", "image", "video"]
    text: str = ""
    """Literal text, or the special token."""
    fixed: int = 0
    """Number of leading characters of a text that are the layout's and the instruction's, not the
    user's. Truncation keeps them."""
    count: int = 0
    """Number of vision tokens."""
    closing: int = 0
    """Number of trailing characters of a text that are the layout's; truncation keeps them, too."""


def clean(text: str) -> str:
    """Removes MMEB's picture placeholder, and the white space around what is left."""
    return text.replace(IMAGE_PLACEHOLDER, "").strip()


def layout_parts(layout: PromptLayout, item: Input) -> tuple[Part, ...]:
    """Returns the parts of an input in the order that they have in its prompt."""
    if not layout.as_given:
        return item.parts
    # a list of parts, unlike a dict, has an order of its own
    if layout.dict_order == "keys" or (item.content and not item.given):
        return item.given_parts
    media = (Picture, Video) if layout.dict_order == "image_video_text" else (Video, Picture)
    order = (*media, str)
    return tuple(sorted(item.given_parts, key=lambda part: order.index(type(part))))


def layout_runs(
    layout: PromptLayout, parts: Sequence[str | list[Run]], instruction: str
) -> tuple[list[Run], int]:
    """Lays one input out.

    Args:
        layout: the contract's.
        parts: texts, and the runs of each picture or video (`image_runs`, `video_runs`), in order.
        instruction: is a system message, or stands before the first text or at the end.

    Returns:
        The runs in order, with neighboring literal text joined, and the index of the first run that
        closes the prompt and must survive truncation.
    """
    pending = instruction if layout.as_given else clean(instruction)
    if layout.punctuate:
        pending = punctuated(pending)
    # an empty instruction leaves the template's own system message, which is part of the prefix
    if layout.system_open and pending:
        message = Run("text", pending, len(pending))
        runs = [*_parse(layout.system_open), message, *_parse(layout.system_close)]
        pending = ""
    else:
        runs = _parse(layout.prefix)
    for part in parts:
        if not isinstance(part, str):
            runs += part
            continue
        text = f"{pending}{layout.separator}{part}" if pending and part else pending or part
        pending = ""  # the instruction precedes the first text only
        runs.append(Run("text", text, len(text) - len(part)))
    if pending:
        # Without a text: the instruction then comes after the pictures, where a text would.
        runs.append(Run("text", pending, len(pending)))
    # joined once, because joining after every part would copy the text as often as there are parts
    runs = _joined(runs)
    if layout.text_close:
        runs = _closed(runs, layout.text_close)
    return runs + _parse(layout.suffix), len(runs)


def punctuated(instruction: str) -> str:
    """Returns an instruction without white space around it, and with punctuation at its end."""
    instruction = instruction.strip()
    if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
        instruction += "."
    return instruction


def image_runs(layout: PromptLayout, tokens: int) -> list[Run]:
    """Returns a picture's vision tokens between their opening and closing tokens."""
    return [*_parse(layout.image_open), Run("image", count=tokens), *_parse(layout.image_close)]


def video_runs(layout: PromptLayout, tokens: int, seconds: Sequence[float] | None) -> list[Run]:
    """Returns a video's vision tokens between their opening and closing tokens.

    With timestamps, every temporal patch has an opening and closing of its own inside the video's,
    as in transformers 5.23. Older processors put the patches in the place of the video's own
    tokens.

    Args:
        layout: the contract's.
        tokens: number of vision tokens: of one temporal patch with timestamps, else of the video.
        seconds: the time of each temporal patch; None for a layout without timestamps.
    """
    patches = []
    for time in seconds or ():
        # One decimal, as Qwen3-VL's processor writes it.
        timestamp = f"<{time:.1f} seconds>"
        patches += [Run("text", timestamp, len(timestamp)), Run("special", "<|vision_start|>")]
        patches += [Run("video", count=tokens), Run("special", "<|vision_end|>")]
    return [
        *_parse(layout.video_open),
        *(patches or [Run("video", count=tokens)]),
        *_parse(layout.video_close),
    ]


def check_layout(layout: PromptLayout) -> None:
    """Checks that a user's text cannot run into the layout's own closing text.

    Raises:
        ValueError: the suffix begins with literal text, which would be tokenized as one with the
            user's, so that truncation could not tell them apart.
    """
    closing = _parse(layout.suffix)
    if closing and closing[0].kind == "text":
        raise ValueError("the prompt's suffix must begin with a special token")


def _parse(literal: str) -> list[Run]:
    pieces = [piece for piece in _SPECIAL.split(literal) if piece]
    return [
        Run("special", piece) if _SPECIAL.fullmatch(piece) else Run("text", piece, len(piece))
        for piece in pieces
    ]


def _joined(runs: Sequence[Run]) -> list[Run]:
    """Joins neighboring literal texts; the end of the last of them is what truncation may cut.

    Byte-pair encoding merges across borders: tokenized apart, two texts give other ids than the
    whole string that the family's processor tokenizes.
    """
    joined: list[Run] = []
    for kind, neighbors in itertools.groupby(runs, lambda run: run.kind):
        group = list(neighbors)
        if kind != "text" or len(group) == 1:
            joined += group
            continue
        text = "".join(run.text for run in group)
        joined.append(Run("text", text, len(text) - len(group[-1].text) + group[-1].fixed))
    return joined


def _closed(runs: list[Run], close: str) -> list[Run]:
    """Appends plain text, to the last run if that is a text."""
    if runs and runs[-1].kind == "text":
        last = runs[-1]
        return [*runs[:-1], replace(last, text=last.text + close, closing=len(close))]
    return [*runs, Run("text", close, len(close))]


def special_tokens(layout: PromptLayout) -> set[str]:
    """Returns every special token in the layout's literals."""
    runs = (run for literal in layout.literals().values() for run in _parse(literal))
    return {run.text for run in runs if run.kind == "special"}


def source_name(part: Picture | Video) -> str:
    """Returns the identity of a picture or video: its path, a hash, or its frames' paths."""
    source = part.source
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes):
        # A hash instead of the bytes: keys of a whole data set are held in memory.
        return hashlib.blake2b(source, digest_size=16).hexdigest()
    # Rows of data sets name files. A PIL picture has no name, and its `str` holds its address: it
    # equals itself and no other picture.
    return repr([str(frame) for frame in source]) if isinstance(source, Sequence) else str(source)


InputKey = tuple[str, ...]
"""Identity of an input in a data set; see `input_key`."""


def input_key(item: Input) -> InputKey:
    """Returns the identity of an input: two inputs with the same key are the same input."""
    # The kind of a part stands before it: a text that reads like a path is not that picture.
    return (
        item.instruction or "",
        *(
            f"{type(part).__name__} {part if isinstance(part, str) else source_name(part)}"
            for part in item.given_parts
        ),
    )


def distinct_inputs(items: Iterable[Input]) -> list[Input]:
    """Returns the inputs without repetitions, in order of first occurrence."""
    # A dict keeps the place at which a key was first set.
    return list({input_key(item): item for item in items}.values())
