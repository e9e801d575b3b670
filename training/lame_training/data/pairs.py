"""What training is made of: a data set of a mixture, and one of its rows as a pair of inputs with the texts L_rec reconstructs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lame_runtime.contract.images import ImageSource
from lame_runtime.contract.prompts import Input, Part, Picture, Video, clean

TargetSide = Literal["positive", "query", "both", "shared", "none"]


@dataclass(frozen=True)
class DataSet:
    """One training task of a recipe or a mixture.

    `target_side` says which text L_rec reconstructs: "positive" (the query's reason tokens decode the
    positive's text), "query" (the positive's decode the query's text), "both", "shared" (both sides' decode the
    same text, the positive's or else the query's) or "none". `begins` is the share of the stage after which the
    task joins in (a curriculum).
    """

    name: str
    target_side: TargetSide
    weight: float = 1.0
    instruction: str = ""
    """The query's. Where rows hold it in their text (mmeb) it is stripped from what is decoded; elsewhere it is put before the query."""
    begins: float = 0.0
    format: str = "mmeb"
    """One of `formats.FORMATS`."""
    path: tuple[str, ...] = ()
    """Files, folders or globs below the data root (or absolute); without any, see `files.row_files`."""
    images: str = ""
    """The folder that paths of pictures and videos in the rows begin at, below the data root (or absolute)."""
    max_rows: int | None = None
    """At most so many rows, spread evenly over the usable ones."""


@dataclass(frozen=True)
class Pair:
    """One training row. A reconstruction text is None where that side's reason tokens decode nothing."""

    query: Input
    positive: Input
    query_decodes: str | None
    positive_decodes: str | None
    negatives: tuple[Input, ...] = ()


class SkipRow(Exception):  # noqa: N818 - not an error: MMEB's readers drop such rows too
    """A row that cannot be trained on: why, and what in it."""

    def __init__(self, reason: str, example: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.example = example


Row = Mapping[str, Any]
Adapter = Callable[[Row, DataSet, Path], Pair]
"""Reads one row, given the folder its pictures lie in. Raises `SkipRow`, or `InputError` for a row of another shape."""


@dataclass(frozen=True)
class Format:
    """A published layout of rows."""

    read: Adapter
    columns: tuple[str, ...]
    """Must be there."""
    optional: tuple[str, ...] = ()
    """Read where they are there; every other column is left on the disk."""
    target_side: TargetSide = "positive"
    """Unless a mixture says otherwise."""
    instruction: str = ""
    """Unless a mixture says otherwise."""


def parts_of(item: Input) -> tuple[Part, ...]:
    """`item.parts`, but quicker for the inputs of published data sets, whose text is clean: millions are looked at while opening."""
    if item.content:
        return item.parts
    picture = () if item.image is None else (Picture(item.image),)
    video = () if item.video is None else (item.video,)
    return (*picture, *video, item.text) if item.text else (*picture, *video)


def said(item: Input) -> str:
    """The words of an input, without its instruction."""
    return "\n".join(part for part in parts_of(item) if isinstance(part, str)).strip()


def paired(query: Input, positive: Input, data_set: DataSet, negatives: tuple[Input, ...] = ()) -> Pair:
    """The pair, with the texts that `data_set.target_side` asks for; raises `SkipRow` where a side is empty."""
    for side, item in (("query", query), ("positive", positive)):
        if not parts_of(item):
            raise SkipRow(f"empty {side}")
    side = data_set.target_side
    query_text = said(query).removeprefix(data_set.instruction.strip()).strip() if side in ("query", "both", "shared") else ""
    positive_text = said(positive) if side in ("positive", "both", "shared") else ""
    if side == "shared":
        query_text = positive_text = positive_text or query_text
    return Pair(query, positive, positive_text or None, query_text or None, negatives)


def asked(item: Input, data_set: DataSet) -> Input:
    """The query with the data set's instruction, where rows hold none of their own."""
    return replace(item, instruction=data_set.instruction) if data_set.instruction and item.instruction is None else item


def text_input(text: str, image: ImageSource | None = None, video: Video | None = None) -> Input:
    """A text and a picture or video; MMEB's picture placeholder is removed."""
    return Input(clean(text), image, video=video)


def below(images: Path, path: str) -> str:
    """A row's path below the folder of the pictures; an absolute one stays as it is, to be refused when files are looked for."""
    return path if path.startswith("/") else f"{images}/{path}"
